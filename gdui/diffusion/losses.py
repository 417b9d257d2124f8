"""What the two networks learn from a noisy picture: the UNet its noise, the classifier its class."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gdui import ops
from gdui.diffusion.pictures import Batch
from gdui.diffusion.recipe import Recipe
from gdui.diffusion.schedule import Schedule

__all__ = ["Forward", "Loss", "classifier_loss", "denoiser_loss"]

Forward = Callable[..., Tensor]
Loss = Callable[[Forward, Batch, Tensor, Tensor], Tensor]


def denoiser_loss(schedule: Schedule, recipe: Recipe, *, classes: int | None) -> Loss:
    """The loss of each picture for a UNet that predicts what `recipe` says; no class means the null class."""

    def loss(network: Forward, batch: Batch, t: Tensor, seed: Tensor) -> Tensor:
        noisy = ops.noise_images(batch.x0, t, schedule, seed=seed)
        named = () if classes is None else (torch.where(batch.classes < 0, classes, batch.classes),)
        prediction = network(noisy, schedule.timesteps(t), *named)
        return ops.denoising_loss(
            prediction.float(),
            batch.x0,
            t,
            schedule,
            seed=seed,
            kind=recipe.kind,
            target=recipe.target,
            weighting=recipe.weighting,
        )

    return loss


def classifier_loss(schedule: Schedule) -> Loss:
    """The cross-entropy of each noisy picture; pictures without a class count nothing."""

    def loss(network: Forward, batch: Batch, t: Tensor, seed: Tensor) -> Tensor:
        noisy = ops.noise_images(batch.x0, t, schedule, seed=seed)
        logits = network(noisy, schedule.timesteps(t)).float()
        return F.cross_entropy(logits, batch.classes, ignore_index=-1, reduction="none")

    return loss
