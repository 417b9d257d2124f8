"""The pictures a generator learns from: decoded once into a memory-mapped array, cut into batches by row numbers."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks
from gdui.runs import atomic_path

__all__ = ["Batch", "Pictures", "store_pixels"]

Rows = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Batch:
    """Pictures [B, C, H, W] in [-1, 1], or latents; their classes [B] (-1 for none) and their weights [B]."""

    x0: Tensor
    classes: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        x0 = self.x0.to(device, non_blocking=True, memory_format=torch.channels_last)
        return Batch(x0, self.classes.to(device, non_blocking=True), self.weights.to(device, non_blocking=True))


@dataclass(frozen=True)
class Pictures:
    """A store [N, H, W, C] of pixels in uint8, or of latents in float32, with a class and a weight for each.

    classes: indices into `names`, -1 for none.
    weights: of each in the loss.
    rows: which rows of the store these pictures are; None for all.
    """

    pixels: npt.NDArray[Any]
    classes: Rows
    names: tuple[str, ...]
    weights: npt.NDArray[np.float32] | None = None
    rows: Rows | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype not in (np.uint8, np.float32):
            found = f"{self.pixels.dtype} of shape {self.pixels.shape}"
            raise ValueError(f"pixels must be uint8 of shape [N, height, width, channels], not {found}")
        if not len(self):
            raise ValueError("pixels must hold at least one picture")
        checks.indices("classes", self.classes, len(self.names), length=len(self.pixels), lowest=-1)
        if self.weights is not None:
            checks.array("weights", self.weights, 1, length=len(self.pixels))

    def __len__(self) -> int:
        return len(self.pixels) if self.rows is None else len(self.rows)

    def named(self) -> "Pictures":
        """Those that have a class."""
        rows = np.arange(len(self.pixels)) if self.rows is None else self.rows
        kept = rows[self.classes[rows] >= 0]
        if not len(kept):
            raise ValueError("labels must name a class for at least one picture")
        return replace(self, rows=kept)

    def split(self, seed: int) -> tuple["Pictures", "Pictures"]:
        """All but every fiftieth, and those, at most 1,024; too few to be split are both."""
        rows = np.arange(len(self.pixels)) if self.rows is None else self.rows
        held = min(1024, len(rows) // 50)
        if not held:
            return self, self
        order = np.random.default_rng([seed, 2]).permutation(len(rows))
        return replace(self, rows=rows[np.sort(order[held:])]), replace(self, rows=rows[np.sort(order[:held])])

    def batch(self, places: Rows, mirrored: npt.NDArray[np.bool_] | None = None) -> Batch:
        """The pictures at `places`, those marked `mirrored` turned left to right, laid out channels_last."""
        rows = places if self.rows is None else self.rows[places]
        pixels = self.pixels[rows]
        if mirrored is not None:
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        x0 = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        if pixels.dtype == np.uint8:
            x0 = x0.float().div_(127.5).sub_(1)
        weights = np.ones(len(rows), np.float32) if self.weights is None else self.weights[rows]
        return Batch(x0, torch.from_numpy(self.classes[rows].astype(np.int64)), torch.from_numpy(weights))


def store_pixels(
    path: str | os.PathLike[str],
    count: int,
    shape: Sequence[int],
    blocks: Iterable[tuple[Rows, npt.NDArray[Any]]],
    dtype: npt.DTypeLike = np.uint8,
) -> npt.NDArray[Any]:
    """Writes blocks of pictures, each with the rows they belong in, into a .npy file, whole or not at all; maps it."""
    with atomic_path(path) as temporary:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(count, *shape))
        written = np.zeros(count, bool)
        for rows, block in blocks:
            store[rows] = block
            written[rows] = True
        if not written.all():
            raise ValueError(f"{Path(path).name} was to hold {count} pictures, but {written.sum()} came")
        store.flush()
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
