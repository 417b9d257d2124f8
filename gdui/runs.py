"""The folder that a run lives in: files that are whole or absent, a manifest of what is done, and a lock."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from gdui import __version__, checks, toml
from gdui.places import PART, is_remote, place, remove, uploaded

__all__ = ["LABELS", "QUARANTINE", "OtherSettingsError", "Run", "atomic_path", "flat", "read_manifest"]

LOCK = ".lock"
MANIFEST = "manifest.json"
LABELS = "labels.parquet"
QUARANTINE = "quarantine.parquet"
CORRECTIONS = "corrections.csv"
GIVEN = "given.csv"
STORES = ("features", "embeddings")
PARTS = "parts"
PIXELS = ("pictures.npy", "latents.npy")
# What a run may leave behind, and a new one in the same folder takes away.
PLOTS = ("criterion.png", "losses.png")
FILES = (LABELS, QUARANTINE, CORRECTIONS, GIVEN, *PIXELS, *PLOTS, "report.html", "log", "spice.safetensors")
FOLDERS = (*STORES, PARTS, "spice", "unet", "classifier", "model", "samples", "report_pictures")
BOOKS = (LOCK, MANIFEST, "config.toml", "log", "stamp.json")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced, once the block ends, or is removed if it fails."""
    path = place(path)
    if is_remote(path):
        with uploaded(path) as temporary:
            yield temporary
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder to write into", str(path.parent))
    temporary = path.with_name(f"{PART}{secrets.token_hex(4)}-{path.name[-40:]}")
    try:
        mode = _usual_mode(temporary)
        yield temporary
        temporary.chmod(mode)  # safetensors lets nobody but the owner read what it writes
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


class OtherSettingsError(ValueError):
    """What stands in a folder was begun with other settings."""


