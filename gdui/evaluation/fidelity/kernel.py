"""Kernel distance (Binkowski et al., 2018): the unbiased squared gap of two sets under k(x, y) = (x.y / d + 1)^3."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import checks

__all__ = ["KernelDistance", "kernel_distance"]

SEED = 2020  # torch-fidelity's, so that both look at the same subsets


class KernelDistance(NamedTuple):
    """The mean over random subsets, and the standard deviation among them."""

    mean: float
    deviation: float


def kernel_distance(
    features_a: npt.ArrayLike, features_b: npt.ArrayLike, *, subsets: int = 100, size: int = 1000, seed: int = SEED
) -> KernelDistance:
    """KID of `features_a` [N, d] and `features_b` [M, d] over `subsets` pairs of random subsets of `size` each."""
    a, b = checks.array("features_a", features_a, 2), checks.array("features_b", features_b, 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_b must have {a.shape[1]} columns as features_a has, not {b.shape[1]}")
    checks.whole("subsets", subsets, 1)
    if not 2 <= checks.whole("size", size, 2) <= min(len(a), len(b)):
        raise ValueError(f"size must be at most {min(len(a), len(b))}, the smaller set, not {size}")
    chance = np.random.RandomState(seed)
    gaps = [
        _squared_gap(
            torch.from_numpy(a[chance.choice(len(a), size, replace=False)]).double(),
            torch.from_numpy(b[chance.choice(len(b), size, replace=False)]).double(),
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(gaps)), float(np.std(gaps)))


def _squared_gap(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean kernel within x and within y, a vector with itself left out, less twice that between them."""
    size = len(x)
    within = sum(float(kernel.sum() - kernel.trace()) for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (size * (size - 1)) - 2 * float(_kernel(x, y).mean())


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
