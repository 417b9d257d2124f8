"""Which implementation of an op runs: Triton where it can, else the C++ core where it has one, else the reference."""

import os
from collections.abc import Collection
from functools import cache
from typing import Literal, get_args

import torch

from gdui.checks import one_of

__all__ = ["Backend", "choose", "interpreting"]

Backend = Literal["auto", "triton", "native", "reference"]
VARIABLE = "GDUI_BACKEND"


def choose(
    backend: str,
    *tensors: torch.Tensor | None,
    native: bool = False,
    native_types: Collection[torch.dtype] = (torch.float32,),
) -> str:
    """The backend to run on `tensors`: the one asked for by argument or by GDUI_BACKEND, else the fastest that can.

    Args:
        backend: one of "auto", "triton", "native", "reference"; "auto" leaves the choice to GDUI_BACKEND.
        tensors: what the op reads; None for what was not given.
        native: whether the op has a C++ implementation.
        native_types: what that takes.
    """
    one_of("backend", backend, get_args(Backend))
    if backend == "auto":
        backend = one_of(VARIABLE, os.environ.get(VARIABLE, "auto"), get_args(Backend))
    given = [tensor for tensor in tensors if tensor is not None]
    if backend == "auto":
        if triton_obstacle(given) is None and not interpreting():
            return "triton"
        return "native" if native and native_obstacle(given, native_types) is None else "reference"
    obstacle = None
    if backend == "triton":
        obstacle = triton_obstacle(given)
    elif backend == "native":
        obstacle = native_obstacle(given, native_types) if native else "this op has no C++ implementation"
    if obstacle is not None:
        raise RuntimeError(f"the backend {backend!r} was asked for, but {obstacle}")
    return backend


def triton_obstacle(tensors: list[torch.Tensor]) -> str | None:
    """Why Triton can't run on `tensors`, or None."""
    if not has_triton():
        return "Triton is not installed"
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "it has no float64"
    if not interpreting() and any(tensor.device.type != "cuda" for tensor in tensors):
        return f"it needs CUDA tensors, not {', '.join(sorted({tensor.device.type for tensor in tensors}))}"
    return None


def native_obstacle(tensors: list[torch.Tensor], types: Collection[torch.dtype]) -> str | None:
    """Why the C++ core can't run on `tensors`, or None."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return f"it needs CPU tensors, not {', '.join(sorted({tensor.device.type for tensor in tensors}))}"
    others = {str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype not in types}
    return f"it needs {' or '.join(map(str, types))}, not {', '.join(sorted(others))}" if others else None


def interpreting() -> bool:
    """Whether Triton interprets its kernels on the CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def has_triton() -> bool:
    try:
        import gdui.kernels.philox  # noqa: F401
    except ImportError:
        return False
    return True
