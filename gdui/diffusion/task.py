"""What a training is given, brought together and checked before anything is written."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui.config import SourceConfig
from gdui.diffusion.classifier import Classifier
from gdui.diffusion.gather import confidence_weights
from gdui.diffusion.generator import Generator, classifier_of
from gdui.diffusion.latents import Coder, coder_of
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.plan import Plan
from gdui.diffusion.spice import Learned, SpiceClassifier, SpiceConfig
from gdui.diffusion.start import check_start
from gdui.images import Source, open_source
from gdui.labels import Labels
from gdui.runs import read_manifest

__all__ = ["Task"]

log = logging.getLogger(__name__)
SPICE = "spice.safetensors"  # of a labelling run


@dataclass(frozen=True)
class Task:
    """What is to be learned, from what, and what it begins with."""

    labels: Labels
    source: Source
    plan: Plan
    coder: Coder | None
    start: Generator | None
    learned: Learned | None
    weigh: bool

    @classmethod
    def of(
        cls,
        labels: Any,
        source: Any,
        plan: Callable[[int], Plan],
        reading: Mapping[str, Any],
        latents: Any,
        start: Generator | None,
        weigh: bool,
    ) -> "Task":
        """From what `gdui.train` is given; `plan` is that of so many classes.

        `reading` says how the source is read where it is not the one that was labelled.
        """
        table = _read(labels)
        planned = plan(len(table.classes))
        learned = _learned(labels, planned, latents)
        if learned is not None:
            planned = replace(planned, classifier=learned.config(planned.classifier))  # type: ignore[arg-type]
        if start is not None:
            check_start(start, planned)
        opened = open_source(source, **_reading(labels, table, reading).given())
        return cls(table, opened, planned, _coder(latents, planned), start, learned, weigh)

    def check(self, objective: str, average: float | None) -> None:
        """Refuses what can't be learned, and names what won't be: there is nothing to tell apart, or to see."""
        counts = np.bincount(self.labels.label_index[self.labels.label_index >= 0], minlength=len(self.labels.classes))
        if objective != "unet" and (found := np.count_nonzero(counts)) < 2:
            raise ValueError(
                f"labels must have pictures of at least two classes for a classifier, not of {found}: "
                "train objective 'unet' alone"
            )
        if average is not None and average not in self.plan.recipe.ema:
            known = ", ".join(map(str, self.plan.recipe.ema))
            raise ValueError(f"average must be one of recipe.ema, {known}, not {average}")
        if empty := [name for name, count in zip(self.labels.classes, counts, strict=True) if not count]:
            log.warning("no picture is labelled %s: what is drawn of such a class means nothing", ", ".join(empty))

    def settings(self) -> dict[str, Any]:
        """What a run folder must have been begun with, to be continued."""
        told: dict[str, Any] = {"weigh": self.weigh, "latents": self.coder is not None}
        told |= self.plan.settings() | {"labels": _digest(self.labels), "source": self.source.fingerprint}
        told |= {} if self.start is None else {"start": self.start.digest()}
        return told if self.learned is None else told | {"learned": self.learned.digest}

    def pictures(self, pixels: npt.NDArray[Any]) -> Pictures:
        """The pixels, or latents, with what the labels say of them."""
        weights = confidence_weights(self.labels) if self.weigh else None
        return Pictures(pixels, self.labels.label_index, tuple(self.labels.classes), weights)

    def classifier(self) -> Classifier | SpiceClassifier:
        """The classifier as its training finds it."""
        network = classifier_of(self.plan.classifier)
        if self.learned is not None and isinstance(network, SpiceClassifier):
            self.learned.into(network, clusters=self.labels.numbers("cluster"), classes=self.labels.label_index)
        return network


def _read(labels: Labels | str | os.PathLike[str]) -> Labels:
    if isinstance(labels, Labels):
        return labels
    if not isinstance(labels, (str, os.PathLike)):
        raise TypeError(f"labels must be a Labels table or the path of one, not {type(labels).__name__}")
    if not Path(labels).exists():
        raise ValueError(f"labels must be a run's folder or its labels.parquet, and {labels!s} does not exist")
    return Labels.from_run(labels) if Path(labels).is_dir() else Labels.from_parquet(labels)


def _reading(labels: Any, table: Labels, changes: Mapping[str, Any]) -> SourceConfig:
    """As the pictures were read to be labelled, but for these changes."""
    is_run = not isinstance(labels, Labels) and Path(labels).is_dir()
    settings = read_manifest(labels)["settings"] if is_run else table.facts.configuration
    return SourceConfig.remembered(settings, changes)


def _learned(labels: Any, plan: Plan, latents: Any) -> Learned | None:
    """What the labels' run has learned from the same kind of pixels, where a classifier can begin with it."""
    asked, path = plan.classifier, Path(labels) / SPICE if isinstance(labels, (str, os.PathLike)) else None
    if not isinstance(asked, SpiceConfig) or path is None or latents is not None or not path.is_file():
        return None
    found = Learned.read(path)
    return found if found.fits(asked) else None


def _coder(latents: Any, plan: Plan) -> Coder | None:
    """What encodes and decodes, where the networks see latents, and only then."""
    if latents is None and plan.picture_size:
        raise ValueError("picture_size is for latents: leave it out, or give latents")
    if latents is None and plan.network.channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3 for pictures, not {plan.network.channels}")
    if latents is not None and (plan.recipe.mirror or plan.classifier_recipe.mirror):
        raise ValueError("recipe.mirror must be off with latents: a mirrored picture's are not its mirrored latents")
    return None if latents is None else coder_of(latents)


def _digest(labels: Labels) -> str:
    """A hash of what training reads of the labels."""
    digest = hashlib.sha256("\0".join([*labels.classes, "", *labels.ids.to_pylist()]).encode())
    digest.update(labels.label_index.tobytes())
    digest.update(np.ascontiguousarray(labels.numbers("confidence"), np.float32).tobytes())
    return digest.hexdigest()[:16]
