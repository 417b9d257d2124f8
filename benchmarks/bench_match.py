"""Stable matching of K clusters with K classes: a random table, and one on which all clusters are of one mind."""

from collections.abc import Mapping
from typing import Any

import lap
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from benchmarks.harness import Bench, Way
from gdui.labeling.match import stable_match

DEVICES = ("cpu",)

Table = npt.NDArray[np.float32]
PEERS = ("numpy, Gale-Shapley", "scipy, best total", "lap, best total", "matching")
SLOW = 10_000  # the size from which the peers run once


def gale_shapley(table: Table) -> npt.NDArray[np.int64]:
    """Deferred acceptance with every row sorted first."""
    wishes = np.argsort(-table, axis=1, kind="stable")
    asked = np.zeros(len(table), dtype=np.int64)
    holder = np.full(len(table), -1)
    free = np.arange(len(table))
    while len(free):
        wanted = wishes[free, asked[free]]
        asked[free] += 1
        order = np.lexsort((free, -table[free, wanted], wanted))
        first = order[np.append(True, np.diff(wanted[order]) != 0)]
        k, c = free[first], wanted[first]
        held = holder[c]
        better = (held < 0) | (table[k, c] > table[held, c]) | ((table[k, c] == table[held, c]) & (k < held))
        holder[c[better]] = k[better]
        losers = np.concatenate(
            [held[better & (held >= 0)], k[~better], free[np.setdiff1d(np.arange(len(free)), first)]]
        )
        free = np.sort(losers)
    return np.argsort(holder)


def object_game(table: Table) -> npt.NDArray[np.int64]:
    """The `matching` package, its players made from the table."""
    import sys

    from matching.games import StableMarriage

    sys.setrecursionlimit(100_000)
    wishes = {k: [f"c{c}" for c in np.argsort(-row, kind="stable")] for k, row in enumerate(table)}
    ranked = {f"c{c}": list(np.argsort(-row, kind="stable")) for c, row in enumerate(table.T)}
    game = StableMarriage.create_from_dictionaries(wishes, ranked)
    return np.array([int(str(c)[1:]) for _, c in sorted((k.name, c.name) for k, c in game.solve().items())])


def ways(table: Table, threads: int) -> dict[str, Way]:
    cost = table.max() - table
    out: dict[str, Way] = {
        "gdui": lambda: stable_match(table, threads=threads).class_of_cluster,
        "limit: argmax of each row": lambda: table.argmax(axis=1),
        "limit: one read": table.max,
        "lap, best total": lambda: lap.lapjv(cost, return_cost=False)[0],
        "numpy, Gale-Shapley": lambda: gale_shapley(table),
        "scipy, best total": lambda: linear_sum_assignment(table, maximize=True)[1],
    }
    if len(table) <= 100:
        out["matching"] = lambda: object_game(table)
    return out


def agree(results: Mapping[str, Any]) -> None:
    """All that look for the stable matching found the same one; the others match everyone."""
    for name, found in results.items():
        if name in ("numpy, Gale-Shapley", "matching"):
            np.testing.assert_array_equal(found, results["gdui"], err_msg=name)
        elif not name.startswith("limit"):
            assert len(np.unique(found)) == len(found), name


def compare(bench: Bench, size: str, table: Table, skipped: tuple[str, ...] = ()) -> None:
    chosen = {name: way for name, way in ways(table, bench.threads).items() if name not in skipped}
    limits = [name for name in chosen if name.startswith("limit")]
    repeats = 3 if len(table) >= SLOW else None
    bench.compare(size, chosen, agree=agree, peers=set(PEERS) & set(chosen), limits=limits, repeats=repeats)


def sorted_rows(table: Table) -> Table:
    return np.sort(table, axis=1)


def run(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for k in (100, 1000) if bench.quick else (100, 1000, 5000, 10_000):
        compare(bench, f"K={k}", rng.random((k, k), dtype=np.float32))
    k = 1000 if bench.quick else 5000
    alike = (rng.random(k)[None, :] + 1e-3 * rng.random(k)[:, None]).astype(np.float32)
    found: dict[str, Way] = {
        "gdui": lambda: stable_match(alike, threads=bench.threads).class_of_cluster,
        "lap, best total": lambda: lap.lapjv(alike.max() - alike, return_cost=False)[0],
        "limit: every row sorted": lambda: sorted_rows(alike),
    }

    def one_mind_agrees(results: Mapping[str, Any]) -> None:
        agree({**results, "numpy, Gale-Shapley": gale_shapley(alike)})

    limits = ["limit: every row sorted"]
    bench.compare(f"K={k}, one mind", found, agree=one_mind_agrees, peers=["lap, best total"], limits=limits)
