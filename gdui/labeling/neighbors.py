"""Nearest neighbours by cosine, the consistency of labels among them, and k-means: the only file that knows FAISS."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import numpy.typing as npt

from gdui import _core, checks
from gdui.config import METHODS
from gdui.labeling import exact
from gdui.labeling.exact import Floats, Indices, Neighbors

__all__ = ["METHODS", "Neighbors", "consistency", "groups", "kmeans", "neighbors"]

GPU_LARGEST_K = 2048
EXACT_OPERATIONS = 1e14  # some minutes of a small CPU

log = logging.getLogger(__name__)


def neighbors(
    features: npt.ArrayLike,
    k: int,
    method: str = "auto",
    *,
    include_self: bool = True,
    queries: npt.ArrayLike | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Neighbors:
    """The `k` nearest rows of `features` by cosine for each query, most similar first, ties by the lower index.

    Args:
        features: [N, d], floats of any precision and strides; a memory-mapped array is read block by block.
        k: neighbours a query.
        method: "exact" is brute force's answer; the others trade it for time. "auto" chooses; what it returns says why.
        include_self: without `queries`, whether a row may be its own neighbour.
        queries: [Q, d]; by default the features themselves. A zero vector has cosine 0 with everything.
        device: where "exact" multiplies, "cpu" or a CUDA device; the answer is the same.
        threads: default: every core. The answer is the same.
    """
    how = checks.one_of("method", method, METHODS)
    checks.flag("include_self", include_self)
    rows = exact.unit_rows("features", features)
    looking = rows if queries is None else exact.unit_rows("queries", queries)
    if queries is not None and np.shape(queries)[1] != np.shape(features)[1]:
        raise ValueError(f"queries must have {np.shape(features)[1]} columns as features, not {np.shape(queries)[1]}")
    exact.check_device(device)
    if device != "cpu" and method not in ("auto", "exact", "faiss-gpu"):
        raise ValueError(f"device {device!r} is for method 'exact', not for {method!r}")
    leave_self_out = queries is None and not include_self
    k = _count("k", k, len(rows) - leave_self_out, "the rows that can be neighbours")
    if method == "auto":
        method, how = _choose(len(rows), len(looking), np.shape(features)[1], k, device)
    count = checks.thread_count(threads)
    if method == "exact":
        nearest = exact.nearest(rows, looking, k, leave_self_out=leave_self_out, device=device, threads=count)
        return nearest._replace(how=how)
    found = _completed(rows, looking, _faiss_search(rows, looking, k + leave_self_out, method, count), count)
    if leave_self_out:
        found = _without_self(found, np.arange(len(found)))
    return exact.rank(rows, looking, found, count)._replace(how=how)


def consistency(
    features: npt.ArrayLike,
    cluster: npt.ArrayLike,
    k: int = 100,
    method: str = "auto",
    *,
    include_self: bool = True,
    device: str = "cpu",
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """The share [N] of each row's `k` nearest neighbours in `features` [N, d] that have its own label of `cluster` [N].

    The other arguments are those of `neighbors`.
    """
    rows = checks.array("features", features, 2, finite=False)
    labels = checks.indices("cluster", cluster, length=len(rows))
    found = neighbors(rows, k, method, include_self=include_self, device=device, threads=threads).indices
    return _core.consistency(found, labels, checks.MOST_CLUSTERS, checks.thread_count(threads))


def kmeans(
    features: npt.ArrayLike, k: int, *, seed: int = 0, iterations: int = 25, threads: int | None = None
) -> Floats:
    """Spherical k-means: `k` centroids [k, d] of length one for the rows of `features` [N, d].

    The seed alone decides, not the number of threads: rows find their centroid exactly, and sums have a fixed order.
    A row's cluster is its nearest centroid: `neighbors(centroids, 1, queries=features)`.
    """
    rows = exact.unit_rows("features", features)
    centroids = _means(rows, k, seed, iterations, checks.thread_count(threads))
    return np.ascontiguousarray(centroids[:, : np.shape(features)[1]])


def groups(
    features: npt.ArrayLike, k: int, *, seed: int = 0, iterations: int = 25, threads: int | None = None
) -> Indices:
    """Which of the centroids of `kmeans` is nearest to each row [N], ties to the lower."""
    rows, count = exact.unit_rows("features", features), checks.thread_count(threads)
    return exact.nearest(_means(rows, k, seed, iterations, count), rows, 1, threads=count).indices[:, 0]


def _means(rows: Floats, k: int, seed: int, iterations: int, threads: int) -> Floats:
    """The centroids of `kmeans` for unit rows of padded width."""
    k = _count("k", k, len(rows), "the rows of features")
    checks.whole("iterations", iterations, 0)
    centroids = _spread_out(rows, k, np.random.default_rng(checks.whole("seed", seed, 0)), threads)
    before = np.full(len(rows), -1)
    for _ in range(iterations):
        found = exact.nearest(centroids, rows, 1, threads=threads)
        cluster = found.indices[:, 0]
        if np.array_equal(cluster, before):
            break
        before = cluster
        centroids = _centroids(rows, cluster, found.similarity[:, 0], k, threads)
    return centroids


def _count(name: str, value: int, most: int, of_what: str) -> int:
    if most < 1:
        raise ValueError(f"features must hold more rows: {of_what} are none")
    number = checks.whole(name, value, 1)
    if number > most:
        raise ValueError(f"{name} must be between 1 and {most}, {of_what}, not {number}")
    return number


def _choose(n: int, n_queries: int, width: int, k: int, device: str) -> tuple[str, str]:
    """The method, and the words that say so and why."""
    operations = 2.0 * n * n_queries * width
    size = f"{n_queries} x {n} products of width {width}"
    if device != "cpu" or operations <= EXACT_OPERATIONS:
        method, reason = "exact", f"{size} are quick enough on {device}"
    elif _gpus() and k <= GPU_LARGEST_K:
        method, reason = "faiss-gpu", f"{size} are too slow on the CPU, and FAISS sees a GPU"
    else:
        method, reason = "faiss-ivf", f"{size} are too slow for an exact answer"
    how = f"{method}, because {reason}"
    log.info("neighbors: method %s", how)
    return method, how


def _gpus() -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def _faiss_search(rows: Floats, queries: Floats, k: int, method: str, threads: int) -> Indices:
    """What FAISS finds, -1 where it found too few. One thread builds the index, so that it is always the same one."""
    if method == "faiss-gpu" and k > GPU_LARGEST_K:
        raise ValueError(f"k must be at most {GPU_LARGEST_K} with method 'faiss-gpu', not {k} (a row itself included)")
    if method == "faiss-gpu" and not _gpus():
        raise ValueError("method 'faiss-gpu' needs a CUDA device and FAISS for GPUs: pip install 'gdui[cuda12]'")
    with _faiss_threads(1):
        index = _index(rows, k, method)
    with _faiss_threads(threads):
        return np.asarray(index.search(queries, k)[1], np.int32)


def _index(rows: Floats, k: int, method: str) -> faiss.Index:
    width = rows.shape[1]
    index: faiss.Index = faiss.IndexFlatIP(width)
    if method == "faiss-gpu":
        index = faiss.index_cpu_to_all_gpus(index)
    elif method == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = max(64, 2 * k)
    elif method == "faiss-ivf":
        lists = max(1, min(2 * int(len(rows) ** 0.5), len(rows) // 39))
        index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", max(8, lists // 20))
        faiss.extract_index_ivf(index).cp.max_points_per_centroid = 64
        index.train(rows)
    index.add(rows)
    return index


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _without_self(found: Indices, own: npt.NDArray[np.intp]) -> Indices:
    """Drops from each row its `own` number, or its last neighbour where that is not among them."""
    keep = found != own[:, None]
    keep[keep.all(axis=1), -1] = False
    return np.asarray(found[keep].reshape(len(found), -1), np.int32)


def _completed(rows: Floats, queries: Floats, found: Indices, threads: int) -> Indices:
    """`found`, searched exactly where FAISS found too few (an index -1)."""
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):
        found[short] = exact.nearest(rows, queries[short], found.shape[1], threads=threads).indices
    return found


def _spread_out(rows: Floats, k: int, rng: np.random.Generator, threads: int) -> Floats:
    """The first centroids: rows of a sample, each likelier the farther it lies from those chosen (k-means++)."""
    sample = rows[np.sort(rng.choice(len(rows), min(len(rows), 64 * k + 1000), replace=False))]
    return sample[_core.first_means(sample, rng.random(k), threads)]


def _centroids(rows: Floats, cluster: npt.NDArray[np.int32], similarity: Floats, k: int, threads: int) -> Floats:
    """The mean direction of each cluster; an empty one starts again at a row that is far from its centroid."""
    sums = _core.cluster_sums(rows, cluster, k, threads)
    empty = np.flatnonzero(np.bincount(cluster, minlength=k) == 0)
    sums[empty] = rows[np.argsort(similarity, kind="stable")[: len(empty)]]
    return exact.unit_rows("centroids", sums)
