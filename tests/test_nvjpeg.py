"""The GPU's way of decoding, tried with torchvision's decoder on the CPU: the same pictures, and the rest to Pillow."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdui.images import Transform, batches, open_source
from gdui.images.decode import pixels_of
from gdui.images.nvjpeg import decoded, on_device


def picture(width: int = 300, height: int = 200, **options: Any) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    smooth.convert(options.pop("mode", "RGB")).save(buffer, options.pop("format", "JPEG"), quality=92, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize(
    ("width", "height", "mode"), [(300, 200, "RGB"), (97, 251, "RGB"), (64, 64, "L"), (20, 31, "L")]
)
def test_the_same_picture_either_way(width: int, height: int, mode: str, resize: str) -> None:
    data, transform = picture(width, height, mode=mode), Transform(size=48, resize=resize)
    found = on_device(data, transform, "cpu")
    assert found is not None
    assert (found.dtype, found.shape) == (np.uint8, (48, 48, 3))
    difference = np.abs(found.astype(int) - pixels_of(data, transform))
    assert difference.mean() < 2
    assert difference.max() < 24


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        picture(format="PNG"),
        picture(mode="CMYK"),
        turned(),
        picture()[:900],
        picture(900, 20),
    ],
    ids=["empty", "text", "png", "cmyk", "turned", "cut off", "ribbon"],
)
def test_the_rest_is_left_to_pillow(data: bytes) -> None:
    assert on_device(data, Transform(size=32), "cpu") is None


def test_a_gpu_is_asked_for_jpegs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def decode_jpeg(encoded: torch.Tensor, mode: object, device: str) -> torch.Tensor:
        asked.append(device)
        return torch.full((3, 10, 10), 7, dtype=torch.uint8)

    monkeypatch.setattr("torchvision.io.decode_jpeg", decode_jpeg)
    transform = Transform(size=4)
    assert (decoded(picture(), transform, "cuda:1") == 7).all()
    assert (decoded(picture(), transform, "cpu") != 7).any()
    assert (decoded(picture(format="PNG"), transform, "cuda:1") != 7).any()
    decoded(np.zeros((5, 5, 3), np.uint8), transform, "cuda:1")
    assert asked == ["cuda:1"]


def test_batches_hand_the_device_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.jpg").write_bytes(picture())
    (tmp_path / "bad.jpg").write_bytes(picture()[:900])

    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("nvJPEG will not have it")

    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    (batch,) = batches(open_source(tmp_path).shards, Transform(size=8), 4, device="cuda")
    assert batch.ids == ["good.jpg"]
    assert [one.id for one in batch.rejected] == ["bad.jpg"]
    assert "truncated" in batch.rejected[0].reason
