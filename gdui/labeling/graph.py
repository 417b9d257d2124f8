"""The third witness: votes diffused over the graph of nearest neighbours, every class brought back to its own weight."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

__all__ = ["adjacency", "diffuse"]

Matrix = npt.NDArray[np.float32]


def adjacency(neighbors: npt.NDArray[np.integer], similarity: npt.NDArray[np.floating]) -> sparse.csr_array:
    """The symmetric graph [N, N] of the nearest neighbours (N, k), each edge weighted by its cosine, rows summing to 1.

    An image that lists itself gets no edge to itself; negative cosines join nothing.
    """
    n, k = neighbors.shape
    rows = np.repeat(np.arange(n), k)
    columns = neighbors.ravel().astype(np.int64)
    weights = np.maximum(similarity.ravel(), 0).astype(np.float32) ** 2
    weights[(columns == rows) | (columns < 0)] = 0
    one_way = sparse.csr_array((weights, (rows, np.maximum(columns, 0))), shape=(n, n))
    both = (one_way + one_way.T).tocsr()
    both.eliminate_zeros()
    degree = np.asarray(both.sum(1)).ravel()
    both.data /= np.repeat(np.maximum(degree, 1e-12), np.diff(both.indptr)).astype(np.float32)
    return both


def diffuse(graph: sparse.csr_array, votes: Matrix, *, steps: int, keep: float) -> Matrix:
    """F <- (1 - keep) A F + keep V, `steps` times from F = V, for votes V (N, C) and the graph A."""
    field = votes
    for _ in range(steps):
        field = (1 - keep) * (graph @ field) + keep * votes
    return field
