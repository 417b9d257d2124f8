"""Group normalisation as the networks use it, in one pass with what follows it; and layers that start as zero."""

import math
from typing import TypeVar

from torch import Tensor, nn

from gdui import ops

__all__ = ["Norm", "zeroed"]

Layer = TypeVar("Layer", bound=nn.Module)


class Norm(nn.GroupNorm):
    """32 groups, or as many as divide the channels of a smaller network; with `silu`, SiLU after it.

    A scale and a shift [B, C] of each picture come between the two: (1 + scale) norm + shift.
    """

    def __init__(self, channels: int, *, silu: bool = False) -> None:
        super().__init__(math.gcd(32, channels), channels)
        self.silu = silu

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return ops.group_norm_silu(
            x, self.num_groups, self.weight, self.bias, scale, shift, eps=self.eps, silu=self.silu
        )


def zeroed(layer: Layer) -> Layer:
    """The layer with all parameters zero: a residual branch that starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
