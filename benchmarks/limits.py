"""What a processor allows for so many operations: products of a common shape, and nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["convolutions", "operations", "products"]

BATCH, CHANNELS, SIDE = 32, 128, 16  # of the UNet's commonest convolution
HEADS, ROWS, WIDTH, HIDDEN = 10, 32, 128, 512  # of the first layer of SPICE's heads


def operations(way: Callable[[], Any]) -> float:
    """Floating-point operations of the convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        way()
    return float(counter.get_total_flops())


def convolutions(count: float, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Convolutions of so many operations."""
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return _repeated(lambda: layer(x), count / (2 * x.numel() * CHANNELS * 9))


def products(count: float) -> Callable[[], Tensor]:
    """Batched float32 products of so many operations."""
    x, weight = torch.randn(HEADS, ROWS, WIDTH), torch.randn(HEADS, WIDTH, HIDDEN)
    return _repeated(lambda: torch.bmm(x, weight), count / (2 * x.numel() * HIDDEN))


def _repeated(product: Callable[[], Tensor], times: float) -> Callable[[], Tensor]:
    @torch.no_grad()
    def way() -> Tensor:
        for _ in range(max(1, round(times)) - 1):
            product()
        return product()

    return way
