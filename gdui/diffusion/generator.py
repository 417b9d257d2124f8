"""The trained generator: networks, schedule and class names in one folder, and images of a named class out of it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gdui import checks
from gdui.diffusion.checkpoints import fill, load_weights
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.gather import Progress
from gdui.diffusion.latents import Coder, coder_of
from gdui.diffusion.sample import GradAt, Guide, Method, Sampler, image_seeds
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.spice import SpiceClassifier, SpiceConfig
from gdui.diffusion.unet import UNet, UNetConfig
from gdui.runs import atomic_path
from gdui.training.precision import for_inference

__all__ = ["Asked", "Classes", "Drawing", "Generator", "classifier_of"]

VERSION = 1
FACTS = ("names", "schedule", "timesteps", "target", "null_class", "unet", "classifier")  # that model.json must have
Images = npt.NDArray[np.uint8]
Classes = str | Sequence[str] | None


@dataclass(frozen=True)
class Drawing:
    """How images are drawn.

    guidance: how hard to steer, for all classes or for each; None for 2 where there is a guide, 0 for not at all.
    guide: "classifier", "free" (the network without its class), "auto" (a weaker network), or several with the share of
        the guidance that each has, as {"classifier": 1.0, "free": 0.5}; None for the one this model has.
    steps: how many; of "dpm" 20 are enough.
    eta: share of fresh noise: None for 1 with "dpm", whose few steps it makes better, and 0 with "ddim".
    grad_at: where the classifier's gradient is taken: "x", or for method "ancestral" "mean".
    weaker: the generator whose prediction "auto" moves away from.
    seed: everything random follows from it.
    batch: how many are drawn at once: what memory they take. Another one may round a value to a neighbouring level.
    """

    guidance: float | Sequence[float] | None = None
    guide: Guide | Mapping[Guide, float] | None = None
    steps: int = 20
    method: Method = "dpm"
    eta: float | None = None
    grad_at: GradAt = "x"
    weaker: "Generator | None" = None
    seed: int = 0
    batch: int = 64
    compile: bool = False

    def __post_init__(self) -> None:
        checks.whole("batch", self.batch, 1)
        checks.whole("steps", self.steps, 1)
        checks.whole("seed", self.seed, 0)
        checks.one_of("method", self.method, get_args(Method))
        if self.eta is not None:
            checks.in_range("eta", self.eta, 0, 1)


@dataclass(frozen=True)
class Asked:
    """The images that are wanted: the class of each (-1 for none) and how hard it is steered."""

    classes: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Generator:
    """Draws images of named classes.

    target: what the UNet predicts.
    mixed: whether the networks run in bfloat16 where the hardware has it, as they were trained.
    coder: what decodes the drawn latents, where the networks don't see pixels.
    """

    unet: UNet
    names: tuple[str, ...]
    schedule: str = "cosine"
    timesteps: int = 500
    target: str = "eps"
    classifier: Classifier | SpiceClassifier | None = None
    mixed: bool = True
    coder: Coder | None = None
    _made: dict[tuple[nn.Module, bool], tuple[Any, Callable[..., Tensor]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for network in (self.unet, self.classifier):
            if network is not None and network.config.classes not in (None, len(self.names)):
                raise ValueError(
                    f"the network knows {network.config.classes} classes, but there are {len(self.names)} names"
                )

    def sample(
        self, classes: Classes = None, n: int | Sequence[int] = 1, *, progress: Progress | None = None, **how: Any
    ) -> Images:
        """`n` images of each class [images, height, width, channels], a class's images side by side.

        An image depends on the seed, its class and its number in the class: not on `n` or the other classes. In batches
        of another size its noise is the same, but sums are rounded otherwise: a value may move by a level of 255.

        Args:
            classes: one name, several, or None for images of no named class.
            n: how many of each class, or a number for every one of them.
            progress: called with (what is drawn, steps done, steps in all).
            how: fields of `Drawing`, such as guidance, steps and seed.
        """
        return np.concatenate(list(self.stream(classes, n, progress=progress, **how)))

    def stream(
        self, classes: Classes = None, n: int | Sequence[int] = 1, *, progress: Progress | None = None, **how: Any
    ) -> Iterator[Images]:
        """`sample`, a batch at a time."""
        drawing = Drawing(**how)
        asked = self.asked(classes, n, drawing)
        return self.draw(asked, np.arange(len(asked.classes)), drawing, progress)

    def asked(self, classes: Classes, n: int | Sequence[int], drawing: Drawing) -> Asked:
        """Which images these arguments of `sample` mean."""
        indices = self._indices(classes)
        counts = _each("n", n, len(indices))
        for count in counts:
            checks.whole("n", count, 1)
        default = 2.0 if indices[0] >= 0 and self._default_guide(drawing) else 0.0
        scales = _each("guidance", default if drawing.guidance is None else drawing.guidance, len(indices))
        for scale in scales:
            checks.in_range("guidance", scale, -1e6, 1e6)
        return Asked(np.repeat(indices, counts), np.repeat(np.array(scales, np.float32), counts))

    def draw(
        self, asked: Asked, rows: npt.NDArray[np.integer], drawing: Drawing, progress: Progress | None = None
    ) -> Iterator[Images]:
        """Some of the images asked for, a batch at a time."""
        sampler = self._sampler(asked, drawing)
        seeds = image_seeds(drawing.seed, asked.classes)
        stage = f"steps for {len(rows):,} image{'s' * (len(rows) != 1)}"
        # One fixed shape: every image is computed by the same kernels whatever its neighbours are, and how many.
        starts, done = range(0, len(rows), drawing.batch), 0
        for start in starts:
            kept = rows[start : start + drawing.batch]
            padded = np.resize(kept, drawing.batch)
            for state in self._states(sampler, asked.classes[padded], asked.scales[padded], seeds[padded]):
                drawn, done = state, done + 1
                if progress:
                    progress(stage, done, len(starts) * drawing.steps)
            yield self._pixels(drawn)[: len(kept)]

    def _states(
        self,
        sampler: Sampler,
        wanted: npt.NDArray[np.integer],
        scales: npt.NDArray[np.float32],
        seeds: npt.NDArray[np.int64],
    ) -> Iterator[Tensor]:
        """A batch on its way from noise to images."""
        config, device = self.unet.config, next(self.unet.parameters()).device
        told = wanted if wanted[0] >= 0 or config.classes is None else np.full_like(wanted, config.classes)
        labels = torch.from_numpy(told).to(device) if told[0] >= 0 else None
        shape = (config.channels, config.image_size, config.image_size)
        pull = torch.from_numpy(scales).to(device) if sampler.guides else None
        return sampler.states(shape, labels, torch.from_numpy(seeds).to(device), pull)

    @torch.no_grad()
    def _pixels(self, drawn: Tensor) -> Images:
        images = drawn if self.coder is None else self.coder.decode(drawn)
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def _indices(self, classes: Classes) -> npt.NDArray[np.int64]:
        if classes is None:
            return np.array([-1])
        asked = [classes] if isinstance(classes, str) else list(classes)
        if not asked:
            raise ValueError("classes must name at least one class")
        return np.array([self.names.index(checks.one_of("classes", name, self.names)) for name in asked], np.int64)

    def _default_guide(self, drawing: Drawing) -> Guide | Mapping[Guide, float] | None:
        if drawing.guide is not None:
            return drawing.guide
        if drawing.weaker is not None:
            return "auto"
        return "classifier" if self.classifier is not None else "free" if self.unet.null_class else None

    def _sampler(self, asked: Asked, drawing: Drawing) -> Sampler:
        named, steered = asked.classes[0] >= 0, bool(asked.scales.any())
        guide = self._default_guide(drawing) if steered else None
        guides: dict[Guide, float] = dict(guide) if isinstance(guide, Mapping) else {guide: 1.0} if guide else {}
        if steered and not (guides and (named or set(guides) == {"auto"})):
            raise ValueError(
                "guidance needs a named class, and a classifier or a network trained with forgotten classes"
            )
        if not named and self.unet.config.classes is not None and not self.unet.null_class:
            listed = f"{', '.join(self.names[:5])}{', ...' * (len(self.names) > 5)}"
            raise ValueError(f"classes must be given: this model draws only named classes ({listed})")
        if named and self.unet.config.classes is None and self.classifier is None:
            raise ValueError("this model knows no classes and has no classifier to steer by: leave classes out")
        return Sampler(
            network=self._ready(self.unet, drawing),
            schedule=self._schedule(drawing),
            classifier=None if self.classifier is None else self._ready(self.classifier, drawing),
            weaker=None if drawing.weaker is None else self._weaker(drawing.weaker, drawing),
            null_class=self.unet.config.classes if self.unet.null_class else None,
            guides=guides,
            method=drawing.method,
            steps=drawing.steps,
            eta=float(drawing.method == "dpm") if drawing.eta is None else drawing.eta,
            grad_at=drawing.grad_at,
            conditional=self.unet.config.classes is not None,
            learned_variance=self.unet.config.learned_variance,
            bounded=self.coder is None,
            target=checks.one_of("target", self.target, ("eps", "x0", "v")),  # type: ignore[arg-type]
        )

    def _ready(self, network: nn.Module, drawing: Drawing) -> Callable[..., Tensor]:
        """The network as it draws, made anew only where its weights have changed: it may be large, or compiled."""
        values = network.state_dict().values()
        key, state = (network, drawing.compile), [(v.data_ptr(), v.is_inference() or v._version) for v in values]
        if key not in self._made or self._made[key][0] != state:
            self._made[key] = state, for_inference(network, mixed=self.mixed, compile=drawing.compile)
        return self._made[key][1]

    def _weaker(self, weaker: "Generator", drawing: Drawing) -> Callable[..., Tensor]:
        """The other generator's network, where it predicts the same of the same."""
        for name in ("names", "schedule", "timesteps", "target"):
            if getattr(weaker, name) != getattr(self, name):
                raise ValueError(f"weaker must have the same {name} as this model, not {getattr(weaker, name)!r}")
        for name in ("image_size", "channels", "classes"):
            own, given = getattr(self.unet.config, name), getattr(weaker.unet.config, name)
            if own != given:
                raise ValueError(f"weaker must have the same {name} as this model, {own}, not {given}")
        return weaker._ready(weaker.unet, drawing)

    def _schedule(self, drawing: Drawing) -> Schedule:
        steps = drawing.steps
        if steps > self.timesteps:
            raise ValueError(f"steps must lie between 1 and the {self.timesteps} of training, not {steps}")
        respaced = drawing.method in ("ddim", "ancestral") and steps < self.timesteps
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
            "mixed": self.mixed,
            "latents": self.coder is not None,
            "null_class": self.unet.null_class,
            "unet": asdict(self.unet.config),
            "classifier": asdict(self.classifier.config) if self.classifier else None,
        }
        with atomic_path(folder / "model.safetensors") as path:
            save_file(tensors, path)
        with atomic_path(folder / "model.json") as path:
            path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], latents: Any = None) -> "Generator":
        """The model that `save` wrote, or that of a training run; one that draws `latents` needs what decodes them."""
        folder = Path(folder)
        if not (folder / "model.json").is_file() and (folder / "model" / "model.json").is_file():
            folder = folder / "model"
        facts = _facts(folder)
        if facts["latents"] != (latents is not None):
            drawn = "latents: give load what decodes them" if facts["latents"] else "pixels: leave latents out"
            raise ValueError(f"the model in {folder} draws {drawn}")
        weights = load_weights(folder / "model.safetensors")
        unet = UNet(_config(folder, "unet", UNetConfig, facts), null_class=facts["null_class"])
        kind = SpiceConfig if "backbone" in (facts["classifier"] or ()) else ClassifierConfig
        classifier = classifier_of(_config(folder, "classifier", kind, facts)) if facts["classifier"] else None
        for part, network in (("unet", unet), ("classifier", classifier)):
            if network is not None:
                own = {name.removeprefix(f"{part}."): v for name, v in weights.items() if name.startswith(f"{part}.")}
                fill(network, own, folder / "model.safetensors")
        others = {name: facts[name] for name in ("schedule", "timesteps", "target", "mixed")}
        coder = None if latents is None else coder_of(latents)
        return cls(unet, tuple(facts["names"]), classifier=classifier, coder=coder, **others)

    def digest(self) -> str:
        """A hash of the weights."""
        digest = hashlib.sha256()
        for network in (self.unet, self.classifier):
            for value in network.state_dict().values() if network is not None else ():
                digest.update(value.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device) -> "Generator":
        """The model on another device."""
        return replace(self, unet=self.unet.to(device), classifier=self.classifier and self.classifier.to(device))


