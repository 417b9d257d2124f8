"""Refinement of millions of labels, and its outcome for 101 values of sigma."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Bench, Way, read
from gdui.labeling.refine import refine, sweep

DEVICES = ("cpu",)

Array = npt.NDArray[Any]
Arrays = tuple[Array, Array, Array, Array]
LIMITS, MARKS = ("one read",), ("one read and write",)


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
    for n, k in [(1_000_000, 100)] if bench.quick else [(1_000_000, 100), (10_000_000, 1000)]:
        cluster = rng.integers(0, k, n)
        opinion = np.where(rng.random(n) < 0.9, cluster, rng.integers(0, k, n))
        arrays = (cluster, rng.random(n, dtype=np.float32), opinion, np.arange(k))
        compare(bench, f"N={n}, K={k}", arrays)
        compare_sweeps(bench, f"N={n}, K={k}, sweep", arrays, every=10 if n > 1_000_000 else 1)


def compare(bench: Bench, size: str, arrays: Arrays) -> None:
    ways: dict[str, Way] = {
        "gdui": lambda: refine(*arrays, threads=bench.threads).label_index,
        "numpy": lambda: with_numpy(*arrays, [0.5])[0],
    }

    def agree(results: Mapping[str, Any]) -> None:
        np.testing.assert_array_equal(results["gdui"], results["numpy"])

    bench.compare(
        size, ways | bounds_of(arrays, bench.threads), agree=agree, peers=["numpy"], limits=LIMITS, marks=MARKS
    )


def compare_sweeps(bench: Bench, size: str, arrays: Arrays, every: int) -> None:
    """NumPy is asked for every so many of the 101 thresholds, for it takes a pass for each."""
    sigmas = [step / 100 for step in range(0, 101, every)]
    plain = f"numpy, {len(sigmas)} thresholds"
    ways: dict[str, Way] = {
        "gdui, 101 thresholds": lambda: sweep(*arrays, threads=bench.threads),
        plain: lambda: outcomes(*arrays, sigmas),
    }

    def agree(results: Mapping[str, Any]) -> None:
        ours = results["gdui, 101 thresholds"]
        changed, class_size, agreement = zip(*results[plain], strict=True)
        np.testing.assert_array_equal(ours.changed[::every], changed)
        np.testing.assert_array_equal(ours.class_size[::every], class_size)
        np.testing.assert_array_equal(ours.agreement[::every], agreement)

    bench.compare(size, ways | bounds_of(arrays, bench.threads), agree=agree, peers=[plain], limits=LIMITS, marks=MARKS)


def bounds_of(arrays: Arrays, threads: int) -> dict[str, Way]:
    """What memory allows: each array read, and each read and written to a place that is there."""
    sources = arrays[:3]
    copies = [np.empty_like(array) for array in sources]
    halves = [
        pair
        for source, copy in zip(sources, copies, strict=True)
        for pair in zip(np.array_split(source, threads), np.array_split(copy, threads), strict=True)
    ]
    pool = ThreadPoolExecutor(threads)
    return {
        "one read": read(sources, threads),
        "one read and write": lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), halves)),
    }


def outcomes(
    cluster: Array, confidence: Array, opinion: Array, name: Array, sigmas: list[float]
) -> list[tuple[int, Array, float]]:
    """For each sigma how many labels changed, the classes' sizes, and the share of the opinion's labels."""
    r_btm, matched = bounds(cluster, confidence, opinion, name)
    least, out = r_btm[cluster], []
    for sigma in sigmas:
        label = np.where((least < sigma) & (confidence < np.float64(sigma)), opinion, matched)
        size = np.bincount(label, minlength=len(name))
        out.append((int((label != matched).sum()), size, float((label == opinion).mean())))
    return out
