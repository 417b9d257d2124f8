"""What is made of every image's vector, and of every image's scores: one pass each, in the C++ core."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import _core

__all__ = ["Choice", "choose", "first_not_finite", "softmax", "unit_rows"]

Matrix = npt.NDArray[np.float32]


class Choice(NamedTuple):
    """Of each row of scores: the columns of the largest and the next, and the largest's share and lead.

    Ties go to the lower column. The share is that of a softmax. Where there is but one column it is also the next.
    """

    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    share: Matrix
    lead: Matrix


def first_not_finite(rows: npt.NDArray[Any]) -> int | None:
    """Which row [n, d] is the first that holds NaN or what no float32 holds."""
    wrong = _core.first_not_finite(_real(rows), torch.get_num_threads())
    return None if wrong < 0 else wrong


def unit_rows(rows: npt.NDArray[Any], center: Matrix | None = None) -> Matrix:
    """The vectors [n, d] less the center [d], at length 1; where nothing is left they are 0."""
    unit = np.empty(rows.shape, np.float32)
    center = np.zeros(rows.shape[1], np.float32) if center is None else center
    _core.centred_rows(_real(rows), center, unit, torch.get_num_threads())
    return unit


def choose(scores: Matrix, scale: float = 1.0) -> Choice:
    """What the softmax of scale × scores [n, k] says."""
    return _chosen(scores, scale, None)


def softmax(scores: Matrix, scale: float) -> Matrix:
    """Probabilities [n, k] by scale × scores, which they take the place of."""
    _chosen(scores, scale, scores)
    return scores


def _chosen(scores: Matrix, scale: float, softmax: Matrix | None) -> Choice:
    n = len(scores)
    out = Choice(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32))
    _core.choose(scores, scale, *out, softmax, torch.get_num_threads())
    return out


def _real(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows if rows.dtype in (np.float16, np.float32, np.float64) else rows.astype(np.float32)
