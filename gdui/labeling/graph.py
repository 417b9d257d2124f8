"""The third witness: the graph of nearest neighbours, its slowest modes, and votes diffused over it.

N is the number of images, k of neighbours, C of classes. Everything costs O(N k) for each column.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from gdui import _core, checks
from gdui.labeling.ordered import blocks, one_thread_each

__all__ = ["adjacency", "cluster_votes", "diffuse", "modes", "modularity"]

Matrix = npt.NDArray[np.float32]

ORTHOGONALISE_EVERY = 5
SPARE_MODES = 8
COLUMNS = 64  # of votes that are diffused together: enough to share the walk, few enough for a near cache


def adjacency(neighbors: npt.ArrayLike, similarity: npt.ArrayLike) -> sparse.csr_array:
    """The symmetric graph [N, N] of nearest neighbours [N, k]: an edge weighs its squared cosine, twice where mutual.

    An image gets no edge to itself, and negative cosines join nothing.
    """
    near = np.asarray(neighbors)
    weight = checks.array("similarity", similarity, 2, length=len(near))
    if near.shape != weight.shape:
        raise ValueError(f"similarity must have the shape of neighbors {near.shape}, not {weight.shape}")
    n, k = near.shape
    columns = checks.indices("neighbors", near.ravel(), n)
    rows = np.repeat(np.arange(n, dtype=np.int32), k)
    edges = np.square(np.maximum(weight.ravel(), 0), dtype=np.float32)
    edges[columns == rows] = 0
    one_way = sparse.csr_array((edges, (rows, columns)), shape=(n, n))
    both = (one_way + one_way.T).tocsr()
    both.eliminate_zeros()
    both.sort_indices()
    return both


def modes(graph: sparse.csr_array, count: int, *, rounds: int = 60, seed: int = 0) -> Matrix:
    """The `count` slowest modes of a walk on the graph, every image's row at length 1 [N, count].

    Images between which a walk passes easily lie together here, however bent the region that joins them. Found by
    subspace iteration with D^-1/2 A D^-1/2, made positive so that fast-changing modes die out.
    """
    n = graph.shape[0]
    count = min(count, n)
    scale = _inverse(np.sqrt(graph.sum(axis=1)))
    walk, rows = _Walk.of(graph * scale[:, None] * scale[None, :]), blocks(n)
    basis = np.random.default_rng(seed).standard_normal((n, min(n, count + SPARE_MODES))).astype(np.float32)[walk.order]
    spare = np.empty_like(basis)
    with one_thread_each() as each:

        def product(left: Matrix, right: Matrix) -> npt.NDArray[np.float64]:
            return np.asarray(sum(each(lambda block: left[block].T.astype(np.float64) @ right[block], rows)))

        def turned(vectors: Matrix, by: npt.NDArray[np.float64]) -> Matrix:
            return np.concatenate(each(lambda block: vectors[block] @ by.astype(np.float32), rows))

        for round_ in range(1, rounds + 1):
            basis, spare = walk(basis, basis, 0.5, 0.5, out=spare), basis
            if round_ % ORTHOGONALISE_EVERY == 0 or round_ == rounds:
                basis = turned(basis, _whitening(product(basis, basis)))
        _, rotation = np.linalg.eigh(product(basis, walk(basis, basis, 1, 0, out=spare)))
        slowest = turned(basis, rotation[:, ::-1][:, :count])
    out = np.empty_like(slowest)
    out[walk.order] = slowest * _inverse(np.linalg.norm(slowest, axis=1))[:, None]
    return out


def _whitening(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What makes vectors with these inner products orthonormal; directions they don't span become 0."""
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-12 * values.max(initial=0)
    return np.asarray(vectors * np.where(seen, 1 / np.sqrt(np.where(seen, values, 1)), 0), np.float64)


def diffuse(
    graph: sparse.csr_array,
    votes: Matrix,
    *,
    steps: int = 20,
    keep: float = 0.2,
    pinned: npt.NDArray[np.integer] | None = None,
) -> Matrix:
    """F <- (1 - keep) D^-1 A F + keep V, `steps` times from F = V, for votes V [N, C].

    Islands keep their votes, and so do the images in the rows `pinned`.
    """
    degree = graph.sum(axis=1)
    fixed = degree == 0
    if pinned is not None:
        fixed[pinned] = True
    walk = _Walk.of(graph * _inverse(degree)[:, None])
    still = np.flatnonzero(fixed[walk.order])
    field = np.empty(votes.shape, np.float32)

    def spread(columns: slice) -> None:
        own = votes[walk.order, columns]
        part, spare = own.copy(), np.empty_like(own)
        for _ in range(steps):
            part, spare = walk(part, own, 1 - keep, keep, threads=1, out=spare), part
            part[still] = own[still]
        field[walk.order, columns] = part

    with one_thread_each() as each:
        each(spread, [slice(at, at + COLUMNS) for at in range(0, votes.shape[1], COLUMNS)])
    return field


@dataclass(frozen=True)
class _Walk:
    """The entries of a sparse matrix [N, N], row by row, its images in an `order` that puts neighbours side by side."""

    order: npt.NDArray[np.integer]
    start: npt.NDArray[np.int64]
    column: npt.NDArray[np.int32]
    weight: Matrix

    @classmethod
    def of(cls, graph: sparse.sparray) -> Self:
        """A symmetric graph's entries; those of a row keep their order, and so its sum its rounding."""
        order = reverse_cuthill_mckee(graph.tocsr(), symmetric_mode=True)
        rows, place = graph.tocsr()[order], np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return cls(order, rows.indptr.astype(np.int64), place[rows.indices], rows.data.astype(np.float32))

    def __call__(
        self, field: Matrix, own: Matrix, move: float, keep: float, *, out: Matrix, threads: int | None = None
    ) -> Matrix:
        """move × (graph @ field) + keep × own [N, columns], all in the walk's order, into `out`."""
        count = checks.thread_count(threads)
        _core.walk(self.start, self.column, self.weight, field, own, move, keep, out, count)
        return out


def cluster_votes(
    votes: npt.NDArray[np.integer],
    cluster: npt.NDArray[np.integer],
    classes: int,
    weight: npt.NDArray[np.floating] | None = None,
) -> Matrix:
    """Each image's row is how all of its cluster vote, as shares [N, C]; with `weight` not every vote counts alike."""
    k = int(cluster.max(initial=-1)) + 1
    table = np.bincount(cluster.astype(np.int64) * classes + votes, weight, k * classes).reshape(k, classes)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return np.asarray(shares.astype(np.float32)[cluster])


def modularity(cluster: npt.NDArray[np.integer], neighbors: npt.NDArray[np.integer]) -> float:
    """By how much more of the neighbours [N, k] share an image's cluster than would by chance."""
    k = int(cluster.max(initial=-1)) + 1
    near = cluster[neighbors]
    mine = np.bincount(cluster, minlength=k) / max(len(cluster), 1)
    theirs = np.bincount(near.ravel(), minlength=k) / max(near.size, 1)
    return float((near == cluster[:, None]).mean() - mine @ theirs)


def _inverse(value: npt.NDArray[np.floating]) -> Matrix:
    """1 / value, and 0 where that is 0."""
    out = np.zeros(value.shape, np.float32)
    np.divide(1, value, out=out, where=value > 0)
    return out
