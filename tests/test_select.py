"""Choosing samples, against sorting; votes and consistency, against counting; what they refuse."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui.labeling.select import (
    consistency_from_neighbors,
    least_confident,
    most_confident,
    priority_table,
    quota,
    reliable,
)

Array = npt.NDArray[Any]


def by_sorting(cluster: Array, key: Array, limit: Array) -> list[list[int]]:
    order = np.lexsort((np.arange(len(key)), key.astype(np.float64)))
    return [order[cluster[order] == k][:most].tolist() for k, most in enumerate(limit)]


def chosen(selection: Any) -> list[list[int]]:
    return [selection[k].tolist() for k in range(len(selection))]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 400),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from([np.int64, np.int32, np.uint8, np.int16, np.uint64]),
    st.sampled_from([1, 2, 7]),
)
def test_selection_equals_a_stable_sort(n: int, k: int, seed: int, real: Any, whole: Any, threads: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, k, n).astype(whole)
    confidence = (rng.integers(0, 20, n) / 8 - 1).astype(real)
    limit = rng.integers(0, 12, k)
    most = most_confident(cluster, confidence, limit, threads=threads)
    least = least_confident(cluster, confidence, limit, threads=threads)
    assert chosen(most) == by_sorting(cluster, -confidence, limit)
    assert chosen(least) == by_sorting(cluster, confidence, limit)
    np.testing.assert_array_equal(cluster[most.index], most.cluster)


@pytest.mark.parametrize("kind", ["random", "rising", "falling", "equal"])
@pytest.mark.parametrize("n", [1, 50, 10**9])
def test_large_selections_over_several_blocks_and_threads(kind: str, n: int, rng: np.random.Generator) -> None:
    confidence = {
        "random": rng.random(100_000),
        "rising": np.arange(100_000) / 7,
        "falling": -np.arange(100_000) / 7,
        "equal": np.zeros(100_000),
    }[kind].astype(np.float32)
    cluster = rng.integers(0, 13, 100_000)
    expected = by_sorting(cluster, -confidence, np.full(13, n))
    for threads in (1, 2, 3):
        assert chosen(most_confident(cluster, confidence, n, n_clusters=13, threads=threads)) == expected


def test_strides_and_read_only_arrays(rng: np.random.Generator) -> None:
    cluster, confidence = rng.integers(0, 5, 9000), rng.random(9000)
    expected = chosen(most_confident(cluster[::3].copy(), confidence[::3].copy(), 7))
    packed = np.zeros(3000, np.dtype([("pad", "u1"), ("k", "<i8"), ("p", "<f8")]))
    packed["k"], packed["p"] = cluster[::3], confidence[::3]
    packed.flags.writeable = False
    swapped = cluster[::3].astype(">i8")
    assert chosen(most_confident(cluster[::3], confidence[::3], 7)) == expected
    assert chosen(most_confident(packed["k"], packed["p"], 7)) == expected
    assert chosen(most_confident(swapped, confidence[::3], 7)) == expected
    backward = most_confident(cluster[::3][::-1], confidence[::3][::-1], 7)
    assert [sorted(2999 - backward[k]) for k in range(5)] == [sorted(part) for part in expected]


def test_empty_clusters_and_empty_input() -> None:
    assert chosen(most_confident([], [], 3)) == []
    assert chosen(most_confident([], [], 3, n_clusters=2)) == [[], []]
    assert chosen(least_confident([2, 2], [0.5, 0.5], 1)) == [[], [], [0]]
    assert priority_table([], [], 3).shape == (0, 3)
    assert consistency_from_neighbors(np.zeros((0, 3), int), []).shape == (0,)


def test_the_quota_is_a_tenth_at_least_one_and_never_over_half() -> None:
    size = np.arange(2000)
    found = quota(size, 100)
    np.testing.assert_array_equal(found, np.minimum(100, np.ceil(size / 10).astype(int)))
    assert (found[1:] >= 1).all()
    assert (found[2:] * 2 <= size[2:]).all()
    assert quota([5], 10**30).tolist() == [1]
    assert quota([2**63 - 1], 10**30).tolist() == [922337203685477581]
    with pytest.raises(
        ValueError, match="cluster_size must be below 9223372036854775808, but holds 9223372036854775813"
    ):
        quota(np.array([2**63 + 5], np.uint64))


def test_a_selection_is_indexed_as_a_list_is() -> None:
    found = most_confident([0, 0, 2, 2], [0.5, 0.6, 0.7, 0.8], 1)
    parts = [[1], [], [3]]
    assert [part.tolist() for part in found] == parts
    for at in range(-3, 3):
        assert found[at].tolist() == parts[at]
    for beyond in (-4, 3):
        with pytest.raises(IndexError, match=f"there are 3 clusters, and none is number {beyond}"):
            found[beyond]
    for no_number in (slice(0, 2), "0", 1.0):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            found[no_number]  # type: ignore[index]
    assert found == found
    assert len({found, most_confident([0], [1.0], 1)}) == 2


def test_any_huge_n_takes_all() -> None:
    assert most_confident([0, 0], [0.5, 0.6], 10**30).index.tolist() == [1, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5]))
def test_priorities_are_shares_of_votes(n: int, k: int, c: int, seed: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    cluster, votes, weight = rng.integers(0, k, n), rng.integers(0, c, n), rng.random(n)
    counts, sums = np.zeros((k, c)), np.zeros((k, c))
    for i in range(n):
        counts[cluster[i], votes[i]] += 1
        sums[cluster[i], votes[i]] += weight[i]
    size = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_array_equal(priority_table(votes, cluster, c, n_clusters=k, threads=threads), counts / size)
    np.testing.assert_array_equal(priority_table(votes, cluster, c, n_clusters=k, weight=weight), sums / size)


@pytest.mark.skipif(not os.environ.get("GDUI_SOAK"), reason="takes ten seconds: make soak runs it")
def test_more_votes_than_32_bits_count() -> None:
    zeros = np.broadcast_to(np.int8(0), (2**32,))
    for threads in (1, 2):
        assert priority_table(zeros, zeros, 1, n_clusters=1, threads=threads).tolist() == [[1.0]]


def test_weights_too_large_to_be_summed_are_refused() -> None:
    assert priority_table([0, 0], [0, 0], 1, weight=[1e308, 0]).tolist() == [[5e307]]
    with pytest.raises(ValueError, match="weight holds numbers too large to be summed"):
        priority_table([0, 0], [0, 0], 1, weight=[1.7e308, 1.7e308])


def test_a_large_table_is_shared_by_the_threads(rng: np.random.Generator) -> None:
    cluster, votes = rng.integers(0, 2500, 200_000), rng.integers(0, 2500, 200_000)
    one, four = (priority_table(votes, cluster, 2500, n_clusters=2500, threads=t) for t in (1, 4))
    np.testing.assert_array_equal(one, four)
    assert one.sum() == pytest.approx((np.bincount(cluster, minlength=2500) > 0).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_consistency_is_the_share_of_neighbours_of_the_same_cluster(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    neighbors, cluster = rng.integers(0, n, (n, k)), rng.integers(0, 3, n)
    expected = [(cluster[near] == own).mean() for near, own in zip(neighbors, cluster, strict=True)]
    for form in (neighbors, neighbors.astype(np.int32), np.asfortranarray(neighbors)):
        for threads in (1, 3):
            np.testing.assert_array_equal(consistency_from_neighbors(form, cluster, threads=threads), expected)


def test_reliable_counts_the_threshold_in() -> None:
    cluster = np.array([0] * 9 + [1])
    r = consistency_from_neighbors(np.tile(np.arange(10), (10, 1)), cluster)
    assert reliable(r, 0.9).tolist() == [True] * 9 + [False]
    assert reliable(r.astype(np.float32), 0.9).sum() == 9
    with pytest.raises(ValueError, match=r"threshold must be between 0 and 1, not 1\.5"):
        reliable(r, 1.5)


GOOD = {"cluster": [0, 1], "confidence": [0.5, 0.5], "n": 1}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"cluster": [0, -1]}, ValueError, "cluster must be at least 0, but holds -1"),
        ({"cluster": [0, -1], "n_clusters": 2}, ValueError, "cluster must be at least 0, but holds -1 at 1"),
        ({"cluster": [0, 2], "n_clusters": 2}, ValueError, "cluster must be below 2, but holds 2 at 1"),
        ({"cluster": np.array([0, 2**64 - 1], np.uint64)}, ValueError, "cluster must be below 16777216"),
        (
            {"cluster": np.array([0, 2**32], np.int64), "n_clusters": 2},
            ValueError,
            "must be below 2, but holds 4294967296",
        ),
        ({"cluster": [0, 10**12]}, ValueError, "cluster must be below 16777216"),
        ({"cluster": [0.0, 1.0]}, TypeError, "cluster must be integers, not float64"),
        ({"cluster": [[0, 1]]}, ValueError, "cluster must have 1 axis, not 2"),
        ({"cluster": [[0], [0, 1]]}, ValueError, "cluster must be an array of 1 axis"),
        ({"cluster": [0]}, ValueError, "equally long: cluster has 1, confidence has 2"),
        ({"confidence": [0.5, np.nan]}, ValueError, "confidence holds NaN"),
        ({"confidence": np.array([0.5, np.inf], np.float16)}, ValueError, "confidence holds NaN or infinity"),
        ({"confidence": ["a", "b"]}, TypeError, "confidence must be real numbers"),
        ({"n": -1}, ValueError, "n must be at least 0"),
        ({"n": [1, 2, -3]}, ValueError, "n must be at least 0, but holds -3"),
        ({"n": 0.5}, TypeError, "n must be a whole number"),
        ({"n": [1]}, ValueError, "cluster must be below 1"),
        ({"n": [[1], [1, 2]]}, ValueError, "n must be an array of 1 axis"),
        ({"n": [[1]]}, ValueError, "n must have 1 axis, not 2"),
        ({"n_clusters": 10**12}, ValueError, "n_clusters must be at most 16777216"),
        ({"cluster": np.array([0, 2**63 + 1], np.uint64)}, ValueError, "but holds 9223372036854775809"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        most_confident(**(GOOD | change))


def test_a_mistake_in_the_middle_of_many_is_found_by_any_number_of_threads(rng: np.random.Generator) -> None:
    cluster = rng.integers(0, 5, 300_000)
    cluster[[123_456, 222_222]] = 9
    for threads in (1, 2, 4):
        with pytest.raises(ValueError, match="below 5, but holds 9 at 123456"):
            most_confident(cluster, np.zeros(300_000), 3, n_clusters=5, threads=threads)


@pytest.mark.parametrize(
    ("neighbors", "text"),
    [
        ([[0, 2]], "neighbors must be below 1"),
        ([[0, -1]], "neighbors must be at least 0"),
        ([0], "neighbors must have 2 axes, not 1"),
        ([[0], [0]], "neighbors must have the shape"),
        ([[0], [0, 0]], "neighbors must be an array of 2 axes"),
        (np.zeros((1, 0), int), "neighbors must have the shape"),
    ],
)
def test_wrong_neighbors_are_named(neighbors: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        consistency_from_neighbors(neighbors, [0])


def test_wrong_votes_are_named() -> None:
    with pytest.raises(ValueError, match="votes must be below 2"):
        priority_table([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="n_classes must be at most 255 where there are 1048577 clusters, not 1048576"):
        priority_table([0], [1 << 20], 1 << 20)
    with pytest.raises(ValueError, match="n_classes must be at most 31 where there are 8388609 clusters, not 511"):
        priority_table([0], [1 << 23], 511)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_byte_order_does_not_matter(order: str) -> None:
    neighbors, cluster = np.array([[1, 2], [0, 2], [0, 1]], f"{order}i2"), np.array([300, 300, 1], f"{order}i4")
    np.testing.assert_array_equal(consistency_from_neighbors(neighbors, cluster), [0.5, 0.5, 0])
    confidence = np.array([0.25, 0.5, 0.75], f"{order}f4")
    assert chosen(most_confident(np.array([1, 1, 0], f"{order}i8"), confidence, 1)) == [[2], [1]]
    np.testing.assert_array_equal(reliable(confidence, 0.5), [False, True, True])
