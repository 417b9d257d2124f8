"""Running averages of the weights, several at once, and which of them to keep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gdui.diffusion.losses import Loss
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.recipe import Recipe, draw
from gdui.diffusion.schedule import Schedule
from gdui.training.precision import autocast

__all__ = ["Averages", "errors", "follow", "followed", "put_on", "wearing"]

Averages = dict[float, list[Tensor]]
JUDGED = 8  # batches


def followed(network: nn.Module) -> list[Tensor]:
    """What is averaged: the weights, and the statistics of batch norms, which are worth nothing with other weights."""
    norms = (part for part in network.modules() if isinstance(part, nn.BatchNorm2d))
    statistics = (value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None)
    return [*(parameter.detach() for parameter in network.parameters()), *statistics]


def follow(averages: Averages, weights: Sequence[Tensor], step: int) -> None:
    """Moves every average after `step` updates; in the beginning faster than its decay, or it would keep the start."""
    for decay, values in averages.items():
        torch._foreach_lerp_(values, list(weights), 1 - min(decay, (1 + step) / (10 + step)))


@torch.no_grad()
def put_on(network: nn.Module, weights: Sequence[Tensor]) -> None:
    """Gives the network these weights, as `followed` lists them."""
    for own, value in zip(followed(network), weights, strict=True):
        own.copy_(value)


@contextmanager
def wearing(network: nn.Module, weights: Sequence[Tensor]) -> Iterator[nn.Module]:
    """The network with other weights, in evaluation mode, until the block ends."""
    own, training = [value.clone() for value in followed(network)], network.training
    put_on(network, weights)
    try:
        yield network.eval()
    finally:
        put_on(network, own)
        network.train(training)


def errors(
    network: nn.Module, averages: Averages, loss: Loss, pictures: Pictures, schedule: Schedule, recipe: Recipe
) -> dict[float, float]:
    """The mean loss of each average over the same pictures, time steps and noise, which no training step used."""
    device = next(network.parameters()).device
    fixed = [draw(place, pictures, recipe, judging=True) for place in range(JUDGED)]
    found = {}
    for decay, values in averages.items():
        total, count = 0.0, 0
        with wearing(network, values) as worn, torch.no_grad(), autocast(device.type, recipe.mixed):
            for drawn in fixed:
                t = torch.from_numpy((drawn.quantiles * len(schedule)).astype("int64")).to(device)
                total += float(loss(worn, drawn.batch.to(device), t, drawn.seed.to(device)).sum())
                count += len(t)
        found[decay] = total / count
    return found
