"""Stable matching of K clusters with K classes: a random table, and one on which all clusters are of one mind."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
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


@cache
def compiled_sort() -> Callable[..., None]:
    """`order_of_rows` of row_sort.cpp, by the system's C++ compiler."""
    source = Path(__file__).with_name("row_sort.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "row_sort.so"
        flags = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
        subprocess.run([os.environ.get("CXX", "c++"), *flags, source, "-o", library], check=True)
        found = ctypes.CDLL(str(library)).order_of_rows
    table, order = (np.ctypeslib.ndpointer(kind, ndim=2, flags="C") for kind in (np.float32, np.int32))
    found.argtypes = [table, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, order]
    found.restype = None
    return found


def order_of_rows(table: Table, threads: int) -> npt.NDArray[np.int32]:
    """Each row's columns, best first, by std::sort."""
    order = np.empty(table.shape, np.int32)
    compiled_sort()(table, *table.shape, threads, order)
    return order


def compare_of_one_mind(bench: Bench, k: int, rng: np.random.Generator) -> None:
    """All clusters rank the classes alike: the worst case of proposals, for which rows are usually sorted first.

    Sorting is measured as what it takes to know each row's order, and as the lesser task of sorting bare numbers.
    """
    table = (rng.random(k)[None, :] + 1e-3 * rng.random(k)[:, None]).astype(np.float32)
    cost = table.max() - table
    orders: dict[str, Way] = {
        "C++, order of every row": lambda: order_of_rows(table, bench.threads),
        "numpy, order of every row": lambda: np.argsort(-table, axis=1, kind="stable"),
    }
    sorts = orders | {"numpy, numbers of every row": lambda: np.sort(table, axis=1)}
    found: dict[str, Way] = {
        "gdui": lambda: stable_match(table, threads=bench.threads).class_of_cluster,
        "lap, best total": lambda: lap.lapjv(cost, return_cost=False)[0],
        "one read": read([table], bench.threads),
    }

    def agrees(results: Mapping[str, Any]) -> None:
        first, *others = (results[name] for name in orders)
        for other in others:
            np.testing.assert_array_equal(first, other)
        agree({name: results[name] for name in ("gdui", "lap, best total")} | {PEERS[0]: gale_shapley(table)})

    size, peers = f"K={k}, one mind", ["lap, best total"]
    bench.compare(size, found | sorts, agree=agrees, peers=peers, limits=LIMITS, marks=sorts)


def run(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for k in (100, 1000) if bench.quick else (100, 1000, 5000, 10_000):
        compare(bench, k, rng.random((k, k), dtype=np.float32))
    compare_of_one_mind(bench, 1000 if bench.quick else 5000, rng)
