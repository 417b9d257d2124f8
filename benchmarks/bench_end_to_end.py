"""JPEGs in tar shards to labels on disk: ours beside a plain loop that only takes the nearest name.

The peers do less: they write the opinion's first choice, and learn nothing. All read one model from disk. autodistill
goes from image to image: it decodes each to keep it, then opens it anew for a call that encodes it and the texts of all
names. Its rate is that of some images, without its beginning, and without the copies that it writes in the end.
How busy the encoder was is its share, by the ledger, of the time from the call to the labels.
"""

import io
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.bench_encode import write_pictures
from benchmarks.harness import Bench
from gdui.config import Config
from gdui.labeling.encoders import load_encoder
from gdui.labeling.encoders.load import DEMO
from gdui.labeling.opinions import class_embeddings
from gdui.labeling.workflow import label_run

DEVICES = ("cpu",)

NAMES = [f"thing {at}" for at in range(10)]
TEMPLATES = ("a photo of a {}.",)
WIDTH, HEIGHT, SHARDS, BATCH = 640, 480, 4, 32
BUSY = 0.9
CALLS = 50  # of autodistill's loop
FASTER_THAN_LOADER, FASTER_THAN_CALLS = 1.5, 5


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vit_b_32(folder / "clip")
        for encoder, count in (
            ("digits", 64 if bench.quick else 2048),
            ("ViT-B-32 at random", 32 if bench.quick else 2560),
        ):
            heap = folder / encoder.replace(" ", "-")
            write_pictures(heap, WIDTH, HEIGHT, count)
            compare(bench, encoder, shards(heap), folder, count)


def compare(bench: Bench, encoder: str, archives: list[Path], folder: Path, count: int) -> None:
    """One encoder; its plain loops are in float32, as open_clip's own are."""
    kept = DEMO if encoder == "digits" else folder / "clip"
    spec = encoder if kept == DEMO else f"local-dir:{kept}"
    busy: list[float] = []

    def ours() -> list[str]:
        shutil.rmtree(folder / "run", ignore_errors=True)
        config = Config.named("default", **{"encode.encoder": spec, "encode.templates": TEMPLATES})
        started = time.perf_counter()
        outcome = label_run(str(archives[0].parent / "*.tar"), NAMES, folder / "run", config)
        busy.append(encoding(outcome.ledger) / (time.perf_counter() - started))
        return outcome.labels.table["clip_label"].to_pylist()

    texts = class_embeddings(load_encoder(spec), NAMES, templates=TEMPLATES)
    plain = partial(plain_loop, kept, torch.from_numpy(texts), archives)
    ways: dict[str, Callable[[], Any]] = {
        "gdui label": ours,
        "DataLoader + open_clip": partial(plain, BATCH, folder / "plain"),
        "one image a call": partial(plain, 1, folder / "single"),
    }
    size = f"{encoder}, {count} JPEG {WIDTH}x{HEIGHT}"
    took = bench.compare(
        size,
        ways,
        agree=agree,
        peers=list(ways)[1:],
        repeats=1,
        work=float(count),
        unit="images/s",
    )
    bench.record(size, "gdui label", "encoder busy", "share", busy)
    calls = call_rate(kept, archives[0])
    bench.record(size, "the loop of autodistill", "rate", "images/s", [calls], "peer")
    if not bench.quick:
        assert took["DataLoader + open_clip"] >= FASTER_THAN_LOADER * took["gdui label"], took
        assert count / took["gdui label"] >= FASTER_THAN_CALLS * calls, (took, calls)
    if encoder != "digits" and not bench.quick:
        assert np.median(busy) >= BUSY, f"the encoder worked for {np.median(busy):.0%} of the time"


def encoding(ledger: Mapping[str, tuple[float, int]]) -> float:
    """The seconds in which an encoder worked; threads decode meanwhile."""
    return sum(ledger[name][0] for name in ("encode", "embed") if name in ledger)


def agree(results: Mapping[str, Any]) -> None:
    """Names differ only where half precision makes two alike."""
    wanted = results["DataLoader + open_clip"]
    for name, got in results.items():
        same = np.mean([one == other for one, other in zip(got, wanted, strict=True)])
        assert same > 0.9, f"{name}: {same:.2f} of the names are those of the plain loop"


class Archives(IterableDataset[torch.Tensor]):
    """Pictures of tar archives, prepared, as a DataLoader wants them."""

    def __init__(self, archives: list[Path], transform: Any) -> None:
        self.archives, self.transform = archives, transform

    def __iter__(self) -> Iterator[torch.Tensor]:
        for path in self.archives:
            with tarfile.open(path) as archive:
                for member in archive:
                    data = archive.extractfile(member)
                    assert data is not None
                    yield self.transform(Image.open(io.BytesIO(data.read())).convert("RGB"))


def plain_loop(kept: Path, texts: torch.Tensor, archives: list[Path], batch: int, out: Path) -> list[str]:
    """The name whose vector is nearest to each picture's, written as Parquet, as open_clip's documentation shows it."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{kept}")
    model.eval()
    named: list[str] = []
    with torch.inference_mode():
        for images in DataLoader(Archives(archives, transform), batch_size=batch):
            named += [NAMES[at] for at in (model.encode_image(images, normalize=True) @ texts.T).argmax(dim=1).tolist()]
    pq.write_table(pa.table({"label": named}), out)
    return named


def call_rate(kept: Path, archive: Path) -> float:
    """Images a second where each is decoded and kept, and opened again by a call that encodes it and all names."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{kept}")
    words, prompts = kept / "vocabulary.txt.gz", [TEMPLATES[0].format(name) for name in NAMES]
    brought = {"bpe_path": str(words)} if words.exists() else {}
    tokens = open_clip.get_tokenizer(f"local-dir:{kept}", **brought)
    model.eval()
    held: list[np.ndarray] = []
    with tarfile.open(archive) as opened, torch.inference_mode():
        members = [opened.extractfile(member) for member in opened.getmembers()[: CALLS + 1]]
        for at, file in enumerate(members):
            if at == 1:  # the first call warms up
                started = time.perf_counter()
            assert file is not None
            held.append(np.array(Image.open(file).convert("RGB")))
            image = transform(Image.open(file).convert("RGB"))[None]
            seen, said = model.encode_image(image, normalize=True), model.encode_text(tokens(prompts), normalize=True)
            (model.logit_scale.exp() * seen @ said.T).softmax(dim=-1).numpy()
    return (len(members) - 1) / (time.perf_counter() - started)


def shards(heap: Path) -> list[Path]:
    """The pictures of a folder as tar archives beside each other."""
    folder = heap.parent / f"{heap.name}-shards"
    folder.mkdir()
    pictures = sorted(heap.iterdir())
    for at in range(SHARDS):
        with tarfile.open(folder / f"{at}.tar", "w") as archive:
            for path in pictures[at * len(pictures) // SHARDS : (at + 1) * len(pictures) // SHARDS]:
                archive.add(path, path.name)
    return sorted(folder.iterdir())


def vit_b_32(folder: Path) -> None:
    """Random weights in a folder that open_clip can load."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    described = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
