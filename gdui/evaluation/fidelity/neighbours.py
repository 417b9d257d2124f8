"""Improved precision and recall (Kynkäänniemi et al., 2019), exactly.

The ball of a sample reaches to its k-th nearest neighbour in its own set. Precision is the share of generated samples
in some ball of a real one, recall the share of real samples in some ball of a generated one. Distances are sums in
float64; csrc/balls.cpp finds by products of bytes which ones have to be taken.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdui import _core, checks

__all__ = ["PrecisionRecall", "precision_recall"]

LANES = 32
Floats = npt.NDArray[np.float32]


class PrecisionRecall(NamedTuple):
    """How much of what was generated looks real, and how much of what is real was generated."""

    precision: float
    recall: float


def precision_recall(
    generated: npt.ArrayLike, real: npt.ArrayLike, k: int = 3, *, threads: int | None = None
) -> PrecisionRecall:
    """Precision and recall of `generated` [N, d] beside `real` [M, d]; features are taken as float32.

    Args:
        generated: features of generated images.
        real: features of real ones.
        k: how many neighbours a ball reaches to, the sample itself not counted.
        threads: default: every core. The answer is the same.
    """
    drawn, true = _as_float32("generated", generated), _as_float32("real", real)
    if drawn.shape[1] != true.shape[1]:
        raise ValueError(f"generated must have {true.shape[1]} columns as real has, not {drawn.shape[1]}")
    fewest = min(len(drawn), len(true))
    if not 1 <= checks.whole("k", k, 1) < fewest:
        raise ValueError(f"k must be below {fewest}, the number of samples of the smaller set, not {k}")
    count = checks.thread_count(threads)
    drawn, true = _within_half(drawn, true)
    return PrecisionRecall(_covered(drawn, true, k, count), _covered(true, drawn, k, count))


def _covered(points: Floats, rows: Floats, k: int, threads: int) -> float:
    squares = _core.radii(rows, k=k + 1, threads=threads)
    return float(_core.inside(points, rows, squares, threads=threads).mean())


def _as_float32(name: str, features: npt.ArrayLike) -> Floats:
    rows = checks.array(name, features, 2)
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32, copy=False)
    checks.finite_numbers(f"{name} in float32", narrow)
    return narrow


def _within_half(*sets: Floats) -> list[Floats]:
    """All sets padded to whole lanes, divided by one power of two, so that no vector is longer than 1/2."""
    out = []
    for rows in sets:
        padded = np.zeros((len(rows), max(1, -(-rows.shape[1] // LANES)) * LANES), np.float32)
        padded[:, : rows.shape[1]] = rows
        out.append(padded)
    longest = max(float(np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64).max())) for rows in out)
    exponent = int(np.frexp(longest)[1]) + 1
    return [np.ldexp(rows, -exponent) for rows in out]
