"""Inputs for the tests of the diffusion ops, and one way to run an op in any type, layout and backend."""

import torch
from backends import device_of, runnable
from torch import Tensor

SHAPES = [(4, 3, 8, 8), (3, 3, 7, 5), (2, 2, 33), (0, 3, 4, 4), (2, 3, 0, 4)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def backends_and_types() -> list[tuple[str, torch.dtype]]:
    """Each backend with each type it takes."""
    return [(backend, dtype) for backend in runnable(native=True) for dtype in DTYPES]


def wave(rate: float, *shape: int) -> Tensor:
    """Numbers in [-1, 1] that are the same in every version of PyTorch."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(1, 1 + count, dtype=torch.float64) * rate).reshape(shape)


def steps_for(shape: tuple[int, ...], steps: int = 50) -> Tensor:
    """The first step, the last, and some between."""
    return torch.tensor([0, steps - 1, steps // 2, 1])[: shape[0]]


def moved(value: Tensor, backend: str, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    """`value` where the backend wants it, in `dtype`."""
    value = value.to(device_of(backend), dtype)
    return value.contiguous(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value
