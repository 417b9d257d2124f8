"""Copies of one image: only the first of them teaches. Left in, they are each other's nearest neighbours.

A graph of k neighbours falls to pieces where an image has nearly k copies, and the votes spread no further than these.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Originals", "originals"]

BLOCK = 1 << 12  # rows; their bits take up to four times the room of the features


class Originals(NamedTuple):
    """The images that are kept, ascending, and for each of all images the place in `kept` of what it is a copy of."""

    kept: npt.NDArray[np.int64]
    copy_of: npt.NDArray[np.int64]


def originals(
    features: npt.NDArray[np.floating], votes: npt.NDArray[np.integer], apart: npt.NDArray[np.integer]
) -> Originals:
    """Of images with the same features [N, d] and the same vote [N] the first; those `apart` stand for themselves."""
    own = np.zeros(len(features), np.uint64)
    own[apart] = np.arange(1, len(apart) + 1, dtype=np.uint64)
    key = _prints(features, np.stack([votes.astype(np.uint64), own], axis=1))
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    if not _same(features, first[group]):  # two prints in 2^64 are alike by chance
        every = np.arange(len(features))
        return Originals(every, every)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    return Originals(np.sort(first).astype(np.int64), place[group])


def _prints(features: npt.NDArray[np.floating], more: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A number for each row of bits, the same for the same bits: a sum with odd weights, modulo 2^64.

    Each number's bytes are turned round first: the last ones are 0 in whole numbers and in what was float32, and zeros
    at the end of all terms are zeros at the end of the sum, which leave it few values.
    """
    bits = np.ascontiguousarray(features).view(np.dtype(f"u{features.dtype.itemsize}"))
    weights = np.random.default_rng(0).integers(0, 1 << 63, bits.shape[1] + more.shape[1], np.uint64) * 2 + 1
    out = more @ weights[bits.shape[1] :]
    for at in range(0, len(bits), BLOCK):
        out[at : at + BLOCK] += bits[at : at + BLOCK].byteswap().astype(np.uint64) @ weights[: bits.shape[1]]
    return np.asarray(out, np.uint64)


def _same(features: npt.NDArray[np.floating], other: npt.NDArray[np.integer]) -> bool:
    """Whether each row is the one at `other`, bit for bit."""
    moved = np.flatnonzero(other != np.arange(len(features)))
    parts = (moved[at : at + BLOCK] for at in range(0, len(moved), BLOCK))
    return all(np.array_equal(features[rows], features[other[rows]]) for rows in parts)
