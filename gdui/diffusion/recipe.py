"""How long a network trains, how fast, and on what; and everything that is random about one of its steps."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks
from gdui.diffusion.pictures import Batch, Pictures
from gdui.diffusion.times import Times
from gdui.ops.objective import Kind, Target, Weighting
from gdui.training.order import rows_of

__all__ = ["Draw", "Recipe", "draw"]


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and on what.

    rate: AdamW's, after `warmup` steps that climb to it.
    ema: decays of the running averages of the weights (a half-life of 0.69 / (1 - decay) steps); the choice among them
        comes after training.
    forget: share of pictures shown without their class, for classifier-free guidance.
    mirror: whether pictures may be turned left to right (never for digits or text).
    accumulate: in how many parts a batch goes through the network.
    times: time steps are drawn "uniform", or "loss_aware": more often where the loss is large.
    intervals: above 1 the time steps are cut into as many; each takes part in every step, and where their gradients
        oppose each other they are balanced.
    mixed: train in bfloat16 where the hardware has it; very narrow networks lose more by converting than they win.
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
    times: Literal["uniform", "loss_aware"] = "uniform"
    intervals: int = 1
    mixed: bool = True
    kind: Kind = "hybrid"
    target: Target = "eps"
    weighting: Weighting | None = None
    seed: int = 0
    save_every: int = 1_000
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "intervals", "save_every", "keep"):
            checks.whole(name, getattr(self, name), 1)
        checks.whole("warmup", self.warmup, 0)
        for name in ("rate", "weight_decay", "clip"):
            checks.in_range(name, getattr(self, name), 0, math.inf)
        checks.in_range("forget", self.forget, 0, 1)
        for decay in self.ema:
            checks.in_range("ema", decay, 0, 1)
        checks.one_of("times", self.times, Times)
        for name, allowed in (("kind", Kind), ("target", Target), ("weighting", Weighting)):
            if getattr(self, name) is not None:
                checks.one_of(name, getattr(self, name), get_args(allowed))
        if self.intervals > 1 and self.times != "uniform":
            raise ValueError("intervals share the time steps evenly: leave times at 'uniform'")
        self.check_parts(1)

    def check_parts(self, ranks: int) -> None:
        """Refuses a batch that can't be shared out evenly."""
        parts = ranks * self.intervals * self.accumulate
        if self.batch % parts:
            raise ValueError(
                f"batch must be a multiple of {ranks} ranks x {self.intervals} intervals x {self.accumulate} parts, "
                f"and {self.batch} is not one of {parts}"
            )


@dataclass(frozen=True)
class Draw:
    """What one step learns from: pictures, the quantile of each one's time step, and the seed of each one's noise."""

    batch: Batch
    quantiles: npt.NDArray[np.float64]
    seed: Tensor


def draw(
    step: int, pictures: Pictures, recipe: Recipe, *, rank: int = 0, ranks: int = 1, judging: bool = False
) -> Draw:
    """One rank's part of what `step` sees: a function of the seed and the step alone, so a resumed run can't differ.

    `judging` draws what no training step does.
    """
    generator = np.random.default_rng([recipe.seed, 4 if judging else 1, step])
    mine = slice(rank, None, ranks)
    rows = rows_of(step, len(pictures), recipe.batch, recipe.seed)[mine]
    interval = np.arange(recipe.batch) * recipe.intervals // recipe.batch
    quantiles = (interval + generator.random(recipe.batch)) / recipe.intervals
    seed = generator.integers(1 << 63, size=recipe.batch)[mine].copy()
    mirrored = generator.random(recipe.batch)[mine] < 0.5 if recipe.mirror else None
    forgotten = generator.random(recipe.batch)[mine] < recipe.forget
    batch = pictures.batch(rows, mirrored)
    batch.classes[torch.from_numpy(forgotten)] = -1
    return Draw(batch, quantiles[mine], torch.from_numpy(seed))
