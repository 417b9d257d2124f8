"""Where k-means begins and the sums it moves to, and a walk's steps: the core beside their plain definitions."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from gdui import _core
from gdui.labeling.exact import unit_rows

INSTRUCTIONS = ("portable", "avx2", "avx512", "amx")


def plainly(rows: npt.NDArray[np.float32], draws: npt.NDArray[np.float64]) -> list[int]:
    """k-means++ by its definition: every row is compared with every mean."""
    nearest = np.full(len(rows), -np.inf, np.float32)
    chosen: list[int] = []
    for draw in draws:
        distance = 1 - np.clip(nearest.astype(np.float64), -1, 1)
        distance[chosen] = 0
        reach = np.cumsum(distance)
        chosen.append(min(int(np.searchsorted(reach, draw * reach[-1], side="right")), len(rows) - 1))
        nearest = np.maximum(nearest, (rows.astype(np.float64) @ rows[chosen[-1]]).astype(np.float32))
    return chosen


def heap(kind: str, n: int, d: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Unit rows: anywhere, in tight lumps, or with rows of zeros and copies among them."""
    rows = random.standard_normal((n, d))
    if kind == "lumps":
        rows = random.standard_normal((7, d))[random.integers(0, 7, n)] + 0.05 * rows
    elif kind == "zeros and copies":
        rows[:: max(1, n // 5)] = 0
        rows[n // 2 :] = rows[: n - n // 2]
    return unit_rows("rows", rows)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(("anywhere", "lumps", "zeros and copies")),
    st.integers(2, 3000),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
)
def test_first_means_are_those_of_the_definition(kind: str, n: int, d: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, draws = heap(kind, n, d, random), random.random(min(k, n))
    assert _core.first_means(rows, draws, 2).tolist() == plainly(rows, draws)


def test_first_means_depend_neither_on_threads_nor_on_instructions() -> None:
    random = np.random.default_rng(0)
    rows, draws = heap("lumps", 5000, 40, random), random.random(50)
    wanted = _core.first_means(rows, draws, 1)
    for instructions in INSTRUCTIONS:
        np.testing.assert_array_equal(_core.first_means(rows, draws, 3, instructions), wanted)


def test_first_means_of_equal_rows_are_still_rows() -> None:
    rows = unit_rows("rows", np.ones((5, 3)))
    assert set(_core.first_means(rows, np.full(5, 0.999), 1).tolist()) <= set(range(5))


def test_sums_of_clusters_are_those_of_their_rows_in_order() -> None:
    random = np.random.default_rng(0)
    rows, cluster = random.standard_normal((4000, 33), np.float32), random.integers(0, 50, 4000, np.int32)
    cluster[cluster == 7] = 8
    wanted = np.zeros((50, 33))
    np.add.at(wanted, cluster, rows.astype(np.float64))
    for threads in (1, 3):
        np.testing.assert_array_equal(_core.cluster_sums(rows, cluster, 50, threads), wanted)
    with pytest.raises(ValueError, match="cluster must hold numbers below 8"):
        _core.cluster_sums(rows, cluster, 8, 1)


@pytest.mark.parametrize("columns", [1, 63, 64, 200])
def test_a_step_of_a_walk_rounds_as_sparse_products_do(columns: int) -> None:
    random = np.random.default_rng(0)
    graph = sparse.random_array((900, 900), density=0.02, format="csr", dtype=np.float32, rng=random)
    field, own = (random.standard_normal((900, columns), np.float32) for _ in range(2))
    start, out = graph.indptr.astype(np.int64), np.full_like(field, np.nan)
    wanted = 0.8 * (graph @ field) + 0.2 * own
    for threads in (1, 3):
        _core.walk(start, graph.indices.astype(np.int32), graph.data, field, own, 0.8, 0.2, out, threads)
        np.testing.assert_array_equal(out, wanted)
    with pytest.raises(ValueError, match="column must hold numbers of rows"):
        _core.walk(start, np.full(graph.nnz, 900, np.int32), graph.data, field, own, 1, 0, out, 1)
