"""The 100 most confident samples of each of 100 clusters, and the table of votes, among millions."""

from collections.abc import Mapping
from functools import partial
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


def select_agrees(results: Mapping[str, Any], frame: pl.DataFrame) -> None:
    """All chose the same samples, best first; of equally confident ones polars may take others, in its own order."""
    ours, polars = results["gdui"], results["polars"]
    cluster, confidence = frame["cluster"].to_numpy(), frame["confidence"].to_numpy()
    assert polars["cluster"].to_list() == list(range(CLUSTERS))
    for k in range(CLUSTERS):
        np.testing.assert_array_equal(results["numpy, a pass a cluster"][k], ours[k])
        chosen = polars["index"][k].to_numpy()
        assert len(np.unique(chosen)) == len(chosen)
        assert (cluster[chosen] == k).all()
        np.testing.assert_array_equal(np.sort(confidence[chosen])[::-1], confidence[ours[k]])


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
    """Polars gives counts, one row for each pair that occurs; the others give shares."""
    np.testing.assert_array_equal(results["gdui"], results["numpy, bincount"])
    counts, pairs = np.zeros((CLUSTERS, CLUSTERS), dtype=np.int64), results["polars"]
    counts[pairs["cluster"].to_numpy(), pairs["vote"].to_numpy()] = pairs["len"].to_numpy()
    np.testing.assert_array_equal(results["gdui"], counts / counts.sum(axis=1, keepdims=True))


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
        agree = partial(select_agrees, frame=frame)
        bench.compare(f"N={n}, most confident", select_ways(frame, bench.threads), agree=agree, work=n, **own)
        bench.compare(f"N={n}, votes", vote_ways(frame, bench.threads), agree=votes_agree, work=n, **own)
