"""How right clusters are that come from pixels alone, after stage 2 and stage 3, beside k-means on the pixels.

No label is seen before the scoring, which pairs clusters and classes as well as can be. A row is the middle of several
seeds. Checkpoints stay under build/: a run that was stopped goes on, and its seconds are those of its steps.
"""

import csv
import io
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.harness import Bench
from benchmarks.mobilenet import CACHE, DATA
from gdui.config import Config
from gdui.demo.digits import images
from gdui.evaluation.agreement import mapped_accuracy
from gdui.labeling.neighbors import kmeans, neighbors
from gdui.labeling.spice import Stages, learn

DEVICES = ("cpu",)

FOLDER = CACHE / "spice"


class Heap(NamedTuple):
    """Pictures, their true classes for the scoring, the seeds to try, and what differs from the default settings."""

    name: str
    pixels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.integer]
    seeds: int
    settings: dict[str, object]


def run(bench: Bench) -> None:
    for make in (digits,) if bench.quick else (digits, mnist, eurosat):
        score(bench, make())


def score(bench: Bench, heap: Heap) -> None:
    """Rows of one heap: accuracy of every way, and the seconds of all three stages."""
    size = f"{heap.name} N={len(heap.truth):,}"
    raw = heap.pixels.reshape(len(heap.pixels), -1).astype(np.float32)
    plain = neighbors(kmeans(raw, 10, seed=0), 1, queries=raw).indices[:, 0]
    bench.record(size, "k-means on pixels", "accuracy", "share", [mapped_accuracy(plain, heap.truth)], "peer")
    runs = [tried(heap, seed) for seed in range(1 if bench.quick else heap.seeds)]
    for name, place in (("gdui, stages 1 and 2", 0), ("gdui, stages 1 to 3", 1)):
        bench.record(size, name, "accuracy", "share", [one[place] for one in runs])
    bench.record(size, "gdui, stages 1 to 3", "time", "s", [one[2] for one in runs])


def tried(heap: Heap, seed: int) -> tuple[float, float, float]:
    """Accuracy after stage 2 and after stage 3, and the seconds."""
    folder = FOLDER / f"{heap.name}-{seed}"
    config = Config.named("default", seed=seed, **heap.settings)
    before, start = seconds(folder, config), time.perf_counter()
    _, stages = learn(heap.pixels, 10, config, folder)
    took = time.perf_counter() - start + before
    return (*accuracies(stages, heap.truth), took)


def accuracies(stages: Stages, truth: npt.NDArray[np.integer]) -> tuple[float, float]:
    return mapped_accuracy(stages.before.cluster, truth), mapped_accuracy(stages.after.cluster, truth)


def seconds(folder: Path, config: Config) -> float:
    """What the steps have cost that an earlier call took."""
    batch = {"represent": config.represent.batch, "joint-1": config.joint.batch}
    total = 0.0
    for path in folder.glob("*/losses.csv"):
        with path.open(newline="") as file:
            total += sum(batch[path.parent.name] / float(row["pictures_per_second"]) for row in csv.DictReader(file))
    return total


def digits() -> Heap:
    """scikit-learn's handwritten digits, 8 x 8."""
    return Heap("digits", images()[..., None].repeat(3, axis=3), load_digits().target, 3, {})


def mnist(count: int = 10_000, side: int = 16) -> Heap:
    """The first so many training pictures of MNIST; at 16 pixels a step costs a third of what it does at 28."""
    with np.load(DATA / "mnist.npz") as file:
        pictures, truth = file["train_images"][:count], file["train_labels"][:count]
    small = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR)) for one in pictures]
    pixels = np.stack(small)[..., None].repeat(3, axis=3)
    return Heap("mnist at 16", pixels, truth.astype(np.int64), 1, {"represent.epochs": 40})


def eurosat(side: int = 32) -> Heap:
    """EuroSAT at half its size."""
    with np.load(DATA / "eurosat_6000_jpeg.npz") as file:
        data, offsets, truth = file["data"], file["offsets"], file["labels"].astype(np.int64)
    files = (data[offsets[i] : offsets[i + 1]].tobytes() for i in range(len(truth)))
    opened = (Image.open(io.BytesIO(one)).convert("RGB") for one in files)
    shrunk = [picture.resize((side, side), Image.Resampling.BILINEAR) for picture in opened]
    return Heap("eurosat at 32", np.stack([np.asarray(one) for one in shrunk]), truth, 1, {"represent.epochs": 40})
