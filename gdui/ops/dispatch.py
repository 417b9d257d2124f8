"""Which implementation of an op runs: Triton where it can, else the native one where there is one, else the reference.

"native" is the C++ core or, for info_nce, PyTorch on blocks of the queue.
"""

import os
from collections.abc import Collection
from functools import cache
from typing import Literal, get_args

import torch

from gdui.checks import one_of

__all__ = ["Backend", "choose", "interpreting", "wider"]

Backend = Literal["auto", "triton", "native", "reference"]
BACKENDS = get_args(Backend)
VARIABLE = "GDUI_BACKEND"
SINGLE_OR_LESS = (torch.float32, torch.bfloat16, torch.float16)


def choose(
    backend: str,
    *tensors: torch.Tensor | None,
    native_types: Collection[torch.dtype] = SINGLE_OR_LESS,
    native_devices: Collection[str] = ("cpu",),
    too_wide: str | None = None,
) -> str:
    """The backend to run on `tensors`: the one asked for by argument or by GDUI_BACKEND, else the fastest that can.

    Args:
        backend: one of "auto", "triton", "native", "reference"; "auto" leaves the choice to GDUI_BACKEND.
        tensors: what the op reads; None for what was not given.
        native_types, native_devices: what the op's native implementation takes.
        too_wide: what about the shapes keeps the op's Triton kernel from running, or None.
    """
    one_of("backend", backend, BACKENDS)
    if backend == "auto" and VARIABLE in os.environ:
        backend = one_of(VARIABLE, os.environ[VARIABLE], BACKENDS)
    given = [tensor for tensor in tensors if tensor is not None]
    if backend == "auto":
        if given[0].is_cuda and not interpreting() and (triton_obstacle(given) or too_wide) is None:
            return "triton"
        return "native" if native_obstacle(given, native_types, native_devices) is None else "reference"
    obstacle = None
    if backend == "triton":
        obstacle = triton_obstacle(given) or too_wide
    elif backend == "native":
        obstacle = native_obstacle(given, native_types, native_devices)
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


def native_obstacle(
    tensors: list[torch.Tensor], types: Collection[torch.dtype], devices: Collection[str]
) -> str | None:
    """Why the native implementation can't run on `tensors`, or None."""
    for tensor in tensors:
        if tensor.device.type not in devices:
            return f"it needs {' or '.join(devices).upper()} tensors, not {tensor.device.type}"
        if tensor.is_floating_point() and tensor.dtype not in types:
            return f"it needs {' or '.join(map(str, types))}, not {tensor.dtype}"
    return None


def wider(what: str, count: int, most: int) -> str | None:
    """Why a Triton kernel can't hold `count` of something in its registers, or None."""
    return f"its kernel takes at most {most} {what}, not {count}" if count > most else None


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
