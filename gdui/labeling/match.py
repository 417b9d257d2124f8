"""Pseudo-label matching: which class each cluster is, as a stable marriage, with a certificate of the outcome.

K is the number of clusters, C of classes. A table says at [k, c] how well cluster k and class c suit each other.
Pairs are ranked strictly: by the table, then by each tie-break table in turn, then the lower cluster, then the lower
class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdui import _core, checks

__all__ = ["Matching", "hungarian", "stable_match"]

MOST_CELLS = 1 << 28
LARGEST_WEIGHED = 1e290  # sums and differences of as many as fit in memory stay finite

Table = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Matching:
    """Who got whom, and how good that is.

    class_of_cluster: the class of each cluster, -1 for none [K, int64].
    unmatched_classes: the classes that no cluster got.
    blocking_pairs: pairs that would both rather have each other than what they got; 0 is what stable means.
    margin: what each cluster's class has over its best other class, negative where it had to yield one [K];
        NaN for a cluster without a class, infinite where there is only one class, else at most the largest float64.
    zero_vote: clusters whose class has priority 0 in their eyes [K].

    Two matchings are equal if they are the same one.
    """

    class_of_cluster: npt.NDArray[np.int64]
    unmatched_classes: npt.NDArray[np.int64]
    blocking_pairs: int
    margin: npt.NDArray[np.float64]
    zero_vote: npt.NDArray[np.bool_]
    _value: npt.NDArray[np.float64] = field(repr=False)
    _priority: Table = field(repr=False)
    _capacity: npt.NDArray[np.int64] = field(repr=False)
    _checksum: int = field(repr=False)

    @cached_property
    def total(self) -> float:
        """The sum of the matched clusters' priorities."""
        return _sum(self._value[self.class_of_cluster >= 0])

    @cached_property
    def gap(self) -> float:
        """What the best assignment's total has over this one's; worked out when first asked for.

        The caller's own table is kept for it, not a copy: once that has been changed there is no gap but a ValueError.
        """
        now = _core.certify(self._priority, None, [], self._capacity, self.class_of_cluster, checks.thread_count())
        if now[-1] != self._checksum:
            raise ValueError("priority has been changed since it was matched: ask for gap before that, or match again")
        best = _assignment(self._priority, self._capacity)
        matched = np.flatnonzero(best >= 0)
        return _sum(self._priority[matched, best[matched]]) - self.total


def stable_match(
    priority: npt.ArrayLike,
    class_priority: npt.ArrayLike | None = None,
    tie_break: npt.ArrayLike | Sequence[npt.ArrayLike] | None = None,
    capacity: int | npt.ArrayLike | None = None,
    *,
    threads: int | None = None,
) -> Matching:
    """Matches clusters with classes so that no two would rather have each other.

    With one table both sides rank by it, and there is exactly one stable matching. With two it is the one that is
    best for every cluster. Clusters beyond the classes' capacity stay without a class.

    priority: [K, C], how much cluster k wants class c.
    class_priority: [K, C], how much class c wants cluster k; without it `priority` serves both sides.
    tie_break: a [K, C] table, or several, asked in turn where the priorities are equal.
    capacity: how many clusters a class takes: one number, or one a class [C]; 1 if not given.
    threads: as many as the cores if not given; the answer is the same.
    """
    workers = checks.thread_count(threads)
    shared = class_priority is None
    table = checks.array("priority", priority, 2, finite=not shared)
    other = None if class_priority is None else _like("class_priority", class_priority, table)
    ties = _tie_breaks(tie_break, table)
    seats = _capacity(capacity, table.shape[1])
    classes = _core.stable_match(table, other, ties, seats, workers)
    return _certified(classes, table, other, ties, seats, workers)


def hungarian(
    priority: npt.ArrayLike, capacity: int | npt.ArrayLike | None = None, *, threads: int | None = None
) -> Matching:
    """Matches clusters with classes so that the sum of their priorities is the largest; not stable in general.

    The arguments are those of `stable_match`.
    """
    workers = checks.thread_count(threads)
    table = checks.array("priority", priority, 2)
    seats = _capacity(capacity, table.shape[1])
    return _certified(_assignment(table, seats), table, None, [], seats, workers)


def _like(name: str, value: npt.ArrayLike, table: Table) -> Table:
    out = checks.array(name, value, 2)
    if out.shape != table.shape:
        raise ValueError(f"{name} must have priority's shape {table.shape}, not {out.shape}")
    return out


def _tie_breaks(given: npt.ArrayLike | Sequence[npt.ArrayLike] | None, table: Table) -> list[Table]:
    if given is None:
        return []
    several = isinstance(given, (list, tuple)) and (not given or checks.on_cpu("tie_break[0]", given[0], 2).ndim == 2)
    if not several:
        return [_like("tie_break", given, table)]  # type: ignore[arg-type]
    return [_like(f"tie_break[{i}]", item, table) for i, item in enumerate(given)]  # type: ignore[arg-type]


def _capacity(given: int | npt.ArrayLike | None, classes: int) -> npt.NDArray[np.int64]:
    seats = checks.on_cpu("capacity", 1 if given is None else given, 1)
    seats = np.full(classes, seats) if seats.ndim == 0 else seats
    return checks.indices("capacity", seats, checks.BEYOND_INT64, length=classes).astype(np.int64)


def _sum(values: Table) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(values.sum(dtype=np.float64))
    if not math.isfinite(total):
        raise ValueError("priority holds numbers too large to be summed: scale them down")
    return total


def _assignment(table: Table, seats: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each cluster in the assignment of the largest total; a class appears once for each of its seats."""
    from scipy.optimize import linear_sum_assignment

    if table.size:
        favourite: npt.NDArray[np.int64] = table.argmax(axis=1)
        if (np.bincount(favourite, minlength=len(seats)) <= seats).all():
            return favourite
    places = int(np.minimum(seats, len(table)).sum())
    if len(table) * places > MOST_CELLS:
        raise ValueError(
            f"capacity gives {places} seats to {len(table)} clusters: the best assignment's table would have more than "
            f"{MOST_CELLS} cells"
        )
    if table.size and max(float(table.max()), -float(table.min())) > LARGEST_WEIGHED:
        raise ValueError(
            f"priority must be at most {LARGEST_WEIGHED} either way, or the best assignment can't be found"
        )
    column = np.repeat(np.arange(table.shape[1]), np.minimum(seats, len(table)))
    rows, columns = linear_sum_assignment(table[:, column].astype(np.float64, copy=False), maximize=True)
    out = np.full(len(table), -1, dtype=np.int64)
    out[rows] = column[columns]
    return out


def _certified(
    classes: npt.NDArray[np.int64],
    table: Table,
    class_table: Table | None,
    ties: list[Table],
    seats: npt.NDArray[np.int64],
    threads: int,
) -> Matching:
    blocking, margin, value, checksum = _core.certify(table, class_table, ties, seats, classes, threads)
    left = np.ones(table.shape[1], dtype=bool)
    left[classes[classes >= 0]] = False
    return Matching(classes, np.flatnonzero(left), blocking, margin, value == 0, value, table, seats, checksum)
