"""Runs of the generator's training that take a second, and their labels and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui.diffusion.generator import Generator
from gdui.diffusion.workflow import train
from gdui.images import open_source
from gdui.labels import Labels
from gdui.labels.facts import Facts

NAMES = ["dark", "bright"]
QUICK: dict[str, Any] = {
    "channels": 1,
    "network.width": 32,
    "recipe.steps": 4,
    "recipe.batch": 8,
    "recipe.save_every": 9,
    "classifier_recipe.steps": 2,
    "classifier_recipe.batch": 8,
}
OPTIONS: dict[str, Any] = {"preset": "tiny", "compile": False}


def make_labels(
    ids: list[str], label: npt.ArrayLike, confidence: npt.ArrayLike | None = None, names: list[str] = NAMES
) -> Labels:
    n = len(ids)
    sure = np.linspace(1, 0.5, n) if confidence is None else confidence
    nothing = np.full(n, np.nan)
    return Labels.from_arrays(
        ids,
        names,
        label_index=label,
        confidence=sure,
        matched_index=label,
        cluster=np.zeros(n, int),
        cluster_confidence=nothing,
        consistency=nothing,
        clip_index=label,
        clip_confidence=nothing,
        clip_second_index=np.full(n, -1),
        rule=np.zeros(n, int),
        facts=Facts(),
    )


def two_kinds(count: int = 20) -> tuple[Labels, Any]:
    """Dark and bright pictures, the last one without a label, in another order than their labels."""
    ids = [f"p{row}" for row in range(count)]
    label = np.arange(count) % 2
    label[-1] = -1
    pixels = np.where(np.arange(count) % 2, 220, 30).astype(np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    return make_labels(ids, label), open_source(pixels[::-1].copy(), ids=ids[::-1], layout="NHWC")


def quick(labels: Any, source: Any, out: Path, **changes: Any) -> Generator:
    settings = QUICK | changes.pop("settings", {})
    return train(labels, source, out, settings=settings, **OPTIONS | changes)
