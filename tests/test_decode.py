"""Bytes of a picture: one well-defined RGB comes of them, or a reason why not."""

import contextlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture, png_header
from PIL import Image
from torchvision.transforms import v2

from gdui.images import Transform, UnreadableError, decode


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(half)).getpixel((0, 0)) == (127, 127, 127)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert decode(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    out = decode(encoded(image, transparency=0))
    assert out.mode == "RGB"
    assert out.getpixel((0, 0)) == (255, 255, 255)
    assert out.getpixel((1, 1)) == (0, 255, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32], ids=["I;16", "I"])
def test_sixteen_bits_become_eight(dtype: type) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype)
    kind = "PNG" if dtype == np.uint16 else "TIFF"
    out = np.asarray(decode(encoded(Image.fromarray(values), kind)))
    assert out[0, :, 0].tolist() == [0, 100, 255]
    assert (out[..., :1] == out).all()


def test_brightness_without_a_scale_is_rejected() -> None:
    with pytest.raises(UnreadableError, match=r"mode F outside 0 to 1 .* no defined brightness"):
        decode(encoded(Image.fromarray(np.full((2, 2), 7.5, np.float32)), "TIFF"))
    half = decode(encoded(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"))
    assert half.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture().convert(mode)
    out = decode(encoded(image, "TIFF" if mode == "YCbCr" else "JPEG" if mode == "CMYK" else "PNG"))
    assert out.mode == "RGB"
    assert np.abs(np.asarray(out, float) - np.asarray(image.convert("RGB"), float)).mean() < 6


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = np.zeros((6, 10, 3), np.uint8)
    upright[0, 0] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert np.array_equal(np.asarray(decode(data)), upright)


def test_damaged_metadata_does_not_cost_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data).size == (20, 16)


def test_large_jpegs_are_decoded_small() -> None:
    data = encoded(picture(1600, 1200), "JPEG", quality=95)
    assert decode(data, smallest=100).size == (400, 300)
    full, reduced = Transform(size=100)(decode(data)), Transform(size=100)(decode(data, 100))
    assert np.abs(full.astype(int) - reduced).mean() < 1


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (17, 400), (1000, 31), (5, 5)])
def test_transform_equals_resize_then_centre_crop(size: tuple[int, int]) -> None:
    image = picture(*size)
    wanted = v2.Compose([v2.Resize(48, v2.InterpolationMode.BICUBIC), v2.CenterCrop(48)])(image)
    got = Transform(size=48)(image)
    assert np.abs(got.astype(int) - np.asarray(wanted)).max() <= 1
    squashed = v2.Resize((48, 48), v2.InterpolationMode.BICUBIC)(image)
    assert np.array_equal(Transform(size=48, resize="squash")(image), np.asarray(squashed))


def test_a_ribbon_does_not_explode() -> None:
    assert Transform(size=224)(Image.new("RGB", (1, 10_000_000))).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture at all", "not in an image format that can be read"),
        (encoded(picture(200, 200), "JPEG")[:-400], "truncated"),
        (encoded(picture(200, 200), "PNG")[:-4000], "truncated"),
        (png_header(60_000, 60_000), "decompression bomb"),
        (png_header(14_000, 12_700), "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in an image format that can be read"),
    ],
    ids=["empty", "text", "jpeg", "png", "bomb", "large-but-legal", "eps"],
)
def test_unreadable_bytes_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as first:
        decode(data)
    with pytest.raises(UnreadableError) as second:
        decode(data)
    assert first.value.reason == second.value.reason
    assert "\n" not in first.value.reason


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "TGA"]))
    good = bytearray(encoded(picture(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(good[: data.draw(st.integers(0, len(good)))])
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UnreadableError):
        patch.setattr(sys.modules[Transform.__module__], "MAX_PIXELS", 100_000)
        assert decode(broken, 8).mode == "RGB"
