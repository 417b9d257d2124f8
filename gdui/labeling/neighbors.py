"""Nearest neighbours by cosine, the consistency of labels among them, and k-means: the only file that knows FAISS."""

import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdui import checks

__all__ = ["METHODS", "Neighbors", "consistency", "kmeans", "neighbors"]

METHODS = ("auto", "exact", "faiss-flat", "faiss-ivf", "faiss-hnsw", "faiss-gpu")

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]


class Neighbors(NamedTuple):
    """For each query the `k` most similar rows: `indices` and cosine `similarity`, both [Q, k], most similar first."""

    indices: Indices
    similarity: Floats


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
    """The `k` nearest rows of `features` [N, d] by cosine for each query row [Q, d], ties by the lower index.

    Without `queries` the rows look for neighbours among themselves; `include_self` says whether a row may be its own.
    A zero vector has cosine 0 with everything.
    """
    import torch

    checks.one_of("method", method, METHODS)
    rows = _unit(checks.array("features", features, 2))
    looking = rows if queries is None else _unit(checks.array("queries", queries, 2))
    if looking.shape[1] != rows.shape[1]:
        raise ValueError(f"queries must have {rows.shape[1]} columns as features has, not {looking.shape[1]}")
    leave_out = queries is None and not include_self
    if not 1 <= k <= len(rows) - leave_out:
        raise ValueError(f"k must be between 1 and the {len(rows) - leave_out} rows that can be neighbours, not {k}")
    indices = np.empty((len(looking), k), np.int32)
    similarity = np.empty((len(looking), k), np.float32)
    table = torch.from_numpy(rows).T
    for start in range(0, len(looking), 512):
        block = torch.from_numpy(looking[start : start + 512]) @ table
        if leave_out:
            own = torch.arange(len(block))
            block[own, own + start] = -torch.inf
        nearest = block.sort(dim=1, descending=True, stable=True)
        indices[start : start + 512] = nearest.indices[:, :k].numpy()
        similarity[start : start + 512] = nearest.values[:, :k].numpy()
    return Neighbors(indices, similarity)


def consistency(
    features: npt.ArrayLike,
    cluster: npt.ArrayLike,
    k: int = 100,
    method: str = "auto",
    *,
    include_self: bool = True,
    device: str = "cpu",
    threads: int | None = None,
) -> Floats:
    """The share of each row's `k` nearest neighbours in `features` [N, d] that have its own label in `cluster` [N]."""
    labels = checks.indices("cluster", cluster)
    checks.same_length(features=np.asarray(features), cluster=labels)
    found = neighbors(features, k, method, include_self=include_self, device=device, threads=threads)
    return np.asarray((labels[found.indices] == labels[:, None]).mean(axis=1), np.float32)


def kmeans(
    features: npt.ArrayLike, k: int, *, seed: int = 0, iterations: int = 25, threads: int | None = None
) -> Floats:
    """Spherical k-means: `k` unit centroids [k, d] of `features` [N, d]."""
    rows = _unit(checks.array("features", features, 2))
    if not 1 <= k <= len(rows):
        raise ValueError(f"k must be between 1 and the {len(rows)} rows of features, not {k}")
    centroids = rows[np.sort(np.random.default_rng(seed).choice(len(rows), k, replace=False))]
    for _ in range(iterations):
        nearest = neighbors(centroids, 1, queries=rows, threads=threads).indices[:, 0]
        sums = np.zeros_like(centroids, dtype=np.float64)
        np.add.at(sums, nearest, rows)
        empty = np.bincount(nearest, minlength=k) == 0
        sums[empty] = centroids[empty]
        centroids = _unit(sums)
    return centroids


def _unit(rows: npt.NDArray[np.floating]) -> Floats:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms == 0, 1, norms), np.float32)
