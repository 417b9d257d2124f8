"""The share of each image's 100 nearest neighbours that have its own label: exact, and by the packages for it."""

from collections.abc import Callable, Mapping
from typing import Any

import faiss
import hnswlib
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Bench, Role
from gdui.labeling.neighbors import consistency, neighbors

DEVICES = ("cpu",)

K = 100
THRESHOLD = 0.9
EXACT = ("gdui exact", "SPICE, dense", "torch, blocks", "faiss flat")

Floats = npt.NDArray[np.floating]
Found = npt.NDArray[np.integer]


def run(bench: Bench) -> None:
    """Quick: 4,000 rows. Else 13,000 (STL-10's) and 60,000 (where a dense matrix takes 14 GB)."""
    for n, d in [(4_000, 256)] if bench.quick else [(13_000, 512), (60_000, 512)]:
        compare(bench, n, d)


def compare(bench: Bench, n: int, d: int) -> None:
    """Times every way for one size, and says how often its answer is another than the exact one."""
    features, labels = clusters(n, d)
    ways = searches(features, n, bench.threads)
    votes = {name: voting(find, labels) for name, find in ways.items()}
    votes["gdui exact"] = lambda: consistency(features, labels, K, "exact", threads=bench.threads)
    limits = {f"limit: {name}": way for name, way in products(features).items()}
    size = f"N={n} d={d} k={K}"
    seen: dict[str, Floats] = {}

    def agree(results: Mapping[str, Any]) -> None:
        seen.update({name: results[name] for name in ways})
        check(seen)

    peers = [name for name in votes if not name.startswith("gdui")]
    repeats = 1 if n > 20_000 else None
    bench.compare(size, votes | limits, agree=agree, peers=peers, limits=limits, repeats=repeats)
    truth = neighbors(features, K, "exact", threads=bench.threads).indices
    for name, find in ways.items():
        role: Role = "peer" if name in peers else "ours"
        wrong = np.mean((seen[name] >= THRESHOLD) != (seen["gdui exact"] >= THRESHOLD))
        bench.record(size, name, f"votes wrong at {THRESHOLD}", "share", [float(wrong)], role)
        if n <= 20_000:
            bench.record(size, name, "recall", "share", [recall(find(), truth)], role)


def clusters(n: int, d: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """A mixture of 10 Gaussians; one row in ten has another cluster's label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    centres = 0.5 * rng.standard_normal((10, d), dtype=np.float32)
    rows = centres[labels] + rng.standard_normal((n, d), dtype=np.float32)
    mistaken = rng.random(n) < 0.1
    return unit(rows), np.where(mistaken, rng.integers(0, 10, n), labels)


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def searches(features: Floats, n: int, threads: int) -> dict[str, Callable[[], Found]]:
    """Every way to find neighbours. Peers are given unit rows; the slow and the large sit out the large size."""
    table = torch.from_numpy(features)
    ways: dict[str, Callable[[], Found]] = {
        "gdui exact": lambda: neighbors(features, K, "exact", threads=threads).indices,
        "torch, blocks": lambda: torch_blocks(table),
        "torch, bf16 blocks": lambda: torch_blocks(table.bfloat16()),
        "faiss flat": lambda: faiss_search(features, "Flat"),
        "faiss IVF, nprobe 8": lambda: faiss_search(features, f"IVF{int(2 * n**0.5)},Flat"),
    }
    if n <= 20_000:
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


def products(features: Floats) -> dict[str, Callable[[], None]]:
    """The N x N products alone, block by block, in three precisions: no exact method can leave out all of them."""
    table = torch.from_numpy(features)
    half, whole = table.bfloat16(), (table * 127 / table.abs().max()).to(torch.int8)

    def blocks(multiply: Callable[..., torch.Tensor], rows: torch.Tensor) -> Callable[[], None]:
        def way() -> None:
            for start in range(0, len(rows), 1024):
                multiply(rows[start : start + 1024], rows.T)

        return way

    return {
        "float32 products": blocks(torch.mm, table),
        "bf16 products": blocks(torch.mm, half),
        "int8 products": blocks(torch._int_mm, whole),
    }


def voting(find: Callable[[], Found], labels: npt.NDArray[np.int64]) -> Callable[[], Floats]:
    return lambda: (labels[find()] == labels[:, None]).mean(axis=1)


def check(votes: Mapping[str, Floats]) -> None:
    """Exact ways may differ only where float32 sums round two neighbours into the other order."""
    ours = votes["gdui exact"]
    for name in set(EXACT) & set(votes):
        assert np.mean(np.abs(votes[name] - ours) > 1e-6) < 2e-3, name
        assert np.abs(votes[name] - ours).max() < 0.025, name


def recall(found: Found, truth: Found) -> float:
    """The share of true neighbours found, over a sample of rows."""
    some = range(0, len(truth), max(1, len(truth) // 1000))
    return float(np.mean([len(np.intersect1d(found[i], truth[i])) / K for i in some]))
