"""What is made of every image's vector, and of every image's scores: one pass each, in the C++ core."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import _core

__all__ = ["Choice", "Products", "Units", "choose", "first_not_finite", "project", "softmax", "unit_rows", "units"]

Matrix = npt.NDArray[np.float32]


class Choice(NamedTuple):
    """Of each row of scores: the columns of the largest and the next, the largest itself, its share and its lead.

    Ties go to the lower column. The share is that of a softmax. Where there is but one column it is also the next.
    """

    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    most: Matrix
    share: Matrix
    lead: Matrix


class Units(NamedTuple):
    """Vectors at length 1 [n, d], less their center and as they are.

    plain: has no rows where nobody asked for it.
    wrong: the first vector whose length is not finite.
    """

    centred: Matrix
    plain: Matrix
    wrong: int | None


class Products(NamedTuple):
    """Of vectors at length 1 with columns: less their center, and as they are.

    wrong: the first vector whose length is not finite.
    """

    centred: list[Matrix]
    plain: Matrix
    wrong: int | None


def first_not_finite(rows: npt.NDArray[Any]) -> int | None:
    """Which row [n, d] is the first that holds NaN or what no float32 holds."""
    return _found(_core.first_not_finite(_real(rows), torch.get_num_threads()))


def unit_rows(rows: npt.NDArray[Any], center: Matrix | None = None) -> Matrix:
    """The vectors [n, d] less the center [d], at length 1; where nothing is left they are 0."""
    return units(rows, np.zeros(rows.shape[1], np.float32) if center is None else center, plain=False).centred


def units(rows: npt.NDArray[Any], center: Matrix, *, plain: bool) -> Units:
    """The vectors [n, d] less the center [d] at length 1, and if wanted as they are at length 1: read but once."""
    unit, own = np.empty(rows.shape, np.float32), np.empty(rows.shape if plain else (0, rows.shape[1]), np.float32)
    wrong = _core.centred_rows(_real(rows), center, unit, own if plain else None, torch.get_num_threads())
    return Units(unit, own, _found(wrong))


def project(rows: npt.NDArray[Any], center: Matrix, centred: Sequence[Matrix], plain: Matrix) -> Products:
    """The vectors [n, d] at length 1: less the center [d] times each of `centred` [k, d], as they are times `plain`."""
    n = len(rows)
    less = [(columns, np.empty((n, len(columns)), np.float32)) for columns in centred]
    own = [(plain, np.empty((n, len(plain)), np.float32))]
    wrong = _core.project(_real(rows), center, less, own, torch.get_num_threads())
    return Products([products for _, products in less], own[0][1], _found(wrong))


def choose(scores: Matrix, scale: float = 1.0) -> Choice:
    """What the softmax of scale × scores [n, k] says."""
    return _chosen(scores, scale, None)


def softmax(scores: Matrix, scale: float) -> Matrix:
    """Probabilities [n, k] by scale × scores, which they take the place of."""
    _chosen(scores, scale, scores)
    return scores


def _chosen(scores: Matrix, scale: float, softmax: Matrix | None) -> Choice:
    n = len(scores)
    columns = (np.empty(n, np.int32), np.empty(n, np.int32))
    out = Choice(*columns, np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32))
    _core.choose(scores, scale, *out, softmax, torch.get_num_threads())
    return out


def _real(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows if rows.dtype in (np.float16, np.float32, np.float64) else rows.astype(np.float32)


def _found(row: int) -> int | None:
    return None if row < 0 else row
