"""How long a network trains, how fast, and on what; and everything that is random about one of its steps."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gdui import checks
from gdui.diffusion.pictures import Batch, Pictures
from gdui.training.order import rows_of

__all__ = ["Draw", "Recipe", "draw"]


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
    weighting: Literal["min_snr", "p2"] | None = None
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
            raise ValueError(
                f"batch must be a multiple of accumulate, but {self.batch} is not one of {self.accumulate}"
            )


@dataclass(frozen=True)
class Draw:
    """What one step learns from: pictures, the time step of each, and the seed of each one's noise."""

    batch: Batch
    t: Tensor
    seed: Tensor


def draw(step: int, pictures: Pictures, timesteps: int, recipe: Recipe, *, rank: int = 0, ranks: int = 1) -> Draw:
    """One rank's part of what `step` sees: a function of the seed and the step alone, so a resumed run can't differ."""
    generator = np.random.default_rng([recipe.seed, 1, step])
    mine = slice(rank, None, ranks)
    rows = rows_of(step, len(pictures), recipe.batch, recipe.seed)[mine]
    t = generator.integers(timesteps, size=recipe.batch)[mine].copy()
    seed = generator.integers(1 << 63, size=recipe.batch)[mine].copy()
    mirrored = generator.random(recipe.batch)[mine] < 0.5 if recipe.mirror else None
    forgotten = generator.random(recipe.batch)[mine] < recipe.forget
    batch = pictures.batch(rows, mirrored)
    batch.classes[torch.from_numpy(forgotten)] = -1
    return Draw(batch, torch.from_numpy(t), torch.from_numpy(seed))
