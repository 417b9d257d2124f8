"""A million ready features to labels in one command: ours beside what people would put together themselves."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Bench, Role, peak_memory
from gdui.labeling.labeler import Labeler
from gdui.labels import Labels

DEVICES = ("cpu",)

CLASSES, DIMENSIONS = 100, 512
LABEL_SPREADING_MANAGES = 20_000  # its graph is fast enough beyond, but its memory is not
FLIPPED = 0.25
OVERLAP = 0.5  # of lumps, against the spread within each


@dataclass(frozen=True)
class Heap:
    """Features [N, 512] of overlapping clusters, a flawed opinion as log-odds [N, 100], and the truth."""

    features: npt.NDArray[np.float32]
    opinions: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def run(bench: Bench) -> None:
    for n in (5_000,) if bench.quick else (LABEL_SPREADING_MANAGES, 100_000, 1_000_000):
        heap = generated(n)
        ways: dict[str, Callable[[], Any]] = {
            "gdui": partial(ours, heap),
            "faiss k-means + argmax": partial(faiss_names, heap),
        }
        if n <= LABEL_SPREADING_MANAGES:
            ways["scikit-learn KMeans + LabelSpreading"] = partial(sklearn_names, heap)
        score(bench, heap, {name: once(bench, size(n), name, way) for name, way in ways.items()})


def once(bench: Bench, at: str, name: str, way: Callable[[], Any]) -> Any:
    """What one run of minutes comes to, with its time and its peak memory as rows."""
    role: Role = "ours" if name == "gdui" else "mark"  # most of their labels are wrong: another task
    with peak_memory() as peak:
        start = time.perf_counter()
        result = way()
        bench.record(at, name, "time", "s", [time.perf_counter() - start], role)
    bench.record(at, name, "peak memory", "MB", [peak[0] / 1e6], role)
    return result


def size(n: int) -> str:
    return f"N={n:,} d={DIMENSIONS} C={CLASSES}"


def generated(n: int) -> Heap:
    """Three lumps a class, stretched as features are: few directions hold most of the spread, and classes overlap."""
    random = np.random.default_rng(0)
    stretch = (random.standard_normal((DIMENSIONS, DIMENSIONS)) / np.arange(1, DIMENSIONS + 1)[:, None] ** 0.5).astype(
        np.float32
    )
    lumps = random.standard_normal((CLASSES, 1, DIMENSIONS)) + 0.9 * random.standard_normal((CLASSES, 3, DIMENSIONS))
    centres = OVERLAP * lumps.astype(np.float32) @ stretch
    labels = random.integers(0, CLASSES, n)
    lump = random.choice(3, n, p=(0.5, 0.3, 0.2))
    features = np.empty((n, DIMENSIONS), np.float32)
    opinions = random.standard_normal((n, CLASSES), dtype=np.float32)
    for at in range(0, n, 65_536):
        part = slice(at, at + 65_536)
        noise = random.standard_normal((len(labels[part]), DIMENSIONS), dtype=np.float32)
        features[part] = centres[labels[part], lump[part]] + noise @ stretch
    wrong = random.random(n) < FLIPPED
    voted = np.where(wrong, random.integers(0, CLASSES, n), labels)
    opinions[np.arange(n), voted] += 5
    return Heap(features, opinions, labels)


def ours(heap: Heap) -> Labels:
    labeler = Labeler([f"class {c}" for c in range(CLASSES)])
    return labeler.fit_predict(features=heap.features, opinions=heap.opinions)


def faiss_names(heap: Heap) -> npt.NDArray[np.int64]:
    """As many clusters as classes, each named by most of its votes."""
    import faiss

    unit = heap.features / np.linalg.norm(heap.features, axis=1, keepdims=True)
    means = faiss.Kmeans(DIMENSIONS, CLASSES, niter=20, seed=0, spherical=True)
    means.train(unit)
    return majority(means.index.search(unit, 1)[1][:, 0], heap)


def sklearn_names(heap: Heap) -> npt.NDArray[np.int64]:
    """The surest tenth of each k-means cluster takes the opinion's label, and a graph of 15 neighbours spreads them."""
    from sklearn.cluster import KMeans
    from sklearn.semi_supervised import LabelSpreading

    unit = heap.features / np.linalg.norm(heap.features, axis=1, keepdims=True)
    means = KMeans(CLASSES, n_init=1, random_state=0).fit(unit)
    named = majority(means.labels_, heap)
    distance = np.linalg.norm(unit - means.cluster_centers_[means.labels_], axis=1)
    seeds = np.full(len(unit), -1)
    sure = distance <= np.quantile(distance, 0.1)
    seeds[sure] = named[sure]
    return LabelSpreading(kernel="knn", n_neighbors=15, max_iter=20).fit(unit, seeds).transduction_


def majority(cluster: npt.NDArray[np.integer], heap: Heap) -> npt.NDArray[np.int64]:
    """Each cluster named by most of its images' votes, in the order of the images."""
    table = np.zeros((int(cluster.max()) + 1, CLASSES))
    np.add.at(table, (cluster, heap.opinions.argmax(1)), 1)
    return table.argmax(1)[cluster]


def score(bench: Bench, heap: Heap, results: Mapping[str, Any]) -> None:
    """Records how right each way is and what ours spent its time on; ours may not be worse than the opinion."""
    at, zero_shot = size(len(heap.labels)), float((heap.opinions.argmax(1) == heap.labels).mean())
    bench.record(at, "zero-shot (the opinion alone)", "accuracy", "share", [zero_shot], "peer")
    for way, result in results.items():
        label = result.label_index if isinstance(result, Labels) else result
        right = float((label == heap.labels).mean())
        bench.record(at, way, "accuracy", "share", [right], "ours" if way == "gdui" else "peer")
        assert way != "gdui" or right > zero_shot, f"{at}: {right:.3f} is no better than the opinion {zero_shot:.3f}"
    for stage, (seconds, _) in results["gdui"].facts.ledger.items():
        bench.record(at, stage, "stage time", "s", [seconds])
