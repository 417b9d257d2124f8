"""Unit rows, and their exact nearest by cosine: on the CPU by the compiled core, on a GPU by blocked products.

A similarity is the float32 nearest to a float64 sum taken in a fixed order, so every road gives the same bytes.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import _core, checks

__all__ = ["Neighbors", "check_device", "nearest", "rank", "unit_rows"]

LANES = 32
BLOCK_BYTES = 1 << 28

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]


class Neighbors(NamedTuple):
    """For each query the `k` most similar rows: `indices` and cosine `similarity`, both [Q, k], most similar first.

    how: the method, and where it was "auto" that chose it, why.
    """

    indices: Indices
    similarity: Floats
    how: str = "exact"


def unit_rows(name: str, value: npt.ArrayLike) -> Floats:
    """The rows of `value` [N, d] at length one in float32, padded with zeros to whole lanes; read block by block."""
    rows = checks.array(name, value, 2, finite=False)
    if rows.shape[1] == 0:
        raise ValueError(f"{name} must have at least 1 column (its shape is {rows.shape})")
    unit = np.empty((len(rows), -(-rows.shape[1] // LANES) * LANES), np.float32)
    kind = np.float64 if rows.dtype == np.float64 else np.float32
    for start in range(0, len(rows), 4096):
        try:
            block: Any = rows[start : start + 4096].astype(kind, order="C", copy=False)
            _core.unit_rows(block, start, unit)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return unit


def nearest(
    rows: Floats, queries: Floats, k: int, *, leave_self_out: bool = False, device: str = "cpu", threads: int = 1
) -> Neighbors:
    """The `k` nearest unit `rows` of each unit query, ties by the lower index."""
    if device != "cpu":
        return nearest_by_blocks(rows, queries, k, leave_self_out=leave_self_out, device=device)
    found = _core.nearest(rows, queries, k=k, leave_self_out=leave_self_out, threads=threads)
    return Neighbors(*found)


def check_device(device: str) -> None:
    """Refuses a device on which nothing can be multiplied here."""
    if not isinstance(device, str):
        raise TypeError(f"device must be 'cpu', 'cuda' or 'cuda:N', not {device!r}")
    if device != "cpu" and not re.fullmatch("cuda(:[0-9]+)?", device):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', not {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not there: PyTorch sees no CUDA device")


def rank(rows: Floats, queries: Floats, indices: npt.NDArray[np.integer], threads: int) -> Neighbors:
    """Row numbers found for each query [Q, k], in the order that `nearest` would give them."""
    ordered = np.array(indices, np.int32, order="C")
    return Neighbors(ordered, _core.rank(rows, queries, ordered, threads=threads))


def nearest_by_blocks(rows: Floats, queries: Floats, k: int, *, leave_self_out: bool, device: str) -> Neighbors:
    """`nearest` in PyTorch: float32 products choose candidates, float64 sums compare them."""
    table = torch.from_numpy(rows).to(device)
    indices = np.empty((len(queries), k), np.int32)
    similarity = np.empty((len(queries), k), np.float32)
    size = max(1, BLOCK_BYTES // (4 * len(rows) + 24 * (2 * k + 32) * rows.shape[1]))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        for start in range(0, len(queries), size):
            block = torch.from_numpy(queries[start : start + size]).to(device)
            products = block @ table.T
            if leave_self_out:
                products[:, start:].fill_diagonal_(-torch.inf)
            found, near = _best(products, block, table, k, 2 * k + 32)
            indices[start : start + size] = found.cpu().numpy()
            similarity[start : start + size] = near.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)
    return Neighbors(indices, similarity)


def _best(
    products: torch.Tensor, block: torch.Tensor, table: torch.Tensor, k: int, kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact best `k` of each row of `products`, which are wrong by at most a float32 sum's rounding.

    Rows for which the best `kept` products can't prove it try again with more, fewer at a time.
    """
    kept = min(kept, len(table))
    top = products.topk(kept)
    candidates = top.indices.sort(dim=1).values
    near = _similarity(block, table, candidates)
    near[products.gather(1, candidates) == -torch.inf] = -torch.inf
    order = near.sort(dim=1, descending=True, stable=True)
    found, near = candidates.gather(1, order.indices[:, :k]), order.values[:, :k]
    doubt = 2 * (table.shape[1] + 2) * 2.0**-24
    unproven = (near[:, -1] <= top.values[:, -1] + doubt).nonzero()[:, 0]
    if kept < len(table) and len(unproven):
        for part in torch.split(unproven, max(1, len(block) // 2)):
            found[part], near[part] = _best(products[part], block[part], table, k, 2 * kept)
    return found, near


def _similarity(block: torch.Tensor, table: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """The cosine of each query with its candidates, summed as csrc/similarity.cpp sums it."""
    queries = block.double().view(len(block), -1, LANES)
    lanes = torch.zeros(*candidates.shape, LANES, dtype=torch.float64, device=table.device)
    for step in range(queries.shape[1]):
        columns = table[:, step * LANES : (step + 1) * LANES]
        lanes += queries[:, step].unsqueeze(1) * columns[candidates].double()
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0].float()
