"""The trained generator: networks, schedule and class names in one folder, and images of a named class out of it."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gdui import checks
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.sample import Guide, Method, Sampler, image_seeds
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.unet import UNet, UNetConfig
from gdui.runs import atomic_path
from gdui.training.precision import compiled

__all__ = ["Generator"]

VERSION = 1
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Generator:
    """Draws images of named classes.

    target: what the UNet predicts.
    """

    unet: UNet
    names: tuple[str, ...]
    schedule: str = "cosine"
    timesteps: int = 500
    target: str = "eps"
    classifier: Classifier | None = None

    def __post_init__(self) -> None:
        for network in (self.unet, self.classifier):
            if network is not None and network.config.classes not in (None, len(self.names)):
                raise ValueError(
                    f"the network knows {network.config.classes} classes, but there are {len(self.names)} names"
                )

    def sample(
        self,
        classes: str | Sequence[str] | None = None,
        n: int = 1,
        *,
        guidance: float | None = None,
        guide: Guide | None = None,
        steps: int = 20,
        method: Method = "dpm",
        eta: float = 0.0,
        seed: int = 0,
        batch: int = 64,
        compile: bool = False,  # noqa: A002
    ) -> Images:
        """`n` images of each class [classes * n, height, width, channels], a class's images side by side.

        An image depends on the seed, its class and its number in the class: not on `n`, the batch or the other classes.

        Args:
            classes: one name, several, or None for images of no named class.
            guidance: how hard to steer; None for 2 where there is a guide, 0 for not at all.
            guide: "classifier" or "free" (the network without its class); None for the one this model has.
            steps: evaluations of the network; 20 are enough for "dpm".
        """
        drawn = list(
            self.stream(
                classes,
                n,
                guidance=guidance,
                guide=guide,
                steps=steps,
                method=method,
                eta=eta,
                seed=seed,
                batch=batch,
                compile=compile,
            )
        )
        return np.concatenate(drawn)

    def stream(
        self,
        classes: str | Sequence[str] | None = None,
        n: int = 1,
        *,
        guidance: float | None = None,
        guide: Guide | None = None,
        steps: int = 20,
        method: Method = "dpm",
        eta: float = 0.0,
        seed: int = 0,
        batch: int = 64,
        compile: bool = False,  # noqa: A002
    ) -> Iterator[Images]:
        """`sample`, a batch at a time."""
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        wanted = np.repeat(self._indices(classes), n)
        options = {"steps": steps, "method": method, "eta": eta}
        sampler = self._sampler(wanted, guidance, guide, compile, options)
        seeds = image_seeds(seed, wanted)
        # One fixed shape: every image is computed by the same kernels whatever the batch it fell into.
        for start in range(0, len(wanted), batch):
            rows = np.resize(np.arange(start, min(start + batch, len(wanted))), batch)
            kept = min(batch, len(wanted) - start)
            yield self._draw(sampler, wanted[rows], seeds[rows])[:kept]

    def _draw(self, sampler: Sampler, wanted: npt.NDArray[np.integer], seeds: npt.NDArray[np.int64]) -> Images:
        config, device = self.unet.config, next(self.unet.parameters()).device
        labels = torch.from_numpy(wanted).to(device) if wanted[0] >= 0 else self._nobody(len(wanted), device)
        shape = (config.channels, config.image_size, config.image_size)
        *_, images = sampler.states(shape, labels, torch.from_numpy(seeds).to(device))
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def _nobody(self, count: int, device: torch.device) -> torch.Tensor | None:
        """The class index of images without a class, or None for a network that knows none."""
        if self.unet.config.classes is None:
            return None
        if not self.unet.null_class:
            raise ValueError(
                f"classes must be given: this model draws only named classes ({', '.join(self.names[:5])}, ...)"
            )
        return torch.full((count,), self.unet.config.classes, device=device)

    def _indices(self, classes: str | Sequence[str] | None) -> npt.NDArray[np.int64]:
        if classes is None:
            return np.array([-1])
        asked = [classes] if isinstance(classes, str) else list(classes)
        if unknown := [name for name in asked if name not in self.names]:
            raise ValueError(f"classes must be among {', '.join(map(repr, self.names))}, not {unknown[0]!r}")
        return np.array([self.names.index(name) for name in asked], np.int64)

    def _sampler(
        self,
        wanted: npt.NDArray[np.integer],
        guidance: float | None,
        guide: Guide | None,
        compile: bool,  # noqa: A002
        options: dict[str, Any],
    ) -> Sampler:
        named = wanted[0] >= 0
        if guide is None and named and guidance != 0:
            guide = "classifier" if self.classifier is not None else "free" if self.unet.null_class else None
        if guidance and guide is None:
            raise ValueError(
                "guidance needs a named class, and a classifier or a network trained with forgotten classes"
            )
        if named and self.unet.config.classes is None and guide != "classifier":
            raise ValueError("this model knows no classes and has no classifier: leave classes out")
        return Sampler(
            network=compiled(self.unet, compile),
            schedule=self._schedule(options),
            classifier=None if self.classifier is None else compiled(self.classifier, compile),
            null_class=self.unet.config.classes if self.unet.null_class else None,
            guide=guide,
            scale=(2.0 if guide else 0.0) if guidance is None else guidance,
            conditional=self.unet.config.classes is not None,
            learned_variance=self.unet.config.learned_variance,
            target=checks.one_of("target", self.target, ("eps", "x0", "v")),  # type: ignore[arg-type]
            **options,
        )

    def _schedule(self, options: dict[str, Any]) -> Schedule:
        steps = options["steps"]
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must lie between 1 and the {self.timesteps} of training, not {steps}")
        respaced = options["method"] in ("ddim", "ancestral") and steps < self.timesteps
        return Schedule.from_name(self.schedule, self.timesteps, str(steps) if respaced else "")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes model.safetensors and model.json, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        networks: dict[str, nn.Module] = {"unet": self.unet} | (
            {"classifier": self.classifier} if self.classifier else {}
        )
        tensors = {
            f"{part}.{name}": value.contiguous()
            for part, net in networks.items()
            for name, value in net.state_dict().items()
        }
        facts = {
            "version": VERSION,
            "names": self.names,
            "schedule": self.schedule,
            "timesteps": self.timesteps,
            "target": self.target,
            "null_class": self.unet.null_class,
            "unet": asdict(self.unet.config),
            "classifier": asdict(self.classifier.config) if self.classifier else None,
        }
        with atomic_path(folder / "model.safetensors") as path:
            save_file(tensors, path)
        with atomic_path(folder / "model.json") as path:
            path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Generator":
        """The model that `save` wrote."""
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise ValueError(f"{folder} holds no model: it has no model.json")
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if facts["version"] > VERSION:
            raise ValueError(
                f"{folder} was written by a newer gdui (model version {facts['version']}, known {VERSION})"
            )
        tensors = load_file(folder / "model.safetensors")
        unet = UNet(UNetConfig(**_tuples(facts["unet"])), null_class=facts["null_class"])
        classifier = Classifier(ClassifierConfig(**_tuples(facts["classifier"]))) if facts["classifier"] else None
        for part, network in (("unet", unet), ("classifier", classifier)):
            if network is not None:
                own = {name.removeprefix(f"{part}."): v for name, v in tensors.items() if name.startswith(f"{part}.")}
                network.load_state_dict(own)
                network.eval()
        return cls(unet, tuple(facts["names"]), facts["schedule"], facts["timesteps"], facts["target"], classifier)

    def to(self, device: str | torch.device) -> "Generator":
        """The model on another device."""
        return replace(self, unet=self.unet.to(device), classifier=self.classifier and self.classifier.to(device))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
