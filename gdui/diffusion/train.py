"""Trains the generator's network and its classifier: one loop for both, and a run that a kill can't change.

Everything random in step s (rows, mirroring, time steps, noise, dropout, forgotten classes) is drawn from the seed and s alone.
So a checkpoint needs no generator state, and a resumed run takes the very steps it would have taken.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdui import checks, ops
from gdui.diffusion.history import History, Saved
from gdui.diffusion.pictures import Batch, Pictures
from gdui.diffusion.precision import autocast, compiled
from gdui.diffusion.schedule import Schedule

__all__ = ["Diverged", "Recipe", "classifier_loss", "denoiser_loss", "train_network"]

log = logging.getLogger(__name__)
Loss = Callable[[nn.Module, Batch, Tensor, Tensor], Tensor]


class Diverged(RuntimeError):
    """Training met a loss that is no number."""


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and on what.

    rate: AdamW's, after `warmup` steps that climb to it.
    ema: decays of the running averages of the weights; the choice among them comes after training.
    forget: share of pictures shown without their class, for classifier-free guidance.
    mirror: whether pictures may be turned left to right (never for digits or text).
    """

    steps: int = 20_000
    batch: int = 128
    rate: float = 1e-4
    warmup: int = 500
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: tuple[float, ...] = (0.999, 0.9999)
    forget: float = 0.0
    mirror: bool = False
    accumulate: int = 1
    kind: Literal["simple", "hybrid", "rescaled_hybrid", "vlb"] = "hybrid"
    target: Literal["eps", "x0", "v"] = "eps"
    weighting: str | None = None
    seed: int = 0
    save_every: int = 1_000
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        checks.in_range("forget", self.forget, 0, 1)
        for decay in self.ema:
            checks.in_range("ema", decay, 0, 1)
        if self.batch % self.accumulate:
            raise ValueError(f"batch must be a multiple of accumulate, but {self.batch} is not one of {self.accumulate}")


def denoiser_loss(schedule: Schedule, recipe: Recipe) -> Loss:
    """The loss of each picture for a UNet that predicts what `recipe` says."""

    def loss(network: nn.Module, batch: Batch, t: Tensor, seed: Tensor) -> Tensor:
        noisy = ops.noise_images(batch.x0, t, schedule, seed=seed)
        prediction = network(noisy, schedule.timesteps(t), *_classes_for(network, batch.classes))
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

    def loss(network: nn.Module, batch: Batch, t: Tensor, seed: Tensor) -> Tensor:
        noisy = ops.noise_images(batch.x0, t, schedule, seed=seed)
        logits = network(noisy, schedule.timesteps(t)).float()
        return F.cross_entropy(logits, batch.classes, ignore_index=-1, reduction="none")

    return loss
