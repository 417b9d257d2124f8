"""Pseudo-label matching: which class each cluster is, as a stable marriage, with a certificate of the outcome.

K is the number of clusters, C of classes. A table says at [k, c] how well cluster k and class c suit each other.
Pairs are ranked strictly: by the table, then by each tie-break table in turn, then the lower cluster, then the lower class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gdui import checks

__all__ = ["Matching", "hungarian", "stable_match"]

Table = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Matching:
    """Who got whom, and how good that is.

    class_of_cluster: the class of each cluster, -1 for none [K, int64].
    unmatched_classes: the classes that no cluster got.
    blocking_pairs: pairs that would both rather have each other than what they got; 0 is what stable means.
    margin: what each cluster's class has over its best other class, negative where it had to yield one [K];
        NaN for a cluster without a class, infinite where there is only one class.
    zero_vote: clusters whose class has priority 0 in their eyes [K].
    """

    class_of_cluster: npt.NDArray[np.int64]
    unmatched_classes: npt.NDArray[np.int64]
    blocking_pairs: int
    margin: npt.NDArray[np.float64]
    zero_vote: npt.NDArray[np.bool_]
    _priority: Table = field(repr=False)
    _capacity: npt.NDArray[np.int64] = field(repr=False)

    @cached_property
    def total(self) -> float:
        """The sum of the matched clusters' priorities."""
        matched = np.flatnonzero(self.class_of_cluster >= 0)
        return float(self._priority[matched, self.class_of_cluster[matched]].sum(dtype=np.float64))

    @cached_property
    def gap(self) -> float:
        """What the best assignment's total has over this one's; worked out when first asked for."""
        best = _assignment(self._priority, self._capacity)
        matched = np.flatnonzero(best >= 0)
        return float(self._priority[matched, best[matched]].sum(dtype=np.float64)) - self.total


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
    """
    checks.thread_count(threads)
    table = checks.array("priority", priority, 2)
    other = table if class_priority is None else _like("class_priority", class_priority, table)
    ties = _tie_breaks(tie_break, table)
    seats = _capacity(capacity, table.shape[1])
    mine, theirs = _rank(table, ties), _rank(other, ties)
    return _certified(_propose(mine, theirs, seats), table, mine, theirs, seats)


def hungarian(
    priority: npt.ArrayLike, capacity: int | npt.ArrayLike | None = None, *, threads: int | None = None
) -> Matching:
    """Matches clusters with classes so that the sum of their priorities is the largest; not stable in general."""
    checks.thread_count(threads)
    table = checks.array("priority", priority, 2)
    seats = _capacity(capacity, table.shape[1])
    rank = _rank(table, [])
    return _certified(_assignment(table, seats), table, rank, rank, seats)


def _like(name: str, value: npt.ArrayLike, table: Table) -> Table:
    out = checks.array(name, value, 2)
    if out.shape != table.shape:
        raise ValueError(f"{name} must have priority's shape {table.shape}, not {out.shape}")
    return out


def _tie_breaks(given: npt.ArrayLike | Sequence[npt.ArrayLike] | None, table: Table) -> list[Table]:
    if given is None:
        return []
    several = isinstance(given, (list, tuple)) and (not given or np.ndim(given[0]) == 2)
    if not several:
        return [_like("tie_break", given, table)]  # type: ignore[arg-type]
    return [_like(f"tie_break[{i}]", item, table) for i, item in enumerate(given)]  # type: ignore[arg-type]


def _capacity(given: int | npt.ArrayLike | None, classes: int) -> npt.NDArray[np.int64]:
    seats = np.asarray(1 if given is None else given)
    seats = np.full(classes, seats) if seats.ndim == 0 else seats
    return checks.indices("capacity", seats, length=classes).astype(np.int64)


def _assignment(table: Table, seats: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each cluster in the assignment of the largest total; a class appears once for each of its seats."""
    from scipy.optimize import linear_sum_assignment

    column = np.repeat(np.arange(table.shape[1]), np.minimum(seats, len(table)))
    rows, columns = linear_sum_assignment(table[:, column].astype(np.float64, copy=False), maximize=True)
    out = np.full(len(table), -1, dtype=np.int64)
    out[rows] = column[columns]
    return out


def _rank(table: Table, ties: list[Table]) -> npt.NDArray[np.int64]:
    keys = [
        np.arange(table.size),
        *(-t.astype(np.float64).ravel() for t in reversed(ties)),
        -table.astype(np.float64).ravel(),
    ]
    rank = np.empty(table.size, dtype=np.int64)
    rank[np.lexsort(keys)] = np.arange(table.size)
    return rank.reshape(table.shape)


def _propose(
    mine: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], seats: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    out = np.full(len(mine), -1, dtype=np.int64)
    wishes = np.argsort(mine, axis=1)
    asked = np.zeros(len(mine), dtype=np.int64)
    held: list[list[int]] = [[] for _ in seats]
    free = list(range(len(mine)))
    while free:
        k = free.pop()
        while asked[k] < len(seats):
            c = int(wishes[k, asked[k]])
            asked[k] += 1
            held[c].append(k)
            if len(held[c]) <= seats[c]:
                break
            worst = max(held[c], key=lambda row: int(theirs[row, c]))
            held[c].remove(worst)
            k = worst
    for c, rows in enumerate(held):
        out[rows] = c
    return out


def _certified(
    classes: npt.NDArray[np.int64],
    table: Table,
    mine: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int64],
    seats: npt.NDArray[np.int64],
) -> Matching:
    n, m = table.shape
    matched = np.flatnonzero(classes >= 0)
    taken = np.bincount(classes[matched], minlength=m)
    own = np.full(n, table.size)
    own[matched] = mine[matched, classes[matched]]
    worst = np.where(taken < seats, table.size, -1)
    np.maximum.at(worst, classes[matched], theirs[matched, classes[matched]])
    blocking = int(((mine < own[:, None]) & (theirs < worst)).sum())
    value = np.full(n, np.nan)
    value[matched] = table[matched, classes[matched]]
    others = table.astype(np.float64)
    others[matched, classes[matched]] = -np.inf
    margin = value - others.max(axis=1, initial=-np.inf)
    return Matching(classes, np.flatnonzero(taken == 0), blocking, margin, value == 0, table, seats)