class Run:
    """A run folder, held by one process at a time; use it in a `with` block.

    It may lie on a store such as s3://bucket/run. No lock holds it there: two calls with the same settings write the
    same bytes, and one with others is refused by the manifest.

    Settings are plain values, nested at most one level. Once something is done, other settings are refused. A stage
    that is `done` leaves its facts behind. Where the block fails before there is more than books to keep, a folder that
    was made for it goes again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        mode: str = "continue",
    ) -> None:
        """Opens or makes the folder; `mode` "overwrite" empties one that was begun before."""
        checks.one_of("mode", mode, ("continue", "overwrite"))
        checks.utf8("a run's folder", path)
        self.path = place(path)
        self.settings = dict(settings)
        self._manifest: dict[str, Any] = {}
        above = () if is_remote(self.path) else (self.path, *self.path.parents)
        self._made = [folder for folder in above if not folder.exists()]
        self._lock = _hold(self.path)
        try:
            self._open(mode)
        except BaseException:
            self.close()
            raise

    features = property(lambda self: self.path / "features")
    embeddings = property(lambda self: self.path / "embeddings")
    labels = property(lambda self: self.path / LABELS)
    parts = property(lambda self: self.path / PARTS)
    quarantine = property(lambda self: self.path / QUARANTINE)
    corrections = property(lambda self: self.path / CORRECTIONS)
    given = property(lambda self: self.path / GIVEN)
    log = property(lambda self: self.path / "log")
    report = property(lambda self: self.path / "report.html")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._unmake()
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process, wherever that stands, may read and add files; the lock stays with its owner."""
        path = self.path if is_remote(self.path) else self.path.absolute()
        return {**self.__dict__, "path": path, "_lock": None}

    def close(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()

    def _unmake(self) -> None:
        """Removes the folders that were made for this run, unless there is something in them."""
        if self._made and not any(path.is_file() and path.name not in BOOKS for path in self.path.rglob("*")):
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                for parent in self._made[1:]:
                    parent.rmdir()

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What is done, in the order it was done, and the facts of each."""
        return {name: dict(facts) for name, facts in self._manifest["stages"].items()}

    @property
    def configuration(self) -> str:
        """A hash of the settings."""
        return str(self._manifest["configuration"])

    def done(self, stage: str) -> bool:
        """Whether `stage` was finished, in this process or an earlier one."""
        return stage in self._manifest["stages"]

    def finish(self, stage: str, **facts: Any) -> None:
        """Marks `stage` as done; its files must be written by now."""
        self._manifest["stages"][stage] = facts
        self._save()

    def reopen(self, settings: Mapping[str, Any], *stages: str) -> None:
        """Takes new settings, for which `stages` are to be done again; their files stay until they are replaced."""
        self.settings = dict(settings)
        kept = {name: facts for name, facts in self._manifest["stages"].items() if name not in stages}
        self._manifest = self._fresh() | {"stages": kept}
        self._save()

    def _open(self, mode: str) -> None:
        begun = (self.path / MANIFEST).exists()
        if begun and mode == "continue":
            self._manifest = read_manifest(self.path)
        if self._manifest.get("stages") or (self._manifest and self.features.exists()):
            self._agree()
        else:
            _refuse_foreign(self.path, begun)
            self._manifest = self._fresh()
            self._save()
            _empty(self.path)
        self.sweep()

    def sweep(self) -> None:
        """Removes what killed processes left half written; nothing may be underway."""
        for left in self.path.rglob(f"{PART}*"):
            left.unlink()

    def _fresh(self) -> dict[str, Any]:
        return {"gdui": __version__, "configuration": self._digest(), "settings": self.settings, "stages": {}}

    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(flat(self.settings), sort_keys=True).encode()).hexdigest()

    def _agree(self) -> None:
        if self._manifest["configuration"] == self._digest():
            return
        before, now = flat(self._manifest["settings"]), flat(self.settings)
        changed = [
            f"  {name}: {_shown(before.get(name))} -> {_shown(now.get(name))}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        made_by = self._manifest["gdui"]
        begun = "begun" if made_by == __version__ else f"begun by gdui {made_by}"
        instead = "give the same, choose another folder, or mode 'overwrite'"
        raise OtherSettingsError("\n".join([f"{self.path} was {begun} with other settings: {instead}", *changed]))

    def _save(self) -> None:
        with atomic_path(self.path / "config.toml") as path:
            path.write_text(toml.dumps(self.settings), encoding="utf-8")
        with atomic_path(self.path / MANIFEST) as path:
            path.write_text(json.dumps(self._manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the run in `folder` says of itself: gdui, configuration (a hash), settings, stages."""
    checks.utf8("a run's folder", folder)
    path = place(folder) / MANIFEST
    if not path.is_file():
        lacks = f"it has no {MANIFEST}" if path.parent.exists() else "there is no such folder"
        raise ValueError(f"{folder!s} is not a run folder: {lacks}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    parts = {"gdui": str, "configuration": str, "settings": dict, "stages": dict}
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(name), kind) for name, kind in parts.items()):
        raise ValueError(f"{path} is damaged: start anew with mode 'overwrite'")
    return manifest


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """{"refine": {"sigma": 0.5}} becomes {"refine.sigma": 0.5}; None and what is absent are the same."""
    out: dict[str, Any] = {}
    for name, value in nested.items():
        inner = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value}
        out |= {key: list(v) if isinstance(v, tuple) else v for key, v in inner.items() if v is not None}
    return out


def _shown(value: Any) -> str:
    text = "(none)" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _hold(folder: Path) -> TextIO | None:
    """The open file whose lock says that this process has the folder; it goes with the process, however that dies."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a run needs a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_remote(folder):
            return None
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise OSError(f"the run's folder {folder} can't be made or written: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read(32)
        lock.close()
        raise ValueError(f"{folder} is in use by process {owner or '(unknown)'}") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _refuse_foreign(folder: Path, begun: bool) -> None:
    """A folder that holds something else is not ours to fill."""
    ours = {LOCK, "config.toml"}
    there = folder.iterdir() if folder.exists() else ()
    others = sorted(entry.name for entry in there if not entry.name.startswith(PART) and entry.name not in ours)
    if others and not begun:
        raise ValueError(f"{folder} is not empty and not a run folder (it holds {others[0]!r}): choose another one")


def _empty(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        remove(folder / name)


def _usual_mode(path: Path) -> int:
    """Who may read and write a new file here: umask and folder decide, so it is asked of one that is gone again."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
