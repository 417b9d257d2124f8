"""Which time steps a training step learns from: evenly, or more often where the loss is large."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks

__all__ = ["TimeSampler", "Times"]

Times = ("uniform", "loss_aware")
REMEMBERED = 10
UNIFORM_SHARE = 0.001


@dataclass
class TimeSampler:
    """Turns quantiles into time steps.

    "loss_aware" draws in proportion to the root mean square of the last ten losses of each step, once every step has as
    many, and weighs by the inverse (Nichol and Dhariwal 2021, section 3.3): the expected gradient stays the same.
    """

    kind: str
    steps: int
    losses: npt.NDArray[np.float32] = field(init=False)
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        checks.one_of("times", self.kind, Times)
        self.losses = np.zeros((self.steps, REMEMBERED), np.float32)
        self.counts = np.zeros(self.steps, np.int64)

    def pick(self, quantiles: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The time step of each quantile in [0, 1), and its weight in the loss."""
        if self.kind == "uniform" or (self.counts < REMEMBERED).any():
            return (quantiles * self.steps).astype(np.int64), np.ones(len(quantiles), np.float32)
        size = np.sqrt(np.mean(self.losses.astype(np.float64) ** 2, axis=1))
        chances = (1 - UNIFORM_SHARE) * size / size.sum() + UNIFORM_SHARE / self.steps
        t = np.minimum(np.searchsorted(np.cumsum(chances), quantiles, side="right"), self.steps - 1)
        return t.astype(np.int64), (1 / (self.steps * chances[t])).astype(np.float32)

    def learn(self, t: npt.NDArray[np.integer], losses: npt.NDArray[np.floating]) -> None:
        """Takes in the unweighted losses of some pictures at `t`."""
        if self.kind == "uniform":
            return
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self.losses[step, self.counts[step] % REMEMBERED] = loss
            self.counts[step] += 1

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered, by name."""
        return {"times.losses": torch.from_numpy(self.losses), "times.counts": torch.from_numpy(self.counts)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Remembers what `tensors` told."""
        self.losses, self.counts = tensors["times.losses"].numpy().copy(), tensors["times.counts"].numpy().copy()
