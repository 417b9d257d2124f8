"""Stable matching against brute force, greedy and deferred acceptance written out, and its certificate."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gdui import _core
from gdui.labeling.match import hungarian, stable_match

Table = npt.NDArray[Any]


def tables(most: int = 8, values: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[Table]:
    """Small tables full of ties."""
    shape = st.tuples(st.integers(1, most), st.integers(1, most))
    return shape.flatmap(lambda s: arrays(np.float32, s, elements=st.integers(0, 3) if values is None else values))


def ranks(*keys: Table) -> Table:
    """The strict order of all pairs: 0 is the best."""
    flat = [np.arange(keys[0].size), *(-key.astype(float).ravel() for key in reversed(keys))]
    rank = np.empty(keys[0].size, dtype=int)
    rank[np.lexsort(flat)] = np.arange(keys[0].size)
    return rank.reshape(keys[0].shape)


def greedy(rank: Table, seats: Table) -> Table:
    classes, left = np.full(len(rank), -1), seats.copy()
    for pair in np.argsort(rank, axis=None):
        k, c = divmod(int(pair), rank.shape[1])
        if classes[k] < 0 and left[c] > 0:
            classes[k] = c
            left[c] -= 1
    return classes


def blocking(mine: Table, theirs: Table, classes: Table, seats: Table) -> int:
    count = 0
    for k, c in np.ndindex(*mine.shape):
        held = np.flatnonzero(classes == c)
        wants = classes[k] < 0 or mine[k, c] < mine[k, classes[k]]
        takes = len(held) < seats[c] or any(theirs[k, c] < theirs[j, c] for j in held)
        count += bool(classes[k] != c and wants and takes)
    return count


def all_matchings(rows: int, seats: Table) -> list[Table]:
    options = itertools.product(range(-1, len(seats)), repeat=rows)
    found = [np.array(option) for option in options]
    return [m for m in found if (np.bincount(m[m >= 0], minlength=len(seats)) <= seats).all()]


@settings(max_examples=150, deadline=None)
@given(tables(), st.data())
def test_one_table_gives_the_greedy_matching_and_it_is_stable(table: Table, data: st.DataObject) -> None:
    seats = data.draw(arrays(np.int64, table.shape[1], elements=st.integers(0, 3)))
    tie = data.draw(arrays(np.float64, table.shape, elements=st.integers(0, 1)))
    rank = ranks(table, tie)
    found = stable_match(table, tie_break=tie, capacity=seats)
    np.testing.assert_array_equal(found.class_of_cluster, greedy(rank, seats))
    assert found.blocking_pairs == 0 == blocking(rank, rank, found.class_of_cluster, seats)


@settings(max_examples=100, deadline=None)
@given(tables(4), st.data())
def test_two_tables_give_every_cluster_its_best_stable_class(table: Table, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float64, table.shape, elements=st.integers(0, 3)))
    seats = data.draw(arrays(np.int64, table.shape[1], elements=st.integers(0, 2)))
    mine, theirs = ranks(table), ranks(other)
    found = stable_match(table, other, capacity=seats)
    assert found.blocking_pairs == 0
    stable = [m for m in all_matchings(len(table), seats) if blocking(mine, theirs, m, seats) == 0]
    wish = np.column_stack([mine, np.full(len(mine), mine.size)])  # index -1 is the wish of last resort
    best = np.min([wish[np.arange(len(mine)), m] for m in stable], axis=0)
    np.testing.assert_array_equal(wish[np.arange(len(mine)), found.class_of_cluster], best)


@settings(max_examples=100, deadline=None)
@given(tables(6), st.data())
def test_blocking_pairs_of_any_matching_are_counted(table: Table, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, table.shape, elements=st.integers(0, 3)))
    tie = data.draw(arrays(np.float32, table.shape, elements=st.integers(0, 1)))
    classes = np.array(
        data.draw(st.lists(st.integers(-1, table.shape[1] - 1), min_size=len(table), max_size=len(table)))
    )
    seats = np.bincount(classes[classes >= 0], minlength=table.shape[1]) + data.draw(st.integers(0, 1))
    for theirs in (None, other):
        count, _, _, _ = _core.certify(table, theirs, [tie], seats, classes, 1)
        assert count == blocking(ranks(table, tie), ranks(table if theirs is None else theirs, tie), classes, seats)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_permuting_clusters_or_classes_permutes_the_result(rows: int, cols: int, seed: int, two: bool) -> None:
    rng = np.random.default_rng(seed)
    table, other = rng.random((2, rows, cols))
    p, q = rng.permutation(rows), rng.permutation(cols)
    plain = stable_match(table, other if two else None).class_of_cluster
    moved = stable_match(table[p][:, q], other[p][:, q] if two else None).class_of_cluster
    np.testing.assert_array_equal(np.append(q, -1)[moved], plain[p])


def one_mind(n: int, rng: np.random.Generator) -> Table:
    """Every cluster ranks the classes alike, and every class the clusters: the hardest case for proposals."""
    return (np.sort(rng.random(n))[None, :] + 1e-3 * rng.random(n)[:, None]).astype(np.float64)


def misled(n: int, rng: np.random.Generator) -> Table:
    """Clusters of one mind whose highest pairs say nothing about the rest: whoever proposes later is wanted more."""
    table = one_mind(n, rng)
    worth = table[:, 0].argsort()
    table[worth, -1] = 3 - np.arange(n) / n
    return table


@pytest.mark.parametrize("kind", ["random", "one mind", "misled", "votes", "all equal", "wide", "tall"])
def test_larger_tables_equal_greedy(kind: str, rng: np.random.Generator) -> None:
    table = {
        "random": rng.random((700, 700), dtype=np.float32),
        "one mind": one_mind(600, rng),
        "misled": misled(500, rng),
        "votes": rng.poisson(0.05, (500, 500)).astype(np.float16),
        "all equal": np.zeros((300, 300), np.float32),
        "wide": np.round(one_mind(900, rng), 3)[:200],
        "tall": one_mind(900, rng)[:, :200],
    }[kind]
    seats = np.ones(table.shape[1], dtype=np.int64)
    found = stable_match(table)
    np.testing.assert_array_equal(found.class_of_cluster, greedy(ranks(table), seats))
    assert found.blocking_pairs == 0
    np.testing.assert_array_equal(stable_match(table, table.copy()).class_of_cluster, found.class_of_cluster)


@pytest.mark.parametrize("capacity", [1, 2, 3])
@pytest.mark.parametrize("make", [one_mind, misled])
def test_every_seat_is_filled(make: Callable[..., Table], capacity: int, rng: np.random.Generator) -> None:
    table = make(400, rng)[:, -150:]
    tie = rng.integers(0, 2, table.shape)
    found = stable_match(table.round(4), tie_break=tie, capacity=capacity)
    np.testing.assert_array_equal(found.class_of_cluster, greedy(ranks(table.round(4), tie), np.full(150, capacity)))
    assert found.blocking_pairs == 0


def test_few_classes_that_all_want_first(rng: np.random.Generator) -> None:
    """Far more clusters than classes, of one mind: eight times as many took a hundred times as long."""
    taken = []
    for n in (10_000, 80_000):
        table, seats = np.sort(rng.random(10))[::-1][None] * 10 + 1e-3 * rng.random(n)[:, None], np.full(10, n // 10)
        start = time.process_time()
        found = _core.stable_match(table, None, [], seats, 1)
        taken.append(time.process_time() - start)
        np.testing.assert_array_equal(found, greedy(ranks(table), seats))
    assert taken[1] < 30 * taken[0]


@pytest.mark.parametrize("capacity", [1, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_proposals_that_are_turned_away_again_and_again(capacity: int, ties: bool, rng: np.random.Generator) -> None:
    """Clusters of one mind, and whoever comes later is wanted more: as many proposals as there can be."""
    mine = np.sort(rng.random(150))[None, :] + 1e-3 * rng.random(300)[:, None]
    theirs = np.arange(300.0)[:, None] + rng.random((300, 150))
    mine, theirs = (mine.round(2), theirs.round(0)) if ties else (mine, theirs)
    seats = np.full(150, capacity)
    wish, rank = ranks(mine).argsort(axis=1), ranks(theirs)
    held, asked, free = [[] for _ in seats], np.zeros(300, int), list(range(300))
    while free:
        k = free.pop()
        if asked[k] == 150:
            continue
        c = wish[k, asked[k]]
        asked[k] += 1
        held[c] = sorted([*held[c], k], key=lambda j: rank[j, c])
        free += held[c][capacity:]
        held[c] = held[c][:capacity]
    assert asked.sum() > 16 * 300 + 64 or ties
    expected = np.full(300, -1)
    for c, rows in enumerate(held):
        expected[rows] = c
    found = stable_match(mine, theirs, capacity=capacity)
    np.testing.assert_array_equal(found.class_of_cluster, expected)
    assert found.blocking_pairs == 0


def test_threads_strides_and_types_change_nothing(rng: np.random.Generator) -> None:
    table = rng.integers(0, 50, (130, 90)).astype(np.float32)
    table.flags.writeable = False
    expected = stable_match(table, threads=1)
    wide = np.zeros((130, 180), np.float32)
    wide[:, ::2] = table
    packed = np.zeros((130, 90), np.dtype([("pad", "u1"), ("x", "<f4")]))
    packed["x"] = table
    forms = [table.astype(np.float16), table.astype(np.float64), np.asfortranarray(table), wide[:, ::2], packed["x"]]
    for form in [*forms, table[::-1][::-1], table.astype(np.int8), table.tolist()]:
        for threads in (1, 2, 5):
            found = stable_match(form, threads=threads)
            np.testing.assert_array_equal(found.class_of_cluster, expected.class_of_cluster)
            np.testing.assert_array_equal(found.margin, expected.margin)


def test_the_certificate() -> None:
    table = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.3, 0.0], [0.1, 0.1, 0.1]])
    found = stable_match(table)
    assert found.class_of_cluster.tolist() == [0, -1, 1, 2]
    np.testing.assert_allclose(found.margin, [0.8, np.nan, -0.4, 0.0])
    assert stable_match(table[:3]).zero_vote.tolist() == [False, True, False]
    assert stable_match(table[:2]).unmatched_classes.tolist() == [2]
    assert stable_match(table[:, :1]).margin[0] == np.inf
    best = hungarian(table)
    assert found.gap == pytest.approx(best.total - found.total)
    assert best.gap == 0


@settings(max_examples=50, deadline=None)
@given(tables(5, st.integers(0, 9)), st.integers(1, 2))
def test_hungarian_has_the_largest_total(table: Table, capacity: int) -> None:
    found = hungarian(table, capacity)
    whole = all_matchings(len(table), np.full(table.shape[1], capacity))
    totals = [table[m >= 0, m[m >= 0]].sum() for m in whole]
    assert found.total == max(totals)
    assert stable_match(table, capacity=capacity).gap >= 0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    found = stable_match(np.zeros(shape))
    assert (found.class_of_cluster >= 0).sum() == min(shape)
    assert len(found.unmatched_classes) == shape[1] - min(shape)
    assert found.gap == 0
    assert len(stable_match(np.zeros(shape), np.zeros(shape)).class_of_cluster) == shape[0]


def test_the_gap_of_a_table_that_was_changed_is_refused(rng: np.random.Generator) -> None:
    table = np.array([[0.9, 0.8], [0.8, 0.1]])
    found, early = stable_match(table), stable_match(table)
    total, gap = found.total, early.gap
    assert gap == pytest.approx(0.6)
    table[0, 1], table[1, 1] = 0.7, 0.0  # neither the matched entries nor any margin's sign
    with pytest.raises(ValueError, match="priority has been changed since it was matched"):
        _ = found.gap
    assert found.total == total
    assert early.gap == gap
    other = rng.random((40, 30))
    for narrow in (np.float16, np.float32):
        assert stable_match(other.astype(narrow), other.copy()).gap >= 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32, np.float64]))
def test_every_change_of_a_table_shows_in_its_checksum(cols: int, seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    table = rng.permutation(3 * cols).astype(kind).reshape(3, cols)

    def checksum() -> int:
        return _core.certify(table, None, [], np.zeros(cols, np.int64), np.full(3, -1), 1)[-1]

    before = checksum()
    assert checksum() == before
    one, other = rng.choice(table.size, 2, replace=False)
    flat = table.reshape(-1)
    flat[[one, other]] = flat[[other, one]]
    swapped = checksum()
    flat[one] += 1
    assert len({before, swapped, checksum()}) == 3


def test_matchings_can_be_compared_and_put_into_sets() -> None:
    one, other = stable_match(np.eye(2)), stable_match(np.eye(2))
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2


def test_two_tables_in_one_memory_are_two_tables() -> None:
    both = np.zeros((2, 2), np.dtype({"names": ["mine", "theirs"], "formats": ["<f4", "<f2"], "offsets": [0, 0]}))
    words = np.array([[0x3F804000, 0x3F810000], [0x3F810000, 0x3F804000]], np.uint32)
    both["mine"] = words.view(np.float32)  # whose lower halves, as halves, say the contrary
    mine, theirs = both["mine"], both["theirs"]
    np.testing.assert_array_equal(mine.argsort(axis=0), theirs.argsort(axis=0)[::-1])
    classes, seats = np.array([0, 1]), np.ones(2, np.int64)
    count, _, _, _ = _core.certify(mine, theirs, [], seats, classes, 1)
    assert count == blocking(ranks(mine), ranks(theirs), classes, seats) == 0
    assert blocking(ranks(mine), ranks(mine), classes, seats) == 2


def test_margins_and_totals_of_the_largest_numbers() -> None:
    huge = np.array([[1.7e308, -1.7e308], [1.6e308, -1.7e308]])
    found = stable_match(huge)
    assert found.margin.tolist() == [np.finfo(float).max, -np.finfo(float).max]
    assert found.total == 0
    with pytest.raises(ValueError, match=r"priority must be at most 1e\+290 either way"):
        _ = found.gap
    with pytest.raises(ValueError, match=r"priority must be at most 1e\+290 either way"):
        hungarian(huge)
    with pytest.raises(ValueError, match="priority holds numbers too large to be summed"):
        _ = stable_match(huge, capacity=2).total


def test_the_gap_of_many_seats(rng: np.random.Generator) -> None:
    table = rng.random((3000, 1000), dtype=np.float32)
    assert stable_match(table, capacity=3000).gap == 0
    crowded = np.broadcast_to(np.arange(20_000.0) % 2, (20_000, 20_000))[:, :2]
    with pytest.raises(ValueError, match="capacity gives 38000 seats to 20000 clusters"):
        _ = stable_match(crowded, capacity=19_000).gap


def test_other_python_threads_run_meanwhile(rng: np.random.Generator) -> None:
    table, ticks, done = one_mind(1500, rng), list[float](), threading.Event()

    def tick() -> None:
        while not done.wait(0.0005):
            ticks.append(time.perf_counter())

    ticking = threading.Thread(target=tick)
    ticking.start()
    start = time.perf_counter()
    _core.stable_match(table, None, [], np.ones(1500, np.int64), 1)
    end = time.perf_counter()
    done.set()
    ticking.join()
    assert sum(start < moment < end for moment in ticks) >= 2
