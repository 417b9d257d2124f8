"""The scores of generated images: Frechet's distance and improved precision and recall beside their peers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import torch

from benchmarks.harness import Bench
from gdui.evaluation.fidelity.frechet import between, of_moments
from gdui.evaluation.fidelity.neighbours import precision_recall
from gdui.evaluation.fidelity.statistics import Moments, moments

DEVICES = ("cpu",)
K = 3
BLOCK = 2000
Floats = np.ndarray


def features(rng: np.random.Generator, n: int, d: int, spread: float) -> Floats:
    """Rectified and of low effective dimension, as pooled features of a deep network are."""
    mixing = np.random.default_rng(0).standard_normal((64, d)) / 8
    rows = spread * rng.standard_normal((n, 64)) @ mixing + 0.5 * rng.standard_normal((n, d))
    return np.maximum(rows, 0).astype(np.float32)


def by_sqrtm(a: Moments, b: Moments) -> float:
    """The usual implementation."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root.real))


def by_eigvals(a: Moments, b: Moments) -> float:
    """torch-fidelity's: eigenvalues of the product, which is not symmetric."""
    roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).astype(complex)).real.sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * roots)


def two_products(a: Moments, b: Moments) -> None:
    """The least that the product under the root costs."""
    first, second = torch.from_numpy(a.covariance), torch.from_numpy(b.covariance)
    first.T @ second @ first


def blocked(generated: Floats, real: Floats) -> tuple[float, float]:
    """float32 distances of PyTorch, block by block."""
    drawn, true = torch.from_numpy(generated), torch.from_numpy(real)

    def share(points: torch.Tensor, rows: torch.Tensor) -> float:
        radii = torch.cat([torch.cdist(part, rows).kthvalue(K + 1).values for part in rows.split(BLOCK)])
        return float(
            torch.cat([(torch.cdist(part, rows) <= radii).any(1) for part in points.split(BLOCK)]).float().mean()
        )

    return share(drawn, true), share(true, drawn)


def dense(generated: Floats, real: Floats) -> tuple[float, float]:
    """torch-fidelity's own function."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    return calculate_precision_recall_full(torch.from_numpy(generated), torch.from_numpy(real), K)


def products(generated: Floats, real: Floats, dtype: torch.dtype) -> None:
    """Every product of the four tables of distances, each once, and nothing else."""
    drawn, true = torch.from_numpy(generated).to(dtype), torch.from_numpy(real).to(dtype)
    for points, rows in ((drawn, drawn), (drawn, true), (true, true), (true, drawn)):
        for part in points.split(BLOCK):
            part @ rows.T


def run(bench: Bench) -> None:
    rng = np.random.default_rng(1)
    for d in (256,) if bench.quick else (512, 2048):
        frechet(bench, rng, d)
    for n, d in ((1500, 256),) if bench.quick else ((13_000, 2048),):
        near(bench, rng, n, d)


def frechet(bench: Bench, rng: np.random.Generator, d: int) -> None:
    a, b = (moments(features(rng, 3 * d, d, spread)) for spread in (1.0, 0.9))

    def agree(results: Mapping[str, Any]) -> None:
        for name in ("scipy sqrtm", "numpy eigvals, torch-fidelity"):
            assert abs(results["gdui"] - results[name]) <= 1e-6 * abs(results[name]), results

    ways = {
        "gdui": lambda: between(of_moments(a), of_moments(b)),
        "scipy sqrtm": partial(by_sqrtm, a, b),
        "numpy eigvals, torch-fidelity": partial(by_eigvals, a, b),
        "two products": partial(two_products, a, b),
    }
    bench.compare(
        f"d={d}, Frechet distance", ways, agree=agree, peers=list(ways)[1:3], limits=["two products"], repeats=2
    )


def near(bench: Bench, rng: np.random.Generator, n: int, d: int) -> None:
    generated, real = features(rng, n, d, 1.0), features(rng, n, d, 0.9)

    def agree(results: Mapping[str, Any]) -> None:
        """float32 distances may put a few points on the other side of a border."""
        for name in ("torch, blocks of float32", "torch-fidelity"):
            assert np.abs(np.subtract(results["gdui"], results[name])).max() <= 3 / n, results

    ways = {
        "gdui": partial(precision_recall, generated, real, K, threads=bench.threads),
        "torch, blocks of float32": partial(blocked, generated, real),
        "torch-fidelity": partial(dense, generated, real),
        "float32 products": partial(products, generated, real, torch.float32),
        "bf16 products": partial(products, generated, real, torch.bfloat16),
    }
    bench.compare(
        f"N={n} d={d}, precision and recall", ways, agree=agree, peers=list(ways)[1:3], limits=list(ways)[3:], repeats=2
    )
