"""JPEG files to unit vectors with ViT-B-32: ours beside a plain open_clip loop, and the network alone as the limit."""

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Bench
from gdui.images import Transform, batches, open_source
from gdui.labeling.encoders import Encoder, clip_encoder
from gdui.labeling.features import FeatureStore, encode_source

DEVICES = ("cpu", "cuda")

Matrix = npt.NDArray[np.float32]


def run(bench: Bench) -> None:
    """Pictures of 640 x 480, and large ones of 3000 x 2000, where decoding decides."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    encoder = clip_encoder(model, open_clip.tokenize, name="ViT-B-32 at random", device=bench.device)
    sizes = [(640, 480, 32 if bench.quick else 128)]
    sizes += [] if bench.quick else [(3000, 2000, 64)]
    with tempfile.TemporaryDirectory() as folder:
        for width, height, count in sizes:
            heap = Path(folder) / f"{width}"
            write_pictures(heap, width, height, count)
            compare(bench, f"{count} JPEG {width}x{height}", heap, model, encoder)


def compare(bench: Bench, size: str, heap: Path, model: torch.nn.Module, encoder: Encoder) -> None:
    """One size: end to end, then the two halves alone."""
    source = open_source(heap)
    count = len(list(heap.iterdir()))
    ready = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)

    def ours() -> Matrix:
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore(folder, encoder)
            encode_source(source, encoder, store, workers=bench.threads)
            return store.features().array()

    ways: dict[str, Callable[[], object]] = {
        "gdui": ours,
        "open_clip loop, float32": lambda: plain_loop(model, heap, 0, bench.device),
        "open_clip loop, float32, 2 loader processes": lambda: plain_loop(model, heap, 2, bench.device),
        f"network alone, {encoder.precision}": lambda: encoder.encode_images(ready),
    }
    peers = [name for name in ways if name.startswith("open_clip")]
    limits = [name for name in ways if name.startswith("network")]
    repeats = 1 if bench.quick else 3
    bench.compare(size, ways, agree=agree, peers=peers, limits=limits, repeats=repeats, work=count, unit="images/s")
    brought = preprocess()
    decoding: dict[str, Callable[[], object]] = {
        "gdui": lambda: [batch.ids for batch in batches(source.shards, Transform(), 32, workers=bench.threads)],
        "Pillow and torchvision": lambda: [brought(Image.open(path).convert("RGB")) for path in heap.iterdir()],
    }

    def all_decoded(results: Mapping[str, Any]) -> None:
        assert sum(map(len, results["gdui"])) == len(results["Pillow and torchvision"]) == count

    bench.compare(
        f"decode {size}",
        decoding,
        agree=all_decoded,
        peers=["Pillow and torchvision"],
        repeats=repeats,
        work=count,
        unit="images/s",
    )


def agree(results: Mapping[str, Any]) -> None:
    """Every vector has a cosine of at least 0.999 with the float32 loop's."""
    wanted = results["open_clip loop, float32"]
    for name, got in results.items():
        if not name.startswith("network"):
            cosine = (got * wanted).sum(axis=1) / np.linalg.norm(got, axis=1)
            assert cosine.min() >= 0.999, f"{name}: cosine {cosine.min()}"


class Pictures(Dataset[torch.Tensor]):
    """What a DataLoader wants."""

    def __init__(self, heap: Path) -> None:
        self.paths = sorted(heap.iterdir())
        self.transform = preprocess()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[at]).convert("RGB"))


def preprocess() -> Callable[[Image.Image], torch.Tensor]:
    """open_clip's own."""
    return open_clip.image_transform(224, is_train=False)


def plain_loop(model: torch.nn.Module, heap: Path, workers: int, device: str) -> Matrix:
    """What the documentation of open_clip shows, with a DataLoader."""
    model.to(device)
    with torch.inference_mode():
        parts = [
            model.encode_image(images.to(device), normalize=True).cpu()
            for images in DataLoader(Pictures(heap), batch_size=32, num_workers=workers)
        ]
    return torch.cat(parts).numpy()


def write_pictures(heap: Path, width: int, height: int, count: int) -> None:
    """Smooth shapes with some noise: about as many bytes as a photograph."""
    heap.mkdir()
    rng = np.random.default_rng(0)
    for at in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (height, width, 1), np.int16)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
        (heap / f"{at:04}.jpg").write_bytes(buffer.getvalue())
