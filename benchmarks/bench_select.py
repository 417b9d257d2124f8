"""The 100 most confident samples of each of 100 clusters, and the table of votes, among millions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import Bench, Way, read
from gdui.labeling.select import most_confident, priority_table

DEVICES = ("cpu",)

CLUSTERS, WANTED = 100, 100


def select_ways(frame: pl.DataFrame, threads: int) -> dict[str, Way]:
    cluster, confidence = frame["cluster"].to_numpy(), frame["confidence"].to_numpy()

    def with_numpy() -> list[np.ndarray[Any, Any]]:
        members = (np.flatnonzero(cluster == k) for k in range(CLUSTERS))
        return [rows[np.argsort(-confidence[rows], kind="stable")[:WANTED]] for rows in members]

    def with_polars() -> pl.DataFrame:
        chosen = pl.col("index").top_k_by("confidence", WANTED)
        return frame.group_by("cluster").agg(chosen).sort("cluster")

    return {
        "gdui": lambda: most_confident(cluster, confidence, WANTED, n_clusters=CLUSTERS, threads=threads),
        "numpy, a pass a cluster": with_numpy,
        "polars": with_polars,
        "one read": read([cluster, confidence], threads),
    }


def select_agrees(results: Mapping[str, Any]) -> None:
    ours = results["gdui"]
    for k in range(CLUSTERS):
        np.testing.assert_array_equal(results["numpy, a pass a cluster"][k], ours[k])
        assert len(results["polars"]["index"][k]) == len(ours[k])  # polars decides ties as it likes


def vote_ways(frame: pl.DataFrame, threads: int) -> dict[str, Way]:
    cluster, votes = frame["cluster"].to_numpy(), frame["vote"].to_numpy()

    def with_numpy() -> np.ndarray[Any, Any]:
        counts = np.bincount(cluster * CLUSTERS + votes, minlength=CLUSTERS**2).reshape(CLUSTERS, CLUSTERS)
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    return {
        "gdui": lambda: priority_table(votes, cluster, CLUSTERS, n_clusters=CLUSTERS, threads=threads),
        "numpy, bincount": with_numpy,
        "polars": lambda: frame.group_by("cluster", "vote").len(),
        "one read": read([cluster, votes], threads),
    }


def votes_agree(results: Mapping[str, Any]) -> None:
    np.testing.assert_array_equal(results["gdui"], results["numpy, bincount"])


def run(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for n in (1_000_000,) if bench.quick else (1_000_000, 10_000_000):
        frame = pl.DataFrame(
            {
                "index": np.arange(n),
                "cluster": rng.integers(0, CLUSTERS, n),
                "vote": rng.integers(0, CLUSTERS, n),
                "confidence": rng.random(n, dtype=np.float32),
            }
        )
        own = {"peers": ["numpy, a pass a cluster", "numpy, bincount", "polars"], "limits": ["one read"]}
        bench.compare(f"N={n}, most confident", select_ways(frame, bench.threads), agree=select_agrees, work=n, **own)
        bench.compare(f"N={n}, votes", vote_ways(frame, bench.threads), agree=votes_agree, work=n, **own)
