"""Choosing samples: the most and least confident of each cluster, the votes among them, and who agrees with its neighbours.

N is the number of samples, K of clusters, C of classes. Equal confidence is decided by the lower index.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gdui import checks

__all__ = [
    "Selection",
    "consistency_from_neighbors",
    "least_confident",
    "most_confident",
    "priority_table",
    "quota",
    "reliable",
]

MOST_CLUSTERS = 1 << 24
MOST_CELLS = 1 << 32


@dataclass(frozen=True)
class Selection:
    """The chosen samples of every cluster, one cluster after the other.

    index: the samples' indices [int64], within a cluster the best first.
    offset: cluster k owns index[offset[k]:offset[k + 1]] [K + 1, int64].
    """

    index: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]

    def __getitem__(self, cluster: int) -> npt.NDArray[np.int64]:
        """The chosen samples of one cluster."""
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
    size = checks.indices("cluster_size", cluster_size).astype(np.int64)
    return np.minimum(_whole("n", n, 1), (size + 9) // 10)


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
    n: one number, or one a cluster [K].
    n_clusters: K; without it the length of n, or the largest cluster plus one.
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


def _whole(name: str, value: int, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, not {value}")
    return int(value)


def _count(name: str, labels: npt.NDArray[np.integer], given: int | None, source: str) -> int:
    count = (int(labels.max()) + 1 if labels.size else 0) if given is None else _whole(source, given, 0)
    if count > MOST_CLUSTERS:
        raise ValueError(
            f"{source if given is not None else name} asks for {count}; at most {MOST_CLUSTERS} can be had"
        )
    return count


def _select(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    n: int | npt.ArrayLike,
    n_clusters: int | None,
    threads: int | None,
    *,
    most: bool,
) -> Selection:
    checks.thread_count(threads)
    labels = checks.indices("cluster", cluster)
    scores = checks.array("confidence", confidence, 1)
    checks.same_length(cluster=labels, confidence=scores)
    if n_clusters is None and np.ndim(n) == 1:
        n_clusters = len(np.asarray(n))
    k = _count("cluster", labels, n_clusters, "n_clusters")
    labels = checks.indices("cluster", labels, k)
    wanted = np.full(k, _whole("n", n, 0)) if np.ndim(n) == 0 else checks.indices("n", n, length=k)  # type: ignore[arg-type]
    key = -scores.astype(np.float64) if most else scores.astype(np.float64)
    order = np.lexsort((np.arange(len(labels)), key, labels))
    size = np.bincount(labels, minlength=k)
    start = np.concatenate([[0], np.cumsum(size)])[:-1]
    rank = np.arange(len(labels)) - np.repeat(start, size)
    kept = rank < np.repeat(wanted, size)
    offset = np.concatenate([[0], np.cumsum(np.minimum(size, wanted))])
    return Selection(order[kept], offset.astype(np.int64))


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
    """
    checks.thread_count(threads)
    classes = _whole("n_classes", n_classes, 1)
    voted = checks.indices("votes", votes, classes)
    labels = checks.indices("cluster", cluster)
    checks.same_length(votes=voted, cluster=labels)
    k = _count("cluster", labels, n_clusters, "n_clusters")
    labels = checks.indices("cluster", labels, k)
    if k * classes > MOST_CELLS:
        raise ValueError(f"a table of {k} clusters and {classes} classes has more than {MOST_CELLS} cells")
    weights = None if weight is None else checks.array("weight", weight, 1, length=len(voted)).astype(np.float64)
    table = np.bincount(labels.astype(np.int64) * classes + voted, weights, k * classes).reshape(k, classes)
    size = np.bincount(labels, minlength=k)
    return np.asarray(table / np.maximum(size, 1)[:, None], dtype=np.float64)


def consistency_from_neighbors(
    neighbors: npt.ArrayLike, cluster: npt.ArrayLike, *, threads: int | None = None
) -> npt.NDArray[np.float64]:
    """The share of each sample's neighbours that lie in its own cluster (the paper's eq. 8) [N].

    neighbors: [N, k] indices of samples.   cluster: [N] whole numbers.
    """
    checks.thread_count(threads)
    labels = checks.indices("cluster", cluster)
    near = np.asarray(neighbors)
    if near.ndim != 2 or near.shape[0] != len(labels) or near.shape[1] == 0:
        raise ValueError(f"neighbors must have the shape ({len(labels)}, k) with k at least 1, not {near.shape}")
    checks.indices("neighbors", near.ravel(), len(labels))
    return np.asarray((labels[near] == labels[:, None]).mean(axis=1), dtype=np.float64)


def reliable(consistency: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Which samples' consistency reaches the threshold (the paper's eq. 7) [N]."""
    r = checks.array("consistency", consistency, 1)
    return np.asarray(r >= r.dtype.type(checks.in_range("threshold", threshold, 0, 1)))
