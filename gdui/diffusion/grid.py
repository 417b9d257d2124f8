"""Images as one picture: a row a class, its name in front."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gdui import checks
from gdui.drawing import FAINT, PAGE, TEXT, fitted, font, in_greys, stacked
from gdui.runs import atomic_path

__all__ = ["write_grid"]

EDGE, GAP, NAMES = 40, 6, 170
SMALLEST = 64  # pictures smaller than this are enlarged by whole factors


def write_grid(
    path: str | os.PathLike[str], images: npt.NDArray[np.uint8], names: Sequence[str], *, title: str = ""
) -> None:
    """Writes a PNG of images [rows * n, H, W, 1 or 3], n of each name; without names they stand in lines of eight."""
    checks.class_names(names, least=0)
    if names and len(images) % len(names):
        raise ValueError(f"images must be as many for each of {len(names)} names, not {len(images)} in all")
    columns = len(images) // len(names) if names else min(8, len(images))
    rows = [images[at : at + columns] for at in range(0, len(images), columns)]
    labels = list(names) or [""] * len(rows)
    scale = max(1, -(-SMALLEST // images.shape[2]))
    left = EDGE + (NAMES if names else 0)
    cell = images.shape[2] * scale + GAP
    width = max(left + columns * cell - GAP + EDGE, 2 * EDGE + round(font(24, bold=True).getlength(title)))
    lines = [_row(row, label, left, scale, width) for row, label in zip(rows, labels, strict=True)]
    strips = [_heading(title, width), *lines, Image.new("RGB", (width, EDGE - GAP), PAGE)]
    page = stacked(strips)
    with atomic_path(path) as temporary:
        (in_greys(page) if images.shape[3] == 1 else page).save(temporary, format="PNG", optimize=True)


def _heading(title: str, width: int) -> Image.Image:
    strip = Image.new("RGB", (width, EDGE + (48 if title else 0)), PAGE)
    ImageDraw.Draw(strip).text((EDGE, EDGE - 8), title, TEXT, font(24, bold=True), "la")
    return strip


def _row(images: npt.NDArray[Any], name: str, left: int, scale: int, width: int) -> Image.Image:
    high, wide = images.shape[1] * scale, images.shape[2] * scale
    strip = Image.new("RGB", (width, high + GAP), PAGE)
    face = font(20)
    ImageDraw.Draw(strip).text((EDGE, high // 2), fitted(name, face, NAMES - 20), FAINT, face, "lm")
    for column, image in enumerate(images):
        pixels = image[..., 0] if image.shape[2] == 1 else image
        tile = Image.fromarray(pixels).convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)
        strip.paste(tile, (left + column * (wide + GAP), 0))
    return strip
