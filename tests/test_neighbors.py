"""Neighbours by every method, their consistency and k-means, as a user calls them."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gdui.labeling import exact
from gdui.labeling.neighbors import METHODS, consistency, groups, kmeans, neighbors

APPROXIMATE = {"faiss-flat": 1.0, "faiss-ivf": 0.85, "faiss-hnsw": 0.95}  # recall they must reach


def clusters(
    n: int, d: int, seed: int = 0, noise: float = 0.7
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, n)
    rows = rng.standard_normal((5, d))[labels] + noise * rng.standard_normal((n, d))
    return rows.astype(np.float32), labels


def cosines(queries: npt.NDArray[np.floating], rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    def unit(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        x = x.astype(np.float64)
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.where(norm == 0, 1, norm)

    return unit(queries) @ unit(rows).T


def recall(found: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_exact_follows_float64(dtype: type[np.floating]) -> None:
    rows = clusters(400, 70)[0].astype(dtype)
    found = neighbors(rows, 25, "exact")
    every = cosines(rows, rows)
    wanted = np.sort(every, axis=1)[:, ::-1][:, :25]
    np.testing.assert_allclose(found.similarity, wanted, atol=2e-7)
    np.testing.assert_allclose(np.take_along_axis(every, found.indices.astype(np.int64), 1), wanted, atol=2e-7)
    assert found.indices.dtype == np.int32
    assert found.similarity.dtype == np.float32


def test_strides_and_kinds_of_memory_change_nothing(tmp_path: Path) -> None:
    rows = clusters(300, 40)[0].astype(np.float16)
    wanted = neighbors(rows, 9, "exact")
    np.save(tmp_path / "features.npy", rows)
    spaced = np.zeros((600, 80), np.float16)
    spaced[::2, ::2] = rows
    frozen = rows.copy()
    frozen.flags.writeable = False
    for same in (
        np.load(tmp_path / "features.npy", mmap_mode="r"),
        spaced[::2, ::2],
        np.asfortranarray(rows),
        frozen,
        rows.astype(np.float64),
    ):
        found = neighbors(same, 9, "exact")
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.similarity, wanted.similarity)


def test_ties_go_to_the_lower_index() -> None:
    rows = np.tile(np.eye(3, 8, dtype=np.float32), (20, 1))
    found = neighbors(rows, 5, "exact").indices
    np.testing.assert_array_equal(found[:3], [[0, 3, 6, 9, 12], [1, 4, 7, 10, 13], [2, 5, 8, 11, 14]])


def test_a_zero_vector_has_cosine_zero_with_everything() -> None:
    rows = np.array([[0, 0], [1, 0], [-1, 0], [0, 0]], np.float32)
    found = neighbors(rows, 4)
    np.testing.assert_array_equal(found.indices[0], [0, 1, 2, 3])
    np.testing.assert_array_equal(found.similarity[0], 0)
    np.testing.assert_array_equal(found.indices[1], [1, 0, 3, 2])


def test_one_row_alone() -> None:
    found = neighbors(np.ones((1, 3)), 1)
    np.testing.assert_array_equal(found.indices, [[0]])
    np.testing.assert_array_equal(consistency(np.ones((1, 3)), [0], 1), [1])


@pytest.mark.parametrize("method", [m for m in METHODS if m != "faiss-gpu"])
@pytest.mark.parametrize("include_self", [True, False])
def test_every_method_keeps_the_same_promises(method: str, include_self: bool) -> None:
    rows = clusters(3000, 24)[0]
    found = neighbors(rows, 20, method, include_self=include_self, threads=2)
    wanted = neighbors(rows, 20, "exact", include_self=include_self)
    assert recall(found.indices, wanted.indices) >= APPROXIMATE.get(method, 1.0)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    np.testing.assert_allclose(
        found.similarity, np.take_along_axis(cosines(rows, rows), found.indices.astype(np.int64), 1), atol=3e-7
    )
    assert all(len(set(row)) == 20 for row in found.indices.tolist())
    assert (found.indices == np.arange(3000)[:, None]).any(axis=1).mean() >= (0.99 if include_self else 0)
    assert include_self or not (found.indices == np.arange(3000)[:, None]).any()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("faiss-gpu", "auto")])
def test_threads_change_nothing(method: str) -> None:
    rows = clusters(1500, 24)[0]
    one, two = (neighbors(rows, 15, method, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.similarity, two.similarity)


def test_too_short_lists_are_completed_exactly() -> None:
    rows = clusters(500, 8, noise=0.01)[0]
    found = neighbors(rows, 499, "faiss-ivf", include_self=False)
    np.testing.assert_array_equal(found.indices, neighbors(rows, 499, "exact", include_self=False).indices)


@pytest.mark.parametrize("leave_self_out", [False, True])
@pytest.mark.parametrize("kind", ["noise", "duplicates", "zeros"])
def test_the_road_for_gpus_gives_the_same_bytes(kind: str, leave_self_out: bool) -> None:
    rows = clusters(260, 100)[0]
    if kind == "duplicates":
        rows = rows[np.random.default_rng(1).integers(0, 50, 260)]
    if kind == "zeros":
        rows[::3] = 0
    unit = exact.unit_rows("features", rows)
    wanted = exact.nearest(unit, unit, 30, leave_self_out=leave_self_out)
    found = exact.nearest_by_blocks(unit, unit, 30, leave_self_out=leave_self_out, device="cpu")
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.similarity, wanted.similarity)


def test_blocks_for_gpus_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = exact.unit_rows("features", clusters(200, 33)[0])
    wanted = exact.nearest(unit, unit, 5, leave_self_out=True)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 1_000_000)
    found = exact.nearest_by_blocks(unit, unit, 5, leave_self_out=True, device="cpu")
    np.testing.assert_array_equal(found.indices, wanted.indices)


def test_consistency_is_the_share_of_like_neighbours() -> None:
    rows, labels = clusters(5000, 30)
    found = consistency(rows, labels, 50)
    every = neighbors(rows, 50, "exact").indices
    np.testing.assert_array_equal(found, (labels[every] == labels[:, None]).mean(axis=1))
    assert found.dtype == np.float64
    with_other_names = consistency(rows, 7 - labels, 50)
    np.testing.assert_array_equal(found, with_other_names)


def test_consistency_without_self_counts_others_only() -> None:
    rows = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    np.testing.assert_array_equal(consistency(rows, [0, 1, 2, 2], 1), [1, 0, 1, 1])
    np.testing.assert_array_equal(consistency(rows, [0, 1, 2, 2], 1, include_self=False), [0, 0, 1, 1])


def test_queries_are_searched_among_the_features() -> None:
    rows = clusters(900, 16)[0]
    queries = clusters(40, 16, seed=1)[0]
    wanted = np.argsort(-cosines(queries, rows), axis=1)[:, :6]
    for method in ("exact", "faiss-flat"):
        np.testing.assert_array_equal(neighbors(rows, 6, method, queries=queries).indices, wanted)


def test_auto_says_what_it_chose_and_why(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(500, 8)[0]
    with caplog.at_level(logging.INFO, "gdui"):
        neighbors(rows, 3)
    assert "method exact, because 500 x 500 products" in caplog.text
    assert neighbors(rows, 3).how == "exact, because 500 x 500 products of width 8 are quick enough on cpu"
    assert neighbors(rows, 3, "faiss-flat").how == "faiss-flat"
    monkeypatch.setattr("gdui.labeling.neighbors.EXACT_OPERATIONS", 1.0)
    with caplog.at_level(logging.INFO, "gdui"):
        neighbors(rows, 3)
    assert "method faiss-ivf, because" in caplog.text
    assert neighbors(rows, 3).how.startswith("faiss-ivf, because 500 x 500 products")
    assert neighbors(rows, 3, "exact").how == "exact"


def test_kmeans_finds_clusters_and_is_the_same_for_any_threads() -> None:
    rows, labels = clusters(3000, 20, noise=0.3)
    one, two = (kmeans(rows, 5, seed=3, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)
    cluster = neighbors(one, 1, queries=rows).indices[:, 0]
    np.testing.assert_array_equal(groups(rows, 5, seed=3), cluster)
    table = np.zeros((5, 5), int)
    np.add.at(table, (cluster, labels), 1)
    assert table.max(axis=1).sum() > 0.98 * len(rows)


@pytest.mark.parametrize("k", [1, 7, 10])
def test_kmeans_of_few_distinct_rows(k: int) -> None:
    rows = np.repeat(np.eye(4, 6, dtype=np.float32), 3, axis=0)
    rows[0] = 0
    centroids = kmeans(rows[:10], k)
    assert centroids.shape == (k, 6)
    assert np.isfinite(centroids).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"k": 11}, "k must be between 1 and 10, the rows that can be neighbours, not 11"),
        ({"k": 10, "include_self": False}, "k must be between 1 and 9"),
        ({"features": np.zeros((10, 0))}, "features must have at least 1 column"),
        ({"features": np.zeros(10)}, "features must have 2 axes, not 1"),
        ({"features": np.array([[1.0], [np.nan]])}, "features: row 1 holds NaN or infinity"),
        ({"method": np.array(["exact", "auto"])}, "method must be one of 'auto', 'exact'"),
        ({"method": "fast"}, "method must be one of 'auto', 'exact'"),
        ({"queries": np.zeros((3, 4))}, "queries must have 5 columns as features, not 4"),
        ({"method": "faiss-gpu"}, "needs a CUDA device and FAISS for GPUs"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"threads": 2**31}, "threads must be at most"),
        ({"features": np.zeros((0, 2))}, "features must hold more rows"),
        ({"features": np.ones((1, 2)), "include_self": False}, "features must hold more rows"),
        ({"features": [[1.0], [1.0, 2.0]]}, "features must be an array of 2 axes"),
        ({"device": "gpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', not 'gpu'"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"features": np.ones((10, 5), np.float32), "k": 1} | change
    with pytest.raises(ValueError, match=message):
        neighbors(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 1.5}, "k must be a whole number, not float"),
        ({"threads": 2.5}, "threads must be a whole number, not float"),
        ({"threads": "2"}, "threads must be a whole number, not str"),
        ({"include_self": None}, "include_self must be True or False, not None"),
        ({"include_self": "no"}, "include_self must be True or False, not 'no'"),
        ({"device": 0}, "device must be 'cpu', 'cuda' or 'cuda:N', not 0"),
        ({"device": torch.device("cpu")}, "device must be 'cpu', 'cuda' or 'cuda:N', not device"),
    ],
)
def test_wrong_types_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        neighbors(np.ones((10, 5)), **({"k": 1} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be at least 0, not -1"),
        ({"seed": "a"}, TypeError, "seed must be a whole number, not str"),
        ({"iterations": -1}, ValueError, "iterations must be at least 0, not -1"),
        ({"iterations": 2.0}, TypeError, "iterations must be a whole number, not float"),
    ],
)
def test_mistakes_with_kmeans_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kmeans(np.ones((10, 5)), 2, **change)


def test_a_device_is_refused_where_nothing_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact.torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="device 'cuda' is for method 'exact', not for 'faiss-flat'"):
        neighbors(np.ones((10, 5)), 1, "faiss-flat", device="cuda")
    monkeypatch.setattr(exact.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda:1' is not there"):
        neighbors(np.ones((10, 5)), 1, device="cuda:1")


def test_the_byte_order_does_not_matter() -> None:
    rows, labels = clusters(60, 5)
    expected = consistency(rows, labels, 5)
    np.testing.assert_array_equal(consistency(rows.astype(">f4"), labels.astype(">i2"), 5), expected)


def test_faiss_on_gpus_has_a_largest_k() -> None:
    with pytest.raises(ValueError, match="k must be at most 2048 with method 'faiss-gpu', not 2049"):
        neighbors(np.ones((3000, 2)), 2048, "faiss-gpu", include_self=False)


@pytest.mark.parametrize(
    ("cluster", "error", "text"),
    [
        ([0], ValueError, "cluster must have 2 entries, not 1"),
        ([0, -1], ValueError, "cluster must be at least 0, but holds -1"),
        ([0, 2**40], ValueError, "cluster must be below 16777216, but holds 1099511627776"),
        ([0.0, 1.0], TypeError, "cluster must be integers, not float64"),
    ],
)
def test_consistency_needs_a_label_for_each_row(cluster: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        consistency(np.ones((2, 2)), cluster, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("features", "error", "text"),
    [
        (5.0, ValueError, "features must have 2 axes, not 0"),
        (None, TypeError, "features must be real numbers"),
        ([[1.0], [1.0, 2.0]], ValueError, "features must be an array of 2 axes"),
    ],
)
def test_consistency_needs_features(features: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        consistency(features, [0], 1)  # type: ignore[arg-type]


def test_memory_grows_with_rows_and_not_with_pairs() -> None:
    """10,000 rows: the pairs would take 400 MB, rows and results take 15 MB."""
    script = """
import resource
import numpy as np
from gdui.labeling.neighbors import consistency
features = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
consistency(features[:500], np.zeros(500, int), 100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
consistency(features, np.zeros(10_000, int), 100, "exact")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    kilobyte = 1 if sys.platform == "darwin" else 1024
    assert int(grown) * kilobyte < 60e6
