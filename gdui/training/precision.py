"""How fast the networks run: bfloat16 where the hardware multiplies it, and torch.compile, in this one place."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

__all__ = ["autocast", "compiled", "has_bfloat16"]


@cache
def has_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 are faster than in float32 there."""
    if device == "cuda":
        return bool(torch.cuda.get_device_capability() >= (8, 0))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: str, enabled: bool = True) -> torch.autocast:
    """Mixed precision for the forward pass where it pays; GDUI_PRECISION=float32 turns it off everywhere."""
    pays = enabled and os.environ.get("GDUI_PRECISION") != "float32" and has_bfloat16(device)
    return torch.autocast(device, torch.bfloat16, enabled=pays)


def compiled(network: nn.Module, enabled: bool = True) -> Callable[..., Any]:
    """The network as one compiled graph of fixed shapes; GDUI_COMPILE=0 turns it off everywhere."""
    if not enabled or os.environ.get("GDUI_COMPILE") == "0":
        return network
    made: Callable[..., Any] = torch.compile(network, fullgraph=True, dynamic=False)
    return made
