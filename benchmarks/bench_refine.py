"""Refinement of millions of labels, and its outcome for 101 values of sigma."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Bench, Way
from gdui.labeling.refine import refine, sweep

DEVICES = ("cpu",)

Array = npt.NDArray[Any]


def bounds(cluster: Array, confidence: Array, opinion: Array, name: Array) -> tuple[Array, Array]:
    """In plain NumPy: r_btm of the clusters that may relabel, infinity for the others."""
    size = np.bincount(cluster, minlength=len(name))
    quota, start = np.minimum(100, (size + 9) // 10), np.cumsum(size) - size
    order = np.lexsort((confidence, cluster))
    place = np.arange(len(order)) - np.repeat(start, size)
    btm = order[place < np.repeat(quota, size)]
    top = order[place >= np.repeat(size - quota, size)]
    delta_top, delta_btm = (
        np.bincount(cluster[rows], opinion[rows] == name[cluster[rows]], len(name)) / quota for rows in (top, btm)
    )
    bad = ((delta_top + delta_btm) / 2 <= 0.95) & ((delta_top < 0.9) | (delta_btm < 0.9))
    r_btm = np.bincount(cluster[btm], confidence[btm].astype(np.float64), len(name)) / quota
    return np.where(bad, r_btm, np.inf), name[cluster]


def with_numpy(cluster: Array, confidence: Array, opinion: Array, name: Array, sigmas: list[float]) -> list[Array]:
    r_btm, matched = bounds(cluster, confidence, opinion, name)
    least = r_btm[cluster]
    return [np.where((least < sigma) & (confidence < np.float64(sigma)), opinion, matched) for sigma in sigmas]


def run(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1_000_000, 100)] if bench.quick else [(1_000_000, 100), (10_000_000, 1000)]
    for n, k in sizes:
        cluster, name = rng.integers(0, k, n), np.arange(k)
        confidence = rng.random(n, dtype=np.float32)
        opinion = np.where(rng.random(n) < 0.9, cluster, rng.integers(0, k, n))
        arrays = (cluster, confidence, opinion, name)
        tensors = [torch.from_numpy(array) for array in arrays[:3]]
        every = 10 if n > 1_000_000 else 1
        sigmas = [step / 100 for step in range(0, 101, every)]

        def read_and_write(tensors: list[torch.Tensor] = tensors) -> list[torch.Tensor]:
            return [tensor.clone() for tensor in tensors]

        one: dict[str, Way] = {
            "gdui": lambda arrays=arrays: refine(*arrays, threads=bench.threads).label_index,
            "numpy": lambda arrays=arrays: with_numpy(*arrays, [0.5])[0],
            "limit: one read and write": read_and_write,
        }
        bench.compare(f"N={n}, K={k}", one, agree=same_labels, peers=["numpy"], limits=["limit: one read and write"])
        swept: dict[str, Way] = {
            "gdui, 101 thresholds": lambda arrays=arrays: sweep(*arrays, threads=bench.threads),
            f"numpy, {len(sigmas)} thresholds": lambda arrays=arrays, sigmas=sigmas: changes(*arrays, sigmas),
            "limit: one read and write": read_and_write,
        }

        def sweeps_agree(results: Mapping[str, Any], step: int = every, count: int = len(sigmas)) -> None:
            np.testing.assert_array_equal(
                results["gdui, 101 thresholds"].changed[::step], results[f"numpy, {count} thresholds"]
            )

        bench.compare(
            f"N={n}, K={k}, sweep",
            swept,
            agree=sweeps_agree,
            peers=[f"numpy, {len(sigmas)} thresholds"],
            limits=["limit: one read and write"],
        )


def changes(cluster: Array, confidence: Array, opinion: Array, name: Array, sigmas: list[float]) -> list[int]:
    r_btm, matched = bounds(cluster, confidence, opinion, name)
    least, differs = r_btm[cluster], opinion != matched
    return [int((differs & (least < sigma) & (confidence < np.float64(sigma))).sum()) for sigma in sigmas]


def same_labels(results: Mapping[str, Any]) -> None:
    np.testing.assert_array_equal(results["gdui"], results["numpy"])
