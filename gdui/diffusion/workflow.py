"""From labels and pictures to a generator, in a run folder: what is done is kept, and a killed run goes on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from gdui import checks
from gdui.diffusion.averages import errors, followed, put_on, wearing
from gdui.diffusion.classifier import Classifier
from gdui.diffusion.curves import plot_losses
from gdui.diffusion.gather import Progress, store_pictures
from gdui.diffusion.generator import Generator
from gdui.diffusion.grid import write_grid
from gdui.diffusion.latents import Coder, store_latents
from gdui.diffusion.losses import Loss, classifier_loss, denoiser_loss
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.plan import Plan
from gdui.diffusion.recipe import Recipe
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.spice import SpiceClassifier
from gdui.diffusion.start import begin_at
from gdui.diffusion.task import Task
from gdui.diffusion.train import Trained, train_network
from gdui.diffusion.unet import UNet
from gdui.images import Source
from gdui.labels import Labels
from gdui.runs import Run
from gdui.training.ranks import joined, own_device, place

__all__ = ["Objective", "device_of", "train"]

Objective = Literal["unet", "classifier", "both"]
PICTURES, LATENTS, LOSSES, MODEL, SAMPLES = "pictures.npy", "latents.npy", "losses.png", "model", "samples"


def train(
    labels: Labels | str | os.PathLike[str],
    source: Any,
    out: str | os.PathLike[str] = "generator",
    *,
    preset: str = "small",
    objective: Objective = "both",
    conditional: bool = True,
    classifier: str = "adm",
    weigh: bool = False,
    average: float | None = None,
    latents: Any = None,
    start: Generator | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
    compile: bool = True,  # noqa: A002
    mode: str = "continue",
    progress: Progress | None = None,
) -> Generator:
    """Trains a generator of the labels' classes, and a classifier to steer it, in the run folder `out`.

    A run that was stopped goes on where it was; more `recipe.steps` continue a finished one. Under torchrun the ranks
    share every batch.

    Args:
        labels: the table, or the path of its Parquet file or of a labelling run.
        source: the pictures, as `Labeler.fit` takes them; ids say which label is whose.
        preset: the networks' sizes and recipes: tiny (8 pixels), small (32), medium (64), stl96, adm64 to adm512.
        objective: which network to train; "classifier" needs a folder in which the UNet is trained.
        conditional: whether the UNet is told the classes. Images without a label train it without one.
        classifier: "adm", the UNet's way down with a pooled end, or "spice", a clustering network with a head for the
            time step; where `labels` is a run that learned from pixels, it begins as the network of that run.
        weigh: let the labels' confidence weigh the loss.
        average: which running average of the weights becomes the model (one of recipe.ema); None for the one whose loss
            is smallest on pictures kept aside.
        latents: diffuse in another space: a pair of callables (encode, decode), or diffusers' AutoencoderKL. Settings
            "size" and "channels" are then the latents', "picture_size" the pictures'.
        start: a generator whose UNet this one begins with, as after corrections or for more classes: those of the same
            name are taken over, others are learned anew. Sizes, schedule and target must be the same.
        settings: changes to the preset by dotted name, such as {"size": 48, "recipe.steps": 10_000}; see `Plan.named`.
            The source is read as it was to be labelled, or else as "source.image_column" and the like say.
        mode: "overwrite" begins anew in a folder that was used before; other labels, pictures or settings are refused
            there otherwise.
        progress: called with (stage, done, total).
    """
    folder, where = Path(out), device_of(device)
    _check_objective(objective, folder)
    changes = dict(settings or {})
    reading = {name: changes.pop(name) for name in list(changes) if name.startswith("source.")}
    plan = partial(Plan.named, preset, conditional=conditional, classifier=classifier, seed=seed, changes=changes)
    task = Task.of(labels, source, plan, reading, latents, start, weigh)
    task.check(objective, average)
    facts = task.settings() | {"preset": preset, "conditional": conditional, "seed": seed}
    with joined(where), torch.random.fork_rng(), _held(folder, facts, mode) as run:
        pixels = _Store(folder, run, task.plan, where, progress).pixels(task.labels, task.source, task.coder)
        return _Workshop(task, folder, task.pictures(pixels), where, compile, progress).make(objective, average)


class _Workshop:
    """One run folder's pictures and plan, and what is made of them."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        pictures: Pictures,
        device: torch.device,
        compile: bool,  # noqa: A002
        progress: Progress | None,
    ) -> None:
        self.task, self.plan, self.folder, self.pictures = task, task.plan, folder, pictures
        self.device, self.compile, self.progress = device, compile, progress
        self.schedule = Schedule.from_name(self.plan.schedule, self.plan.timesteps)

    def make(self, objective: Objective, average: float | None) -> Generator:
        """Trains what is asked for, and leaves the model in the folder."""
        if objective == "classifier":
            model = Generator.load(self.folder / MODEL, self.task.coder).to(self.device)
        else:
            model = self.unet(average)
        if objective != "unet":
            model = self.classifier(model)
        if place()[0] == 0:
            model.save(self.folder / MODEL)
            self.plot()
        return model

    def unet(self, average: float | None) -> Generator:
        """The trained UNet as a generator, with the folder's classifier where there is one."""
        config, recipe = self.plan.network, self.plan.recipe
        nameless = recipe.forget > 0 or bool((self.pictures.classes < 0).any())
        torch.manual_seed(recipe.seed)
        network = UNet(config, null_class=config.classes is not None and nameless)
        if self.task.start is not None:
            begin_at(network, self.pictures.names, self.task.start)
        model = Generator(
            network.to(self.device).to(memory_format=torch.channels_last),
            self.pictures.names,
            self.plan.schedule,
            self.plan.timesteps,
            recipe.target,
            _trained_classifier(self.folder, self.task.coder),
            recipe.mixed,
            self.task.coder,
        )
        loss = denoiser_loss(self.schedule, recipe, classes=config.classes)
        self._train("unet", network, loss, self.pictures, recipe, average, model)
        return model

    def classifier(self, model: Generator) -> Generator:
        """The model with a newly trained classifier."""
        torch.manual_seed(self.plan.classifier_recipe.seed + 1)
        network = self.task.classifier().to(self.device).to(memory_format=torch.channels_last)
        loss = classifier_loss(self.schedule)
        self._train("classifier", network, loss, self.pictures.named(), self.plan.classifier_recipe, None, None)
        return replace(model, classifier=network)

    def plot(self) -> None:
        """Draws the losses of what has been trained."""
        files = {name: self.folder / name / "losses.csv" for name in ("unet", "classifier")}
        plot_losses(self.folder / LOSSES, {name: file for name, file in files.items() if file.exists()})

    def _train(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        pictures: Pictures,
        recipe: Recipe,
        average: float | None,
        model: Generator | None,
    ) -> None:
        """Trains the network, and leaves it with the chosen average of its weights."""
        training, kept = pictures.split(recipe.seed)

        def after(trained: Trained, _loss: float) -> None:
            if self.progress:
                self.progress(name, trained.step, recipe.steps)
            if model is not None and (trained.step % recipe.save_every == 0 or trained.step == recipe.steps):
                self._show(model, trained)

        trained = train_network(
            network,
            loss,
            training,
            len(self.schedule),
            recipe,
            self.folder / name,
            compile=self.compile,
            progress=after,
        )
        if trained.averages:
            found = errors(network, trained.averages, loss, kept, self.schedule, recipe)
            chosen = min(found, key=lambda decay: found[decay]) if average is None else average
            put_on(network, trained.averages[chosen])
        network.eval()

    def _show(self, model: Generator, trained: Trained) -> None:
        """Writes a grid of what the network draws by now, the same noise every time."""
        names = model.names[:10] if model.unet.config.classes is not None else None
        weights = trained.averages[min(trained.averages)] if trained.averages else followed(model.unet)
        with wearing(model.unet, weights):
            images = replace(model).sample(  # a copy, which keeps no second network until the next time
                names,
                n=8 if names else 64,
                progress=self.progress,
                guidance=0,
                steps=12,
                batch=32,
                seed=self.plan.recipe.seed,
            )
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        path = self.folder / SAMPLES / f"step-{trained.step:08d}.png"
        write_grid(path, images, names or (), title=f"after {trained.step:,} steps")


