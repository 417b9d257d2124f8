"""How fast the networks run: bfloat16 where the hardware multiplies it, and torch.compile, in this one place."""

import copy
import os
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["autocast", "compiled", "float32_only", "for_inference", "has_bfloat16"]


@cache
def has_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 there."""
    if device == "cuda":
        return bool(torch.cuda.get_device_capability() >= (8, 0))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def float32_only() -> bool:
    """Whether GDUI_PRECISION=float32 turns bfloat16 off everywhere."""
    return os.environ.get("GDUI_PRECISION") == "float32"


def autocast(device: str, enabled: bool = True) -> torch.autocast:
    """Mixed precision for a forward pass in training: weights stay in float32."""
    return torch.autocast(device, torch.bfloat16, enabled=_in_bfloat16(device, enabled))


def _in_bfloat16(device: str, wanted: bool) -> bool:
    """Whether networks run in bfloat16: where it pays."""
    return wanted and not float32_only() and has_bfloat16(device)


def compiled(network: nn.Module, enabled: bool = True, *, replayed: bool = False) -> Callable[..., Any]:
    """The network as one compiled graph of fixed shapes, on a GPU.

    On a CPU what pays is fused already: 75 s of compiling the tiny preset won 8% of a step (the demo's smaller network
    takes 44 s). GDUI_COMPILE=1 compiles everywhere, 0 nowhere.

    Args:
        replayed: record it as a CUDA graph as well; the next call then overwrites what this one returns.
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    if not enabled or os.environ.get("GDUI_COMPILE", "0" if on_cpu else "1") == "0":
        return network
    mode = "reduce-overhead" if replayed and not on_cpu else None
    made: Callable[..., Any] = torch.compile(network, fullgraph=True, dynamic=False, mode=mode)
    return made


def for_inference(
    network: nn.Module,
    *,
    mixed: bool = True,
    compile: bool = True,  # noqa: A002
) -> Callable[..., Tensor]:
    """The network as it draws: fixed weights, kept in bfloat16 where it pays, float32 in and out.

    Autocast would convert every weight anew in every call. Normalisation keeps its few weights in float32. Gradients
    reach the pictures, not the weights.
    """
    fixed = copy.deepcopy(network).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if _in_bfloat16(next(fixed.parameters()).device.type, mixed) else torch.float32
    for layer in fixed.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.Embedding):
            layer.to(dtype)
    run = compiled(fixed, compile, replayed=True)

    def forward(x: Tensor, *given: Tensor) -> Tensor:
        return cast(Tensor, run(x.to(dtype), *given).to(torch.float32, copy=run is not fixed))

    return forward
