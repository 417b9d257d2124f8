"""Several processes as one: which of them this is, and sums and rows of them all. Alone, everything is its own."""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["check_groups", "from_first", "gathered", "joined", "on_any_rank", "own_device", "place", "sum_over_ranks"]

T = TypeVar("T")


def own_device() -> str:
    """The GPU where there is one, under torchrun each rank its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Under torchrun the ranks find each other, unless they have already."""
    ours = "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if ours:
        # the others wait while the first one reads all pictures, names clusters or draws
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        if ours:
            dist.destroy_process_group()


def place() -> tuple[int, int]:
    """This process's number among how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def check_groups(stage: str, groups: int) -> None:
    """Refuses groups of a batch, each with batch norms of its own, that the ranks can't share out evenly."""
    ranks = place()[1]
    if groups % ranks:
        raise ValueError(f"{stage}.groups must be a multiple of the {ranks} ranks, not {groups}")


def from_first(make: Callable[[], T], device: torch.device | None = None) -> T:
    """What the first rank makes, or the error that it met, on every rank; the others make nothing.

    Args:
        device: by which one it travels; None for the one that the group uses.
    """
    if not dist.is_initialized():
        return make()
    box: list[tuple[T | None, Exception | None]] = [(None, None)]
    if place()[0] == 0:
        try:
            box = [(make(), None)]
        except Exception as error:  # the others would wait for ever
            box = [(None, _portable(error))]
    dist.broadcast_object_list(box, device=device)
    made, failed = box[0]
    if failed is not None:
        raise failed
    return cast(T, made)


def _portable(error: Exception) -> Exception:
    """The error, or one with its words where a pickle can't bring it to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # an error's own code runs
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


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
