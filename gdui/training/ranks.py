"""Several processes as one: which of them this is, and sums and rows of them all. Alone, everything is its own."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "on_any_rank", "place", "sum_over_ranks"]


def place() -> tuple[int, int]:
    """This process's number among how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Adds up every tensor over all ranks, in one message."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def on_any_rank(said: bool, device: torch.device) -> bool:
    """Whether one of the ranks says so; all of them hear the same."""
    if not dist.is_initialized():
        return said
    told = torch.full((1,), float(said), device=device)
    sum_over_ranks([told])
    return bool(told)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks, rank after rank."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
