"""Labeler: images and class names in, a label with its reason out. The order of the stages stands here, and only here."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gdui import checks
from gdui.config import Config
from gdui.labels import Labels

__all__ = ["Labeler"]

Progress = Callable[[str, int, int], None]


class Labeler:
    """Labels a heap of images with the names of classes.

    classes: the names, in the order of the opinions' columns.
    encoder: what turns images and names into features, as `gdui.labeling.encoders.load_encoder` takes it.
    preset: "default" labels best, "paper" follows the text.
    k: clusters; None for the preset's choice, "auto" to estimate it.
    overrides: settings of `gdui.config.Config` by dotted name, as in `**{"refine.sigma": 0.4}`.

    `seconds` holds what each stage of the last call took, `facts` what it found.
    """

    def __init__(
        self,
        classes: Sequence[str],
        encoder: Any = None,
        preset: str = "default",
        k: int | str | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> None:
        self.classes = _class_names(classes)
        self.encoder = encoder
        self.config = Config.named(preset, k=k, seed=seed, **overrides)
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, Any] = {}

    def fit(
        self,
        source: Any = None,
        *,
        features: npt.ArrayLike | None = None,
        opinions: npt.ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learns from the images of `source`, or from ready `features` (N, D) and `opinions` (N, C scores)."""
        raise NotImplementedError

    def predict(
        self,
        source: Any = None,
        *,
        features: npt.ArrayLike | None = None,
        opinions: npt.ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Labels:
        """Labels new images by what `fit` learned: one pass over them, nothing is clustered again."""
        raise NotImplementedError

    def fit_predict(
        self,
        source: Any = None,
        *,
        features: npt.ArrayLike | None = None,
        opinions: npt.ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Labels:
        """Learns from these images and labels them."""
        raise NotImplementedError


def _class_names(classes: Sequence[str]) -> list[str]:
    names = list(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes must be a list of names, not {classes!r}")
    if len(names) < 2:
        raise ValueError(f"classes must name at least 2 classes, not {len(names)}")
    if blank := [i for i, name in enumerate(names) if not name.strip()]:
        raise ValueError(f"classes must not be blank, but number {blank[0]} is")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"classes must differ, but {twice[0]!r} stands there more than once")
    return names
