"""What a training run leaves on disk: checkpoints that are whole or absent, the newest few, and a table of losses."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gdui.runs import OtherSettingsError, atomic_path
from gdui.training.ranks import place

__all__ = ["History", "Saved", "optimiser_tensors", "restore_optimiser"]

log = logging.getLogger(__name__)
VERSION = 1  # of the seal
FIELDS = ("step", "loss", "gradient_norm", "rate", "pictures_per_second", "seconds", "waited")


@dataclass(frozen=True)
class Saved:
    """One checkpoint: after which step, the facts of the run, every tensor by name, and what decided its last bits."""

    step: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    rounding: Mapping[str, int | str] = field(default_factory=dict)


class _Tensors(dict[str, Tensor]):
    """The tensors of a file by name; one that it lacks is named together with the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(load_file(path))
        self._path = path

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(_lacking(self._path, name))


class History:
    """Checkpoints `step-NNNNNNNN.safetensors`, each with a .json that seals it, and losses.csv, in one folder.

    Where TensorBoard is installed the losses go to it as well.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self._board: Any = None

    def save(self, saved: Saved) -> Path:
        """Writes the tensors, then the seal; a checkpoint without its seal doesn't exist."""
        path = self.folder / f"step-{saved.step:08d}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in saved.tensors.items()}, temporary)
            digest = _digest(temporary)
        with atomic_path(path.with_suffix(".json")) as seal:
            told = {"version": VERSION, "step": saved.step, "sha256": digest, "rounding": rounding()}
            told |= {"facts": dict(saved.facts)}
            seal.write_text(json.dumps(told, indent=1))
        self._prune(saved.step)
        if self._board:
            self._board.flush()
        return path

    def newest(self) -> Saved | None:
        """The last whole checkpoint; one whose bytes have changed since is named and passed over."""
        for seal in reversed(self._sealed()):
            path, told = seal.with_suffix(".safetensors"), _read_seal(seal)
            if told and path.exists() and _digest(path) == told["sha256"]:
                return Saved(told["step"], told["facts"], _Tensors(path), told.get("rounding", {}))
            log.warning("%s is damaged; going back to the checkpoint before it", path)
        return None

    def resume(self, recipe: Mapping[str, Any], steps: int) -> Saved | None:
        """The newest checkpoint, refused if it was begun with another recipe (`steps` may differ)."""
        saved = self.newest()
        if saved is not None:
            self._agree(saved, recipe)
            log.info("going on after step %d", saved.step)
            if saved.step < steps:
                self._warn(saved)
        if place()[0] == 0:
            self._tidy(saved.step if saved else 0)
        return saved

    def _agree(self, saved: Saved, recipe: Mapping[str, Any]) -> None:
        if "recipe" not in saved.facts:
            raise ValueError(_lacking(self.folder / f"step-{saved.step:08d}.json", "recipe"))
        before, now = saved.facts["recipe"] | {"steps": 0}, json.loads(json.dumps(recipe)) | {"steps": 0}
        if changed := [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]:
            raise OtherSettingsError(f"{self.folder} was begun with another recipe: {'; '.join(changed)}")

    def _warn(self, saved: Saved) -> None:
        """Says so where what is left will round otherwise than what was done."""
        now = rounding()
        changed = [f"{name} {was} -> {now[name]}" for name, was in saved.rounding.items() if now.get(name, was) != was]
        if changed:
            log.warning("%s goes on with %s: its last bits may come out otherwise", self.folder, ", ".join(changed))

    def record(self, **values: float) -> None:
        """Appends one line to losses.csv: of every FIELD; `waited` is what of `seconds` pictures took to come."""
        path = self.folder / "losses.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(values)
        if self._board is None:
            self._board = _board(self.folder / "tensorboard", int(values["step"]))
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, int(values["step"]))

    def _tidy(self, step: int) -> None:
        """Drops the lines of steps that a resumed run takes again, and what a killed one left of its checkpoints."""
        for tensors in self.folder.glob("step-*.safetensors"):
            if not tensors.with_suffix(".json").exists():
                tensors.unlink()
        self._prune(step)
        path = self.folder / "losses.csv"
        if not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
        if not kept:
            path.unlink()
        elif kept != lines[1:]:
            with atomic_path(path) as temporary:
                temporary.write_text("".join([lines[0], *kept]))

    def _prune(self, step: int) -> None:
        """Drops all but the newest checkpoints up to `step`; what follows it is damaged, and left to be looked at."""
        until = [seal for seal in self._sealed() if int(seal.stem.removeprefix("step-")) <= step]
        for old in until[: -self.keep]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def _sealed(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"))


def rounding() -> dict[str, int | str]:
    """What decides the last bits of a training's step, besides its recipe."""
    return {"threads": torch.get_num_threads(), "ranks": place()[1], "torch": str(torch.__version__)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, by flat names."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{name}": value for i, one in state.items() for name, value in one.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives an optimiser back what `optimiser_tensors` took from it, laid out as the parameters are.

    A fused step walks through memory: moments in another order than their weights would be other weights' moments.
    """
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, place, name = key.split(".", 2)
            like = parameters[int(place)]
            laid_out = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(place), {})[name] = laid_out
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _read_seal(path: Path) -> dict[str, Any] | None:
    """What a seal says; None where it is no JSON, as after a fault of the disk."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    if told.get("version", VERSION) > VERSION:
        raise ValueError(f"{path} was written by a newer gdui (checkpoint version {told['version']}, known {VERSION})")
    if missing := [name for name in ("step", "sha256", "facts") if name not in told]:
        raise ValueError(_lacking(path, missing[0]))
    return told


def _lacking(path: Path, name: str) -> str:
    return f"{path} lacks {name!r}: another version of gdui wrote it. Go on with that one, or begin anew"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _board(folder: Path, first: int) -> Any:
    """A writer of TensorBoard's events from step `first` on; False where it isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder), purge_step=first)
