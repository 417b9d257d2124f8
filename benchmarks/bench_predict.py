"""Labels of new images from ready features by a fitted labeler, beside the bare matrix products that they need."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Bench
from gdui.labeling.cluster import Centroids
from gdui.labeling.features import load_features
from gdui.labeling.inputs import Images, Texts
from gdui.labeling.learned import Learned
from gdui.labeling.linear import Linear, joined
from gdui.labeling.outcome import Table
from gdui.labeling.parts import label_rows

DEVICES = ("cpu",)

Matrix = npt.NDArray[np.float32]

SCALE = 100.0
BLOCK = 8192  # rows of a bare product


def run(bench: Bench) -> None:
    """Images x dimensions x classes, with three clusters a class; the labeler is drawn at random."""
    sizes = [(4_000, 64, 10)] if bench.quick else [(200_000, 256, 10), (100_000, 512, 100), (20_000, 256, 1_000)]
    for n, d, classes in sizes:
        random = np.random.default_rng(0)
        features = random.standard_normal((n, d), np.float32).astype(np.float16)
        vectors = random.standard_normal((classes, d), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images, learned = Images(load_features(features), Texts(vectors, SCALE)), drawn(d, classes)
        ways: dict[str, Callable[[], Any]] = {
            "gdui": lambda images=images, learned=learned: label_rows(learned, images, np.arange(len(images))),
            "the bare matrix products": products(features.astype(np.float32), vectors, learned),
        }
        wanted = plainly(features[:2000].astype(np.float32), vectors, learned)
        bench.compare(
            f"N={n:,} d={d} C={classes:,} K={3 * classes:,}",
            ways,
            agree=lambda results, wanted=wanted: agree(results, wanted),
            limits=["the bare matrix products"],
            work=float(n),
            unit="images/s",
        )


def drawn(d: int, classes: int) -> Learned:
    """A labeler of three clusters a class."""
    random = np.random.default_rng(1)
    centers = random.standard_normal((3 * classes, d), np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    linear = Linear(0.1 * random.standard_normal((d + classes, classes), np.float32), np.zeros(classes, np.float32))
    floor, surety = np.full(3 * classes, 0.4, np.float32), np.full(3 * classes, 0.5, np.float32)
    names = np.arange(3 * classes) % classes
    return Learned(np.zeros(d, np.float32), Centroids(centers, 9.0), names, floor, surety, linear)


def products(features: Matrix, vectors: Matrix, learned: Learned) -> Callable[[], Any]:
    """Features by clusters, by the names' vectors, and by the linear model, which has an input for each class too."""
    assert isinstance(learned.clusters, Centroids)
    assert learned.linear is not None
    n, d = len(features), features.shape[1]
    right = [torch.from_numpy(np.ascontiguousarray(part.T)) for part in (learned.clusters.centers, vectors)]
    weight = torch.from_numpy(learned.linear.weight)
    rows = torch.from_numpy(features)
    inputs = torch.zeros(min(BLOCK, n), d + len(vectors))
    out = [torch.empty(min(BLOCK, n), part.shape[1]) for part in (*right, weight)]

    def multiply() -> None:
        for at in range(0, n, BLOCK):
            block = rows[at : at + BLOCK]
            for part, into in zip(right, out, strict=False):
                torch.mm(block, part, out=into[: len(block)])
            torch.mm(inputs[: len(block)], weight, out=out[2][: len(block)])

    return multiply


def plainly(features: Matrix, vectors: Matrix, learned: Learned) -> npt.NDArray[np.int64]:
    """The labels by the definition."""
    assert learned.linear is not None
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    logits = SCALE * unit @ vectors.T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    inputs = joined(unit, powers / powers.sum(axis=1, keepdims=True), spread=learned.spread)
    return (inputs @ learned.linear.weight + learned.linear.bias).argmax(axis=1)


def agree(results: Mapping[str, Any], wanted: npt.NDArray[np.int64]) -> None:
    """But for ties that rounding decides."""
    table = results["gdui"]
    assert isinstance(table, Table)
    assert (table.label[: len(wanted)] == wanted).mean() > 0.999
