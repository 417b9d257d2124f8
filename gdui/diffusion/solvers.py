"""Few-step solvers of the sampling equation, DPM-Solver++(2M) and Heun, for any function that predicts the clean image.

With x = α x0 + σ noise, both follow the probability flow from pure noise down to σ = 0; DPM-Solver++ may also take
fresh noise on the way, which corrects a small network's errors. Every image is on its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from gdui.diffusion.schedule import Schedule

__all__ = ["Instant", "Spacing", "dpm_solver", "heun", "instants"]

Spacing = Literal["karras", "uniform"]
NOISIEST = 80.0


@dataclass(frozen=True)
class Instant:
    """One moment of the way: what the network is told, and the shares of signal and noise."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """λ = log(α/σ)."""
        return float(np.log(self.alpha / self.sigma))


Denoise = Callable[[Tensor, Instant], Tensor]
Noise = Callable[[int], Tensor]


def instants(schedule: Schedule, steps: int, spacing: Spacing = "karras") -> list[Instant]:
    """`steps` moments from the noisiest to the cleanest of the schedule.

    "karras" spaces σ/α by its seventh root (Karras et al. 2022, equation 5), "uniform" the time steps. It begins at
    σ/α = 80 where a schedule goes beyond: the cosine's last step alone spans a factor of 30 that holds no signal.
    """
    alpha = np.sqrt(np.cumprod(1 - schedule.betas))
    ratio = np.sqrt(1 - alpha**2) / alpha
    top, low = min(ratio[-1], NOISIEST), ratio[0]
    if spacing == "uniform":
        places = np.arange(len(ratio))
        wanted = np.interp(np.linspace(np.interp(top, ratio, places), 0, steps), places, ratio)
    else:
        wanted = np.linspace(top ** (1 / 7), low ** (1 / 7), steps) ** 7
    timesteps = np.interp(np.log(wanted), np.log(ratio), schedule.timestep_map)
    alphas = 1 / np.sqrt(1 + wanted**2)
    return [Instant(float(t), float(a), float(a * r)) for t, a, r in zip(timesteps, alphas, wanted, strict=True)]


def dpm_solver(
    denoise: Denoise, x: Tensor, way: list[Instant], *, noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022): two steps' predictions make one of second order. Yields every state.

    With eta > 0 `noise` gives a fresh one for every step: at 1 this is their SDE-DPM-Solver++(2M), below it the
    share of SA-Solver's constant τ = η (Xue et al. 2023). Of the old noise exp(-η²h) stays over a step of h in log-SNR.
    """
    previous: Tensor | None = None
    for i, here in enumerate(way):
        clean = denoise(x, here)
        if i + 1 == len(way):
            yield clean
            return
        there = way[i + 1]
        step = there.log_snr - here.log_snr
        if previous is None:
            direction = clean
        else:
            weight = step / (2 * (here.log_snr - way[i - 1].log_snr))
            direction = (1 + weight) * clean - weight * previous
        kept = float(np.exp(-step * eta**2))
        x = (there.sigma / here.sigma * kept) * x + there.alpha * (1 - kept * float(np.exp(-step))) * direction
        if noise is not None and eta > 0:
            x = x + there.sigma * float(np.sqrt(1 - kept**2)) * noise(i)
        previous = clean
        yield x


def heun(denoise: Denoise, x: Tensor, way: list[Instant]) -> Iterator[Tensor]:
    """Heun's method on d(x/α)/d(σ/α) (Karras et al. 2022, algorithm 1): two predictions a step but the last."""
    for i, here in enumerate(way):
        clean = denoise(x, here)
        if i + 1 == len(way):
            yield clean
            return
        there = way[i + 1]
        scaled, ratio, step = (
            x / here.alpha,
            here.sigma / here.alpha,
            there.sigma / there.alpha - here.sigma / here.alpha,
        )
        slope = (scaled - clean) / ratio
        reached = (scaled + step * slope) * there.alpha
        again = (reached / there.alpha - denoise(reached, there)) / (there.sigma / there.alpha)
        x = (scaled + step * (slope + again) / 2) * there.alpha
        yield x
