"""Batch norm over the batch of all ranks: several processes normalise as one that has their batches together."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from gdui.training.ranks import place

__all__ = ["SharedNorm", "shares"]


class SharedNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d; under torchrun its mean and variance in training are those of all ranks, on any device."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        ranks = place()[1]
        if not self.training or ranks == 1:
            return super().forward(x)
        values = x.float()
        mean = _summed(values.mean((0, 2, 3))) / ranks
        centred = values - mean[:, None, None]
        variance = _summed(centred.square().mean((0, 2, 3))) / ranks
        self._follow(mean, variance, ranks * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics, of which the variance is the unbiased one."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1


def _summed(values: Tensor) -> Tensor:
    """The sum over all ranks, through which gradients come back to each."""
    return cast(Tensor, all_reduce(values))  # type: ignore[no-untyped-call]


def shares(network: nn.Module) -> bool:
    """Whether ranks wait for each other within this network."""
    return place()[1] > 1 and any(isinstance(part, SharedNorm) for part in network.modules())
