"""Draws digits: a generator learns from the demo's own labels, and writes what it was asked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gdui.demo.digits import NAMES, SHEET, images
from gdui.demo.sheet import DRAWN, contact_sheet
from gdui.diffusion.generator import Generator
from gdui.diffusion.grid import write_grid
from gdui.diffusion.workflow import train
from gdui.images import open_source
from gdui.labels import Labels
from gdui.runs import OtherSettingsError

__all__ = ["SETTINGS", "Drawn", "draw_digits"]

# 8 x 8 pixels need little: this size learns the digits in under three minutes of two cores.
SETTINGS = {
    "channels": 1,
    "network.width": 32,
    "recipe.steps": 1_000,
    "recipe.rate": 1.5e-3,
    "recipe.forget": 0.2,
    "recipe.weighting": "min_snr",
    "classifier_recipe.steps": 300,
}
GRID = "drawn.png"
COLUMNS = 12


@dataclass(frozen=True)
class Drawn:
    """The trained generator, and the picture of what it draws."""

    model: Generator
    grid: Path


def draw_digits(
    labels: Labels,
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    steps: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Drawn:
    """Trains on the demo's pictures under its labels, in folder/generator, and draws every digit into folder/drawn.png.

    The first of them also stand on the contact sheet, beside the images they were learned from. A training that was
    stopped goes on, unless it began with other labels.

    Args:
        labels: as `run` found them.
        steps: of training, in place of those that the digits need.
    """
    folder, ids = Path(folder), labels.ids.to_pylist()
    fewer = {} if steps is None else {"recipe.steps": steps, "classifier_recipe.steps": steps}
    learn = partial(
        train,
        labels,
        open_source(images()[..., None], ids=ids, layout="NHWC"),
        folder / "generator",
        preset="tiny",
        settings=SETTINGS | fewer,
        seed=seed,
        device="cpu",
        compile=False,
        progress=progress,
    )
    try:
        model = learn()
    except OtherSettingsError:
        model = learn(mode="overwrite")
    asked = model.sample(NAMES, n=COLUMNS, progress=progress, seed=seed)
    unasked = model.sample(n=COLUMNS, progress=progress, seed=seed)
    title = "Drawn by name, and (last row) without one"
    write_grid(folder / GRID, np.concatenate([asked, unasked]), [*NAMES, "(no name)"], title=title)
    beside = asked.reshape(len(NAMES), COLUMNS, *asked.shape[1:3])[:, :DRAWN]
    contact_sheet(images(), labels, folder / SHEET, beside)
    return Drawn(model, folder / GRID)
