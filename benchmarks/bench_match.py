"""Stable matching of K clusters with K classes: a random table, and one on which all clusters are of one mind."""

from collections.abc import Mapping
from typing import Any

import lap
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from benchmarks.harness import Bench, Way, read
from gdui.labeling.match import stable_match

DEVICES = ("cpu",)

Table = npt.NDArray[np.float32]
PEERS = ("numpy, Gale-Shapley", "scipy, best total", "lap, best total", "matching")
LIMITS, MARKS = ("one read",), ("argmax of each row",)


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
        "argmax of each row": lambda: table.argmax(axis=1),
        "one read": read([table], threads),
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
        elif name not in LIMITS + MARKS:
            assert len(np.unique(found)) == len(found), name


def compare(bench: Bench, k: int, table: Table) -> None:
    memory = {"gdui": 0.1 * table.nbytes} if k >= 5000 else {}
    chosen = ways(table, bench.threads)
    peers = set(PEERS) & set(chosen)
    bench.compare(f"K={k}", chosen, agree=agree, peers=peers, limits=LIMITS, marks=MARKS, most_memory=memory)


def compare_of_one_mind(bench: Bench, k: int, rng: np.random.Generator) -> None:
    """All clusters rank the classes alike: the worst case of proposals, for which rows are usually sorted first."""
    table = (rng.random(k)[None, :] + 1e-3 * rng.random(k)[:, None]).astype(np.float32)
    found: dict[str, Way] = {
        "gdui": lambda: stable_match(table, threads=bench.threads).class_of_cluster,
        "lap, best total": lambda: lap.lapjv(table.max() - table, return_cost=False)[0],
        "numpy, every row sorted": lambda: np.sort(table, axis=1),
        "one read": read([table], bench.threads),
    }

    def agrees(results: Mapping[str, Any]) -> None:
        matchings = {name: results[name] for name in ("gdui", "lap, best total")}
        agree(matchings | {"numpy, Gale-Shapley": gale_shapley(table)})

    marks = ["numpy, every row sorted"]
    bench.compare(f"K={k}, one mind", found, agree=agrees, peers=["lap, best total"], limits=LIMITS, marks=marks)


def run(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for k in (100, 1000) if bench.quick else (100, 1000, 5000, 10_000):
        compare(bench, k, rng.random((k, k), dtype=np.float32))
    compare_of_one_mind(bench, 1000 if bench.quick else 5000, rng)
