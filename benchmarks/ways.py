"""Ways that many benchmarks share: a plain formula compiled, and the limit of whatever moves data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


def compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function compiled for the shapes it meets; what was compiled before is forgotten, or limits would bite."""
    torch._dynamo.reset()
    return compiled_beside(function, device)


def compiled_beside(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function compiled, and what was compiled before is kept.

    On a CPU PyTorch's generator draws, since the compiler's own is many times slower there.
    """
    return torch.compile(function, fullgraph=True, dynamic=False, options={"fallback_random": device == "cpu"})


def copy_of(values: int, device: str, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """A copy that reads and writes `values` numbers in all, as many as a task must."""
    source, target = torch.zeros(2, values // 2, device=device, dtype=dtype)
    return partial(target.copy_, source)
