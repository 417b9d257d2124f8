"""The share of each image's 100 nearest neighbours that have its own label: exact, and by the packages for it."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import faiss
import hnswlib
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Bench, Role
from gdui.labeling.exact import unit_rows
from gdui.labeling.neighbors import consistency, neighbors

DEVICES = ("cpu",)

K = 100
THRESHOLD = 0.9
LARGE = 20_000  # rows beyond which the slow sit out, and the others run twice
MOST_CHECKED, MOST_DECIDED = 1000, 300  # rows: ours by definition, another exact way's by what it may find
EXACT = ("SPICE, dense", "torch, blocks", "faiss flat")

Floats = npt.NDArray[np.floating]
Found = npt.NDArray[np.integer]


def run(bench: Bench) -> None:
    """Quick: 4,000 rows. Else 13,000 (STL-10's) and 60,000 (where a dense matrix takes 14 GB)."""
    for n, d in [(4_000, 256)] if bench.quick else [(13_000, 512), (60_000, 512)]:
        compare(bench, f"N={n} d={d} k={K}", *clusters(n, d, noise=1.0))
        compare(bench, f"N={n} d={d} k={K}, tight clusters", *clusters(n, d, noise=0.05), only=("faiss flat",))


def compare(
    bench: Bench, size: str, features: Floats, labels: npt.NDArray[np.int64], only: tuple[str, ...] | None = None
) -> None:
    """Times every way for one size, and says how often its answer is another than the exact one."""
    ways = {name: way for name, way in searches(features, bench.threads).items() if only is None or name in only}
    votes = {name: voting(find, labels) for name, find in ways.items()}
    seen: dict[str, Floats] = {}

    def agree(results: Mapping[str, Any]) -> None:
        seen.update(results)
        check(seen, features, labels)

    def ours() -> Floats:
        return consistency(features, labels, K, "exact", threads=bench.threads)

    repeats = 2 if len(features) > LARGE else 3
    bench.compare(
        size, {"gdui exact": ours} | votes, agree=agree, peers=votes, most_memory={"gdui exact": 1e9}, repeats=repeats
    )
    bench.record(size, "products at the best rate", "time", "s", [products(*features.shape)], "limit")
    for name in seen:
        role: Role = "peer" if name in ways else "ours"
        wrong = np.mean((seen[name] >= THRESHOLD) != (seen["gdui exact"] >= THRESHOLD))
        bench.record(size, name, f"votes wrong at {THRESHOLD}", "share", [float(wrong)], role)
    if len(features) <= LARGE:
        truth = neighbors(features, K, "exact", threads=bench.threads).indices
        for name, find in ways.items():
            bench.record(size, name, "recall", "share", [recall(find(), truth)], "peer")


def clusters(n: int, d: int, noise: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """A mixture of 10 Gaussians; one row in ten has another cluster's label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    centres = 0.5 * rng.standard_normal((10, d), dtype=np.float32)
    rows = centres[labels] + np.float32(noise) * rng.standard_normal((n, d), dtype=np.float32)
    mistaken = rng.random(n) < 0.1
    return unit(rows), np.where(mistaken, rng.integers(0, 10, n), labels)


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def searches(features: Floats, threads: int) -> dict[str, Callable[[], Found]]:
    """Every other way to find neighbours. All are given unit rows; the slow and the large sit out the large size."""
    n, table = len(features), torch.from_numpy(features)
    ways: dict[str, Callable[[], Found]] = {"faiss flat": lambda: faiss_search(features, "Flat")}
    if n <= LARGE or threads > 1:
        ways |= {
            "torch, blocks": lambda: torch_blocks(table),
            "torch, bf16 blocks": lambda: torch_blocks(table.bfloat16()),
            "faiss IVF, nprobe 8": lambda: faiss_search(features, f"IVF{int(2 * n**0.5)},Flat"),
        }
    if n <= LARGE:
        ways |= {
            "SPICE, dense": lambda: (table @ table.T).topk(K).indices.numpy(),
            "faiss HNSW": lambda: faiss_search(features, "HNSW32"),
            "hnswlib": lambda: hnswlib_search(features, threads),
        }
    return ways


def torch_blocks(table: torch.Tensor) -> Found:
    found = [(table[start : start + 1024] @ table.T).topk(K).indices for start in range(0, len(table), 1024)]
    return torch.cat(found).numpy()


def faiss_search(features: Floats, kind: str) -> Found:
    index = faiss.index_factory(features.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    parameter = {"I": ("nprobe", 8), "H": ("efSearch", 2 * K)}.get(kind[0])
    if parameter:
        faiss.ParameterSpace().set_index_parameter(index, *parameter)
    index.train(features)
    index.add(features)
    return index.search(features, K)[1]


def hnswlib_search(features: Floats, threads: int) -> Found:
    index = hnswlib.Index("ip", features.shape[1])
    index.init_index(len(features), ef_construction=100, M=16)
    index.set_ef(2 * K)
    index.add_items(features, num_threads=threads)
    return index.knn_query(features, K, num_threads=threads)[0].astype(np.int64)


def products(n: int, d: int) -> float:
    """Seconds of the n x n products alone, at the best rate of any precision: an exact method can't leave them out."""
    half = torch.ones(4096, 4096, dtype=torch.bfloat16)
    whole = torch.ones(4096, 4096, dtype=torch.int8)
    taken = []
    for multiply, rows in ((torch.mm, half), (torch._int_mm, whole)):
        for _ in range(4):
            start = time.perf_counter()
            multiply(rows, rows.T)
            taken.append(time.perf_counter() - start)
    return min(taken) * n * n * d / 4096**3


def voting(find: Callable[[], Found], labels: npt.NDArray[np.int64]) -> Callable[[], Floats]:
    return lambda: (labels[find()] == labels[:, None]).mean(axis=1)


def check(votes: Mapping[str, Floats], features: Floats, labels: npt.NDArray[np.int64]) -> None:
    """Ours against brute force by definition, and the other exact ways by what rounding lets them find.

    A thousand rows over the whole set, and those in which a way differs from ours, at most some hundreds: in tight
    clusters rounding decides for many. For what is left of those, a bound that only gross mistakes exceed.
    """
    ours, rows = votes["gdui exact"], unit_rows("features", features)
    differing = {name: np.flatnonzero(np.abs(votes[name] - ours) > 1e-6) for name in set(EXACT) & set(votes)}
    decided = {name: some(differs, MOST_DECIDED) for name, differs in differing.items()}
    checked = np.unique(np.concatenate([some(np.arange(len(rows)), MOST_CHECKED), *decided.values()]))
    for part in np.array_split(checked, 1 + len(checked) // 256):
        for i, found in zip(part, nearest_by_definition(rows, part), strict=True):
            assert ours[i] == np.mean(labels[found] == labels[i]), f"row {i}"
    for name, differs in decided.items():
        assert np.abs(votes[name] - ours).max() < 0.05, name
        for i in differs:
            low, high = attainable(rows, labels, i)
            assert low - 1e-6 <= votes[name][i] <= high + 1e-6, f"row {i}, {name}"


def some(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of them, evenly."""
    return rows[:: 1 + len(rows) // most]


def attainable(rows: Floats, labels: npt.NDArray[np.int64], i: int) -> tuple[float, float]:
    """The lowest and the highest vote for a row where any float32 sum may order those near the border."""
    similarity, same = rows @ rows[i], labels == labels[i]
    border = np.partition(similarity, -K)[-K]
    wrong = 4 * (rows.shape[1] + 4) * 2.0**-24  # a sum is off by a quarter of it: two entries here, and two there
    sure, near = similarity > border + wrong, np.abs(similarity - border) <= wrong
    seats, agreeing = K - np.sum(sure), np.sum(near & same)
    least = max(0, seats - (np.sum(near) - agreeing))
    return (np.sum(sure & same) + least) / K, (np.sum(sure & same) + min(seats, agreeing)) / K


def nearest_by_definition(rows: Floats, asked: npt.NDArray[np.int64]) -> Iterator[Found]:
    """Brute force for some rows: float64 sums over lanes, rounded to float32, ties by the lower index."""
    for i, rough in zip(asked, rows[asked] @ rows.T, strict=True):
        near = np.flatnonzero(rough >= np.partition(rough, -K)[-K] - 1e-4)  # float32 sums are wrong by less
        lanes = (rows[near].astype(np.float64) * rows[i]).reshape(len(near), -1, 32).sum(axis=1)
        while lanes.shape[1] > 1:
            lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
        yield near[np.argsort(-lanes[:, 0].astype(np.float32), kind="stable")[:K]]


def recall(found: Found, truth: Found) -> float:
    """The share of true neighbours found, over a sample of rows."""
    some = range(0, len(truth), max(1, len(truth) // 1000))
    return float(np.mean([len(np.intersect1d(found[i], truth[i])) / K for i in some]))
