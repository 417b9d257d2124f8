"""Choosing samples: the most and least confident of each cluster, their votes, and who agrees with its neighbours.

N is the number of samples, K of clusters, C of classes. Equal confidence is decided by the lower index.
"""

import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdui import _core, checks

__all__ = [
    "Selection",
    "consistency_from_neighbors",
    "least_confident",
    "most_confident",
    "priority_table",
    "quota",
    "reliable",
]

MOST_CELLS = 1 << 28


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen samples of every cluster, one cluster after the other.

    index: the samples' indices [int64], within a cluster the best first.
    offset: where each cluster's samples begin [K + 1, int64]: cluster k owns `index[offset[k] : offset[k + 1]]`.
    """

    index: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]

    def __getitem__(self, cluster: int) -> npt.NDArray[np.int64]:
        """The chosen samples of one cluster; -1 is the last."""
        cluster = operator.index(cluster)
        if not -len(self) <= cluster < len(self):
            raise IndexError(f"there are {len(self)} clusters, and none is number {cluster}")
        cluster %= len(self)
        return self.index[self.offset[cluster] : self.offset[cluster + 1]]

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def size(self) -> npt.NDArray[np.int64]:
        """How many were chosen of each cluster [K]."""
        return np.diff(self.offset)

    @property
    def cluster(self) -> npt.NDArray[np.int64]:
        """The cluster of each entry of `index`."""
        return np.repeat(np.arange(len(self)), self.size)


def quota(cluster_size: npt.ArrayLike, n: int = 100) -> npt.NDArray[np.int64]:
    """How many samples stand for each cluster: a tenth of it (rounded up), at most n.

    At least one of every cluster that has a sample; never over half of it, but for the lone sample of a cluster of one.
    """
    size = checks.indices("cluster_size", cluster_size, checks.BEYOND_INT64).astype(np.int64)
    return np.minimum(min(checks.whole("n", n, 1), checks.BEYOND_INT64 - 1), size // 10 + (size % 10 > 0))


def most_confident(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    n: int | npt.ArrayLike,
    *,
    n_clusters: int | None = None,
    threads: int | None = None,
) -> Selection:
    """The n most confident samples of each cluster, or all of a smaller one, the most confident first.

    cluster: [N] whole numbers in [0, n_clusters).   confidence: [N] finite numbers.
    n: one number, or one a cluster [K]; at least 0.
    n_clusters: K; without it the length of n, or the largest cluster plus one.
    threads: as many as the cores if not given; the answer is the same.
    """
    return _select(cluster, confidence, n, n_clusters, threads, most=True)


def least_confident(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    n: int | npt.ArrayLike,
    *,
    n_clusters: int | None = None,
    threads: int | None = None,
) -> Selection:
    """The n least confident samples of each cluster, the least confident first; see `most_confident`."""
    return _select(cluster, confidence, n, n_clusters, threads, most=False)


def _select(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    n: int | npt.ArrayLike,
    n_clusters: int | None,
    threads: int | None,
    *,
    most: bool,
) -> Selection:
    workers = checks.thread_count(threads)
    labels = checks.indices("cluster", cluster, ranged=False)
    scores = checks.array("confidence", confidence, 1, finite=False)
    checks.same_length(cluster=labels, confidence=scores)
    several = checks.on_cpu("n", n, 1).ndim > 0
    if n_clusters is None and several:
        n_clusters = len(checks.indices("n", n))
    k = _count("cluster", labels, n_clusters, "n_clusters", workers)
    if several:
        limit = np.minimum(checks.indices("n", n, length=k), len(labels))
    else:
        limit = np.full(k, min(checks.whole("n", n, 0), len(labels)))  # type: ignore[arg-type]
    return Selection(*_core.select(labels, scores, limit, most, workers))


def _count(name: str, labels: npt.NDArray[np.integer], given: int | None, source: str, threads: int) -> int:
    """How many clusters there are: as told, or one more than the largest label."""
    if given is not None:
        return checks.whole(source, given, 0, checks.MOST_CLUSTERS)
    low, high = _core.range_of(labels, threads)
    if low < 0 or high >= checks.MOST_CLUSTERS:
        checks.ranged_numbers(name, labels, 0, checks.MOST_CLUSTERS)
    return int(high) + 1


def priority_table(
    votes: npt.ArrayLike,
    cluster: npt.ArrayLike,
    n_classes: int,
    *,
    n_clusters: int | None = None,
    weight: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """How much each cluster's samples want each class: the share of their votes it got [K, C].

    votes: [N] whole numbers in [0, n_classes), the class each sample votes for.   cluster: [N] whole numbers.
    weight: [N], what each vote counts (its probability, say); without it 1. A row is divided by the number of its
        samples, so it sums to 1, or to the mean weight. Rows of clusters without samples are 0.
    n_clusters: K; without it the largest cluster plus one.
    threads: as many as the cores if not given; the answer is the same.
    """
    workers = checks.thread_count(threads)
    classes = checks.whole("n_classes", n_classes, 1, checks.MOST_CLUSTERS)
    voted = checks.indices("votes", votes, ranged=False)
    labels = checks.indices("cluster", cluster, ranged=False)
    checks.same_length(votes=voted, cluster=labels)
    k = _count("cluster", labels, n_clusters, "n_clusters", workers)
    if k * classes > MOST_CELLS:
        raise ValueError(f"n_classes must be at most {MOST_CELLS // k} where there are {k} clusters, not {classes}")
    shares = _core.vote_shares(voted, labels, classes, k, workers)
    return shares if weight is None else _weighted(voted, labels, shares.shape, weight)


def _weighted(
    votes: npt.NDArray[np.integer], cluster: npt.NDArray[np.integer], shape: tuple[int, ...], weight: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Sums in the order of the samples, for a sum of floats depends on it."""
    weights = checks.array("weight", weight, 1, length=len(votes)).astype(np.float64, copy=False)
    cell = cluster.astype(np.int64) * shape[1] + votes.astype(np.int64)
    total = np.bincount(cell, weights, shape[0] * shape[1]).reshape(shape)
    if not np.isfinite(total).all():
        raise ValueError("weight holds numbers too large to be summed: scale them down")
    size = np.bincount(cluster, minlength=shape[0])
    return np.asarray(total / np.maximum(size, 1)[:, None], dtype=np.float64)


def consistency_from_neighbors(
    neighbors: npt.ArrayLike, cluster: npt.ArrayLike, *, threads: int | None = None
) -> npt.NDArray[np.float64]:
    """The share of each sample's neighbours that lie in its own cluster (the paper's eq. 8) [N].

    neighbors: [N, k] indices of samples, as `neighbors(...).indices` has them.   cluster: [N] whole numbers.
    threads: as many as the cores if not given; the answer is the same.
    """
    workers = checks.thread_count(threads)
    labels = checks.indices("cluster", cluster, ranged=False)
    near = checks.indices("neighbors", neighbors, ndim=2, ranged=False)
    if near.shape[0] != len(labels) or near.shape[1] == 0:
        raise ValueError(f"neighbors must have the shape ({len(labels)}, k) with k at least 1, not {near.shape}")
    return _core.consistency(near, labels, checks.MOST_CLUSTERS, workers)


def reliable(consistency: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Which samples' consistency [N] reaches the threshold, a number from 0 to 1 (the paper's eq. 7) [N]."""
    r = checks.array("consistency", consistency, 1)
    return np.asarray(r >= r.dtype.type(checks.in_range("threshold", threshold, 0, 1)))
