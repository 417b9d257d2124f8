"""Frechet distance between two clouds of features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

The trace of the square root is the sum of the singular values of A'B for any factors S1 = AA', S2 = BB'; they are the
roots of the eigenvalues of A'BB'A, which is the fast road. The root of a small eigenvalue loses half of its digits, so
the road says how wrong it may be, and where that is too much the singular values are taken instead.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import checks
from gdui.evaluation.fidelity.statistics import Moments, moments

__all__ = ["Gaussian", "between", "frechet_distance", "frechet_to_infinity", "gaussian", "of_moments"]

TOLERANCE = 1e-7
POINTS = 8


class Gaussian(NamedTuple):
    """A mean [d], and a factor A [d, r] of the covariance AA'."""

    mean: torch.Tensor
    factor: torch.Tensor


def frechet_distance(features_a: npt.ArrayLike, features_b: npt.ArrayLike) -> float:
    """The distance between Gaussians fitted to the rows of `features_a` [N, d] and of `features_b` [M, d]."""
    return between(gaussian(features_a), gaussian(features_b))


def frechet_to_infinity(features: npt.ArrayLike, reference: Gaussian, seed: int = 0) -> float:
    """The distance to `reference` that endless samples like `features` [N, d] would have.

    The bias of a finite sample falls as 1 / N (Chong and Forsyth, 2020), so a line through the distances of random
    parts of several sizes is followed to 1 / N = 0. The reference stays as it is, bias and all. Where a fifth of the
    rows, the smallest part, are fewer than the columns, the bias falls more slowly, and some of it is left.
    """
    rows = np.asarray(features)
    order = np.random.default_rng(seed).permutation(len(rows))
    sizes = np.unique(np.linspace(max(2, len(rows) // 5), len(rows), POINTS).astype(int))
    if len(sizes) < 2:
        raise ValueError(f"features must have at least 3 rows to be extrapolated from, not {len(rows)}")
    distances = [between(gaussian(rows[order[:size]]), reference) for size in sizes]
    return float(np.polynomial.Polynomial.fit(1 / sizes, distances, 1).convert().coef[0])


def gaussian(features: npt.ArrayLike) -> Gaussian:
    """Fitted to the rows of `features` [N, d]."""
    rows = checks.array("features", features, 2)
    if len(rows) > rows.shape[1]:
        return of_moments(moments(rows))
    if len(rows) < 2:
        raise ValueError(f"features must have at least 2 rows, not {len(rows)}")
    few = torch.from_numpy(rows.astype(np.float64))
    mean = few.mean(dim=0)
    return Gaussian(mean, (few - mean).T / (len(few) - 1) ** 0.5)


def of_moments(seen: Moments) -> Gaussian:
    """With the factor from Cholesky, or from the eigenvectors where the covariance is singular."""
    covariance = torch.from_numpy(seen.covariance)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        values, vectors = torch.linalg.eigh(covariance)
        some = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
        factor = vectors[:, some] * values[some].sqrt()
    return Gaussian(torch.from_numpy(seen.mean), factor)


def between(a: Gaussian, b: Gaussian) -> float:
    """The distance of two Gaussians."""
    if len(a.mean) != len(b.mean):
        raise ValueError(f"features must have the same number of columns, not {len(a.mean)} and {len(b.mean)}")
    apart = float(((a.mean - b.mean) ** 2).sum() + (a.factor**2).sum() + (b.factor**2).sum())
    product = a.factor.T @ b.factor
    trace, doubt = _by_eigenvalues(product)
    if 2 * doubt > TOLERANCE * abs(apart - 2 * trace):
        trace = float(torch.linalg.svdvals(product).sum())
    return max(0.0, apart - 2 * trace)


def _by_eigenvalues(product: torch.Tensor) -> tuple[float, float]:
    """The sum of the singular values, and how far it may be off."""
    tall = product if product.shape[0] >= product.shape[1] else product.T
    values = torch.linalg.eigvalsh(tall.T @ tall)
    if not len(values):
        return 0.0, 0.0
    noise = 4 * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
    roots = values.clamp(min=0).sqrt()
    doubt = torch.minimum(noise.sqrt(), noise / roots.clamp(min=1e-300))
    return float(roots.sum()), float(doubt.sum())