def _check_objective(objective: str, folder: Path) -> None:
    checks.one_of("objective", objective, get_args(Objective))
    if objective == "classifier" and not (folder / MODEL / "model.json").exists():
        raise ValueError(f"objective 'classifier' needs a trained UNet, and {folder} has none: use 'unet' or 'both'")


def device_of(name: str | None) -> torch.device:
    """The device of this name; of none the GPU where there is one, under torchrun each rank its own."""
    chosen = name or own_device()
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {chosen!r} was asked for, but PyTorch sees no GPU: gdui doctor says what there is")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError):
        raise ValueError(f"device must be one that PyTorch can use here, such as 'cpu', not {chosen!r}") from None


@contextmanager
def _held(folder: Path, settings: Mapping[str, Any], mode: str) -> Iterator[Run | None]:
    """The run folder, held by the first rank for all."""
    if place()[0]:
        yield None
        return
    with Run(folder, settings, mode=mode) as run:
        yield run


@dataclass(frozen=True)
class _Store:
    """The pictures of a run folder, as the networks see them; the first rank makes them, unless an earlier run did."""

    folder: Path
    run: Run | None
    plan: Plan
    device: torch.device
    progress: Progress | None

    def pixels(self, labels: Labels, source: Source, coder: Coder | None) -> npt.NDArray[Any]:
        """Pixels [N, H, W, C], or latents where there is a coder."""
        size, channels = self.plan.network.image_size, self.plan.network.channels
        seen = {"size": self.plan.picture_size or size, "channels": channels if coder is None else 3}
        path = self.folder / PICTURES
        if self._lacks("pictures"):
            store_pictures(labels, source, path, **seen, progress=self.progress)
            self._finish("pictures")
        if coder is not None:
            latents = self.folder / LATENTS
            if self._lacks("latents"):
                shape, decoded = (size, size, channels), np.load(path, mmap_mode="r")
                store_latents(decoded, coder, latents, shape, self.device, self.progress)
                self._finish("latents")
            path = latents
        if dist.is_initialized():
            dist.barrier()
        loaded: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        return loaded

    def _lacks(self, stage: str) -> bool:
        return self.run is not None and not self.run.done(stage)

    def _finish(self, stage: str) -> None:
        if self.run is not None:
            self.run.finish(stage)


def _trained_classifier(folder: Path, coder: Coder | None) -> Classifier | SpiceClassifier | None:
    """The classifier of the model in a run folder, where there is one."""
    if not (folder / MODEL / "model.json").exists():
        return None
    return Generator.load(folder / MODEL, coder).classifier
