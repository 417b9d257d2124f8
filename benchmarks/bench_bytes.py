"""Bytes an image: of a picture, of what a run keeps of it on disk, and of what stays of it in memory."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.bench_encode import write_pictures
from benchmarks.bench_predict import SCALE, drawn
from benchmarks.harness import Bench
from gdui.images import Shard, Transform
from gdui.labeling.encoders import load_encoder
from gdui.labeling.features import FeatureStore
from gdui.labeling.inputs import Images, Texts
from gdui.labeling.parts import label_rows
from gdui.labels import Facts

DEVICES = ("cpu",)

DIMENSIONS, CLASSES, SHARD = 512, 100, 10_000


def run(bench: Bench) -> None:
    """The ids are those of tar shards, such as part-00042/000123."""
    n = 2_000 if bench.quick else 100_000
    size = f"N={n:,} d={DIMENSIONS} C={CLASSES}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "photos", 640, 480, 64)
        store = filled(folder / "features", n)
        features = store.features()
        vectors = np.random.default_rng(1).standard_normal((CLASSES, DIMENSIONS), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images, learned = Images(features, Texts(vectors, SCALE)), drawn(DIMENSIONS, CLASSES)
        table = label_rows(learned, images, np.arange(n))
        names = [f"class {at}" for at in range(CLASSES)]
        table.labels(features.ids, names, learned.names, Facts()).to_parquet(folder / "labels.parquet")
        assert len(features) == n
        for what, total, count in (
            ("a JPEG of 640x480", on_disk(folder / "photos", "*.jpg"), 64),
            ("its vector, float16", on_disk(folder / "features", "*.npy"), n),
            ("its id beside the vector", on_disk(folder / "features", "*.parquet"), n),
            ("its row in labels.parquet", on_disk(folder, "labels.parquet"), n),
            ("its id in memory", features.ids.nbytes, n),
        ):
            bench.record(size, what, "bytes an image", "B", [total / count])


def filled(folder: Path, n: int) -> FeatureStore:
    """A store of random vectors of length one."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, DIMENSIONS))
    store = FeatureStore(folder, load_encoder(network, transform=Transform(size=8), device="cpu"))
    random = torch.Generator().manual_seed(0)
    shards = [Shard(f"part-{at:05d}", lambda: iter(()), str, f"{at:032x}") for at in range(-(-n // SHARD))]
    for at, shard in enumerate(shards):
        count = min(SHARD, n - at * SHARD)
        vectors = nn.functional.normalize(torch.randn(count, DIMENSIONS, generator=random), dim=1)
        store.write(shard, [f"{shard.key}/{row:06d}" for row in range(count)], vectors.numpy(), [])
    store.seal(shards)
    return store


def on_disk(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))