def classifier_of(config: ClassifierConfig | SpiceConfig) -> Classifier | SpiceClassifier:
    """A new classifier of these sizes."""
    return SpiceClassifier(config) if isinstance(config, SpiceConfig) else Classifier(config)


def _facts(folder: Path) -> dict[str, Any]:
    """What model.json says."""
    if not (folder / "model.json").is_file():
        lacks = "it has no model.json" if folder.exists() else "there is no such folder"
        raise ValueError(f"{folder} holds no model: {lacks}")
    try:
        facts: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        newer = facts["version"] > VERSION
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / 'model.json'} is damaged") from None
    if newer:
        raise ValueError(f"{folder} was written by a newer gdui (model version {facts['version']}, known {VERSION})")
    if missing := [name for name in FACTS if name not in facts]:
        raise ValueError(f"{folder / 'model.json'} lacks {missing[0]!r}: another gdui wrote it, or it is damaged")
    return {"mixed": True, "latents": False} | facts


def _config(folder: Path, part: str, kind: Callable[..., Any], facts: Mapping[str, Any]) -> Any:
    """The sizes of a network, as model.json tells them."""
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts[part].items()})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{folder / 'model.json'} describes no {part} that this gdui knows: {error}") from None


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value for each of `count` classes."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} must be one number, or one for each of the {count} classes, not {len(value)}")
    return list(value)
