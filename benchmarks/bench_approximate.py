"""What approximate neighbours change: labels of 200,000 images by FAISS's IVF and HNSW beside those by exact ones.

On the CPU "auto" takes the exact way as long as that is a matter of minutes, and IVF beyond.
"""

from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.bench_labeler_scale import CLASSES, Heap, generated
from benchmarks.harness import Bench, Role
from gdui.labeling import labeler
from gdui.labeling.neighbors import Neighbors, neighbors

DEVICES = ("cpu",)

METHODS = ("exact", "faiss-ivf", "faiss-hnsw")
WIDTH = 256
LEAST_AGREEMENT = 0.95


def run(bench: Bench) -> None:
    heap = generated(3_000 if bench.quick else 200_000)
    at = f"N={len(heap.labels):,} d={WIDTH} C={CLASSES}, labels learned from all"
    exact: tuple[Neighbors, npt.NDArray[np.int32]] | None = None
    for method in METHODS:
        near, label, seconds = labelled(heap, method)
        exact = exact or (near, label)
        agreement = float((label == exact[1]).mean())
        assert agreement > LEAST_AGREEMENT, f"{method}: only {agreement:.3f} of the labels are as by exact neighbours"
        role: Role = "ours" if method == "exact" else "mark"
        bench.record(at, method, "time", "s", [seconds], role)
        bench.record(at, method, "neighbours found", "share", [recall(near, exact[0])], role)
        bench.record(at, method, "same labels", "share", [agreement], role)
        bench.record(at, method, "right labels", "share", [float((label == heap.labels).mean())], role)


def labelled(heap: Heap, method: str) -> tuple[Neighbors, npt.NDArray[np.int32], float]:
    """The neighbours that the labels rest on, the labels, and the seconds that the neighbours took."""
    seen: list[Neighbors] = []

    def watched(*args: Any, **given: Any) -> Neighbors:
        seen.append(neighbors(*args, **given))
        return seen[-1]

    settings = {"neighbors.method": method, "fit_rows": len(heap.labels)}
    with patch.object(labeler, "neighbors", watched):
        labels = labeler.Labeler([f"class {c}" for c in range(CLASSES)], **settings).fit_predict(
            features=heap.features[:, :WIDTH], opinions=heap.opinions
        )
    return seen[0], labels.label_index, labels.facts.ledger["neighbors"][0]


def recall(near: Neighbors, exact: Neighbors) -> float:
    """The share of the exact neighbours that are among those found."""
    both = np.sort(np.concatenate([near.indices, exact.indices], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / exact.indices.size)
