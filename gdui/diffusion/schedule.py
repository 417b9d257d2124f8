"""The noise schedule: betas, the steps kept of them, and the table of coefficients that the kernels read."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui.checks import array, indices, one_of, whole
from gdui.kernels.tables import Column

__all__ = ["Schedule"]

COUNT = "0*[1-9][0-9]*"
RESPACING = f"ddim{COUNT}|{COUNT}(,{COUNT})*"

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Betas in float64, and which step of the full schedule each belongs to; `from_name` has the published ones.

    betas: the variance of the noise that each step adds, above 0 and below 1 [steps].
    timestep_map: what a network is told of each step, its number before respacing [steps, int64].
    """

    betas: Vector
    timestep_map: npt.NDArray[np.int64]
    _tables: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        betas = array("betas", self.betas, 1).astype(np.float64, copy=False)
        if not len(betas):
            raise ValueError("betas must hold at least one step, not none")
        outside = betas[(betas <= 0) | (betas >= 1)]
        if len(outside):
            raise ValueError(f"betas must be above 0 and below 1, but hold {outside[0]}")
        kept = indices("timestep_map", self.timestep_map, length=len(betas)).astype(np.int64, copy=False)
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "timestep_map", kept)

    @classmethod
    def from_name(cls, name: str, steps: int = 1000, respacing: str = "") -> Self:
        """A schedule by name, with all its steps or those of `respacing`.

        Args:
            name: "linear" (Ho et al. 2020), "cosine" (Nichol & Dhariwal 2021) or "sigmoid" (Jabri et al. 2022).
            steps: how many steps the full schedule has.
            respacing: "250" steps evenly spread, "10,15,20" steps in as many equal sections, or "ddim25" steps at one
                whole stride; empty for all.
        """
        steps = whole("steps", steps, 1)
        betas = BETAS[one_of("schedule", name, list(BETAS))](steps)
        if betas.max() >= 1:
            raise ValueError(f"steps must be more than {steps} for {name!r}: with so few a beta reaches 1")
        kept = kept_steps(steps, respacing)
        signal = np.cumprod(1 - betas)[kept]
        previous = np.append(1.0, signal[:-1])
        return cls(betas if len(kept) == steps else 1 - signal / previous, kept)

    def __len__(self) -> int:
        return len(self.betas)

    def table(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """The coefficients [steps, columns] on `device`, made once for each device and type."""
        key = (torch.device(device), dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # what is made in that mode could never be trained with
                self._tables[key] = torch.from_numpy(coefficients(self.betas, self.timestep_map)).to(*key)
        return self._tables[key]

    def timesteps(self, t: Tensor) -> Tensor:
        """The numbers, before respacing, of the steps `t` (int64, of any shape), in float32: what a network is told."""
        if not isinstance(t, Tensor) or t.dtype != torch.int64:
            raise TypeError(f"t must be an int64 tensor, not {t.dtype if isinstance(t, Tensor) else type(t).__name__}")
        return self.table(t.device)[t, Column.TIMESTEP]


def linear_betas(steps: int) -> Vector:
    return np.linspace(0.1 / steps, 20 / steps, steps)


def cosine_signal(time: Vector) -> Vector:
    return np.asarray(np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2)


def sigmoid_signal(time: Vector) -> Vector:
    """A logistic curve from -3 to 3, scaled to fall from one to zero."""
    logistic = 1 / (1 + np.exp(6 * time - 3))
    first, last = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))
    return np.asarray((logistic - last) / (first - last))


def betas_of(signal: Callable[[Vector], Vector]) -> Callable[[int], Vector]:
    """Betas whose running product of 1-β follows `signal` over [0, 1], none above 0.999."""

    def betas(steps: int) -> Vector:
        time = np.arange(steps + 1) / steps
        return np.minimum(1 - signal(time[1:]) / signal(time[:-1]), 0.999)

    return betas


BETAS: dict[str, Callable[[int], Vector]] = {
    "linear": linear_betas,
    "cosine": betas_of(cosine_signal),
    "sigmoid": betas_of(sigmoid_signal),
}


def kept_steps(steps: int, respacing: str) -> npt.NDArray[np.int64]:
    """The steps that `respacing` keeps, ascending."""
    if not respacing:
        return np.arange(steps)
    if not isinstance(respacing, str) or not re.fullmatch(RESPACING, respacing):
        raise ValueError(f"respacing must be like '250', '10,15,20' or 'ddim25', not {respacing!r}")
    if respacing.startswith("ddim"):
        return whole_stride(steps, int(respacing.removeprefix("ddim")))
    sections = [int(part) for part in respacing.split(",")]
    sizes = [steps // len(sections) + (i < steps % len(sections)) for i in range(len(sections))]
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([start + spread(size, n) for start, size, n in zip(starts, sizes, sections, strict=True)])


def whole_stride(steps: int, count: int) -> npt.NDArray[np.int64]:
    """Every s-th step, for the smallest s that gives `count` of them."""
    for stride in range(1, steps + 1):
        if len(range(0, steps, stride)) == count:
            return np.arange(0, steps, stride)
    raise ValueError(f"respacing 'ddim{count}' is not possible: no whole stride takes {count} of {steps} steps")


def spread(size: int, count: int) -> npt.NDArray[np.int64]:
    """`count` of `size` steps, the first and the last among them, at a stride as even as rounding allows."""
    if count > size:
        raise ValueError(f"respacing wants {count} steps of a section of {size}")
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    positions = np.cumsum(np.append(0.0, np.full(count - 1, stride)))
    return np.round(positions).astype(np.int64)


def coefficients(betas: Vector, timesteps: npt.NDArray[np.int64]) -> Vector:
    """The table [steps, columns] in float64; `Column` says what each column is."""
    signal = np.cumprod(1 - betas)
    previous = np.append(1.0, signal[:-1])
    small = betas * (1 - previous) / (1 - signal)
    first = small[1:2] if len(betas) > 1 else betas
    clipped, large = np.append(first, small[1:]), np.append(first, betas[1:])
    columns = {
        Column.SIGNAL: np.sqrt(signal),
        Column.NOISE: np.sqrt(1 - signal),
        Column.INVERSE_SIGNAL: np.sqrt(1 / signal),
        Column.NOISE_RATIO: np.sqrt(1 / signal - 1),
        Column.POSTERIOR_X0: betas * np.sqrt(previous) / (1 - signal),
        Column.POSTERIOR_XT: (1 - previous) * np.sqrt(1 - betas) / (1 - signal),
        Column.SMALL_VARIANCE: small,
        Column.SMALL_LOG_VARIANCE: np.log(clipped),
        Column.LARGE_VARIANCE: large,
        Column.LARGE_LOG_VARIANCE: np.log(large),
        Column.LOG_BETA: np.log(betas),
        Column.DDIM_SIGMA: np.sqrt((1 - previous) / (1 - signal)) * np.sqrt(1 - signal / previous),
        Column.PREVIOUS_SIGNAL: np.sqrt(previous),
        Column.PREVIOUS_NOISE_VARIANCE: 1 - previous,
        Column.SNR: signal / (1 - signal),
        Column.TIMESTEP: timesteps.astype(np.float64),
    }
    return np.stack([columns[column] for column in Column], axis=1)
