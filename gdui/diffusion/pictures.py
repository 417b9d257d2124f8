"""The pictures a generator learns from: decoded once into a memory-mapped array, cut into batches by row numbers."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks
from gdui.runs import atomic_path

__all__ = ["Batch", "Pictures", "store_pixels"]


@dataclass(frozen=True)
class Batch:
    """Pictures [B, C, H, W] in [-1, 1], their classes [B] (-1 for none) and their weights [B]."""

    x0: Tensor
    classes: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Pictures:
    """Pixels [N, H, W, C] in uint8, a class index for each (-1 for none), and a weight of each in the loss."""

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.integer]
    names: tuple[str, ...]
    weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            found = f"{self.pixels.dtype} of shape {self.pixels.shape}"
            raise ValueError(f"pixels must be uint8 of shape [N, height, width, channels], not {found}")
        if not len(self.pixels):
            raise ValueError("pixels must hold at least one picture")
        checks.indices("classes", self.classes, len(self.names), length=len(self.pixels), lowest=-1)
        if self.weights is not None:
            checks.array("weights", self.weights, 1, length=len(self.pixels))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: npt.NDArray[np.integer], mirrored: npt.NDArray[np.bool_] | None = None) -> Batch:
        """The pictures of `rows`, those marked `mirrored` turned left to right, laid out channels_last."""
        pixels = self.pixels[rows]
        if mirrored is not None:
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        x0 = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        weights = np.ones(len(rows), np.float32) if self.weights is None else self.weights[rows]
        return Batch(x0, torch.from_numpy(self.classes[rows].astype(np.int64)), torch.from_numpy(weights))


def store_pixels(
    path: str | os.PathLike[str], count: int, shape: Sequence[int], blocks: Iterable[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Writes blocks of pictures one after the other into a .npy file, whole or not at all, and maps it into memory."""
    with atomic_path(path) as temporary:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(count, *shape))
        row = 0
        for block in blocks:
            store[row : row + len(block)] = block
            row += len(block)
        if row != count:
            raise ValueError(f"{Path(path).name} was to hold {count} pictures, but {row} came")
        store.flush()
    mapped: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped
