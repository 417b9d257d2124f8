"""The compiled search equals brute force, whatever the processor, the threads and the data. Needs NumPy alone."""

import os
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui import _core

Floats = npt.NDArray[np.float32]
Found = tuple[npt.NDArray[np.int32], Floats]


def unit_rows(rows: npt.NDArray[np.floating]) -> Floats:
    block = np.ascontiguousarray(rows, np.float64 if rows.dtype == np.float64 else np.float32)
    unit = np.empty((len(rows), -(-rows.shape[1] // 32) * 32), np.float32)
    _core.unit_rows(block, 0, unit)
    return unit


QUERIES = 700 if "GDUI_SANITIZED" in os.environ else 3100  # enough for a sanitizer, which is slow
LADDER = ("portable", "avx2", "avx512", "amx")  # a processor that lacks some takes the best of those before


def search(
    rows: Floats,
    k: int,
    *,
    queries: Floats | None = None,
    threads: int = 1,
    instructions: str = "amx",
    leave_self_out: bool = False,
) -> Found:
    asked = rows if queries is None else queries
    return _core.nearest(rows, asked, k=k, leave_self_out=leave_self_out, threads=threads, instructions=instructions)


def similarities(rows: Floats, queries: Floats) -> Floats:
    """Every similarity [Q, N], summed in the order that similarity.cpp promises."""
    lanes = np.zeros((len(queries), len(rows), 32))
    for start in range(0, rows.shape[1], 32):
        part = slice(start, start + 32)
        lanes += queries[:, None, part].astype(np.float64) * rows[None, :, part].astype(np.float64)
    while lanes.shape[-1] > 1:
        lanes = lanes[..., : lanes.shape[-1] // 2] + lanes[..., lanes.shape[-1] // 2 :]
    return lanes[..., 0].astype(np.float32)


def brute_force(rows: Floats, k: int, *, leave_self_out: bool = False) -> Found:
    every = similarities(rows, rows)
    if leave_self_out:
        np.fill_diagonal(every, -np.inf)
    order = np.argsort(-every, axis=1, kind="stable")[:, :k]
    return order.astype(np.int32), np.take_along_axis(every, order, axis=1)


def assert_same(found: Found, wanted: Found) -> None:
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def heap(kind: str, n: int, d: int, seed: int) -> npt.NDArray[np.floating]:
    """Rows that make neighbours hard to tell apart, each kind in its own way."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d))
    if kind == "clusters":
        rows = rows * 0.1 + rng.standard_normal((4, d))[rng.integers(0, 4, n)]
    elif kind == "tight":
        rows = rows * 1e-4 + rng.standard_normal((4, d))[rng.integers(0, 4, n)]
    elif kind == "duplicates":
        rows = rows[rng.integers(0, max(1, n // 5), n)]
    elif kind == "zeros":
        rows[rng.random(n) < 0.3] = 0
    elif kind == "equal":
        rows = np.broadcast_to(rows[:1], rows.shape)
    elif kind == "spikes":
        rows[:, 0] += 100
    elif kind == "huge":
        rows = rows * 10.0 ** rng.integers(-300, 300, (n, 1))
    return rows


KINDS = ("noise", "clusters", "tight", "duplicates", "zeros", "equal", "spikes", "huge")


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 150),
    d=st.sampled_from([1, 3, 31, 64, 97]),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    leave_self_out=st.booleans(),
    instructions=st.sampled_from(LADDER),
)
def test_equals_brute_force(
    kind: str, n: int, d: int, share: float, seed: int, leave_self_out: bool, instructions: str
) -> None:
    leave_self_out &= n > 1
    rows = unit_rows(heap(kind, n, d, seed))
    k = 1 + int(share * (n - leave_self_out - 1))
    found = search(rows, k, instructions=instructions, leave_self_out=leave_self_out)
    assert_same(found, brute_force(rows, k, leave_self_out=leave_self_out))


@pytest.mark.parametrize("kind", ["noise", "clusters", "tight", "duplicates"])
def test_threads_and_processors_change_nothing(kind: str) -> None:
    rows = unit_rows(heap(kind, 3100, 130, seed=1))  # of three centres
    queries = rows[:QUERIES]
    wanted = search(rows, 40, queries=queries)
    for threads, instructions in product((1, 2, 5), LADDER):
        assert_same(search(rows, 40, queries=queries, threads=threads, instructions=instructions), wanted)
    some = np.arange(0, len(queries), 97)
    every = similarities(rows, rows[some])
    np.testing.assert_array_equal(wanted[0][some], np.argsort(-every, axis=1, kind="stable")[:, :40])


def test_wide_rows_equal_brute_force() -> None:
    rows = unit_rows(heap("clusters", 60, 2047, seed=2))
    assert_same(search(rows, 7), brute_force(rows, 7))


def test_rows_too_wide_for_sums_of_bytes_equal_brute_force() -> None:
    rows = unit_rows(np.ones((5, 70_000), np.float32) + np.eye(5, 70_000, dtype=np.float32))
    assert_same(search(rows, 3), brute_force(rows, 3))


def test_other_queries_find_rows() -> None:
    rows, queries = (unit_rows(heap("noise", n, 50, seed=n)) for n in (700, 33))
    every = similarities(rows, queries)
    indices, similarity = _core.nearest(rows, queries, k=9, leave_self_out=False, threads=2)
    np.testing.assert_array_equal(indices, np.argsort(-every, axis=1, kind="stable")[:, :9])
    np.testing.assert_array_equal(similarity, np.take_along_axis(every, indices.astype(np.int64), axis=1))


def test_the_first_rows_may_be_the_queries() -> None:
    rows = unit_rows(heap("clusters", 500, 40, seed=3))
    found = _core.nearest(rows, rows[:9], k=4, leave_self_out=False, threads=1)
    assert_same(found, tuple(part[:9] for part in search(rows, 4)))


def test_no_queries_find_nothing() -> None:
    rows = unit_rows(heap("noise", 10, 5, seed=0))
    indices, _ = _core.nearest(rows, rows[:0], k=3, leave_self_out=False, threads=2)
    assert indices.shape == (0, 3)


def test_unit_rows_have_length_one_whatever_their_scale() -> None:
    rows = heap("huge", 200, 33, seed=3)
    unit = unit_rows(rows)
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(unit[:, 33:], 0)
    np.testing.assert_array_equal(unit_rows(rows * 4), unit)


def test_rank_gives_the_order_of_the_search() -> None:
    rows = unit_rows(heap("duplicates", 90, 40, seed=4))
    wanted = search(rows, 20)
    indices = np.ascontiguousarray(np.random.default_rng(0).permuted(wanted[0], axis=1))
    similarity = _core.rank(rows, rows, indices, threads=2)
    assert_same((indices, similarity), wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value: float) -> None:
    rows = heap("noise", 9, 4, seed=0)
    rows[7, 2] = value
    with pytest.raises(ValueError, match="row 7 holds NaN or infinity"):
        unit_rows(rows)


@pytest.mark.parametrize(("k", "leave_self_out"), [(0, False), (10, False), (9, True), (-1, False)])
def test_impossible_counts_are_refused(k: int, leave_self_out: bool) -> None:
    rows = unit_rows(heap("noise", 9, 4, seed=0))
    with pytest.raises(ValueError, match="k must be between 1"):
        search(rows, k, leave_self_out=leave_self_out)


def test_arrays_of_the_wrong_shape_are_refused() -> None:
    rows = unit_rows(heap("noise", 9, 4, seed=0))
    with pytest.raises(ValueError, match="padded width"):
        _core.nearest(rows, rows[:, :4].copy(), k=1, leave_self_out=False, threads=1)
    with pytest.raises(ValueError, match="numbers of rows"):
        _core.rank(rows, rows, np.full((9, 1), 9, np.int32), threads=1)
    with pytest.raises(ValueError, match="does not fit"):
        _core.unit_rows(np.zeros((2, 4), np.float32), 8, rows)
