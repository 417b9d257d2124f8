"""Any picture becomes one well-defined RGB, cut to the square an encoder wants; what can't be read says why.

Orientation from EXIF is applied, alpha is laid on white, palettes and greys become RGB, 16 bits are scaled to 8, CMYK
is converted as Pillow does (colour profiles are ignored), and of an animation the first frame counts.
"""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from gdui import checks

__all__ = ["Transform", "UnreadableError", "decode", "pixels_of", "readable_suffixes", "to_rgb"]

Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 1 << 28
MAX_PIXELS = 178_956_970  # Pillow's own line between large and hostile
# EPS would start Ghostscript; the others are containers or need a loader that Pillow does not have.
REFUSED = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF", "STUB"}
ORIENTATION = 0x0112
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class UnreadableError(Exception):
    """Why one picture can't be read: a value that travels in its place, so nothing is skipped in silence."""

    @property
    def reason(self) -> str:
        return str(self)

    @classmethod
    def because(cls, error: Exception) -> "UnreadableError":
        """One line that depends on the picture alone (Pillow's own message may hold a memory address)."""
        if isinstance(error, UnreadableError):
            return error
        if isinstance(error, UnidentifiedImageError):
            return cls("not in an image format that can be read")
        if isinstance(error, Image.DecompressionBombError):
            return cls(f"decompression bomb: more than {MAX_PIXELS:,} pixels")
        text = " ".join(str(error.strerror if isinstance(error, OSError) and error.strerror else error).split())
        return cls((text or type(error).__name__)[:200])


@dataclass(frozen=True)
class Transform:
    """How a picture is brought to an encoder's input; part of what a feature store must agree on.

    `resize` "shortest" scales the shorter side to `size` and cuts the centre; "squash" ignores the aspect.
    """

    size: int = 224
    resize: str = "shortest"
    filter: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        checks.in_range("size", self.size, 1, 4096)
        checks.one_of("resize", self.resize, ("shortest", "squash"))
        checks.one_of("filter", self.filter, tuple(FILTERS))

    def __call__(self, image: Image.Image) -> Pixels:
        """RGB pixels [size, size, 3]."""
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), FILTERS[self.filter], box=self._box(*image.size))
        return np.asarray(image)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float] | None:
        """The part that is kept, in source pixels: resizing it alone equals resize, then centre crop."""
        if self.resize == "squash":
            return None
        shorter = min(width, height)
        scaled_w, scaled_h = int(self.size * width / shorter), int(self.size * height / shorter)
        left, top = round((scaled_w - self.size) / 2), round((scaled_h - self.size) / 2)
        x, y = width / scaled_w, height / scaled_h
        return left * x, top * y, min((left + self.size) * x, width), min((top + self.size) * y, height)


@cache
def readable_suffixes() -> frozenset[str]:
    """File suffixes, lower case with the dot, of the formats that are read."""
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in REFUSED]


def decode(data: bytes, smallest: int = 0) -> Image.Image:
    """The picture in `data` as RGB, or UnreadableError.

    With `smallest` a JPEG is decoded at a reduced scale that leaves both sides at least twice as long.
    """
    try:
        if not data:
            raise UnreadableError("the file is empty")
        if len(data) > MAX_BYTES:
            raise UnreadableError(f"the file is larger than {MAX_BYTES:,} bytes")
        with Image.open(BytesIO(data), formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableError(f"decompression bomb: {image.width:,} x {image.height:,} pixels")
            if smallest:
                image.draft("RGB", (2 * smallest, 2 * smallest))
            image.load()
            return to_rgb(_upright(image))
    except Exception as error:  # Pillow's parsers raise almost anything on hostile bytes
        raise UnreadableError.because(error) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ORIENTATION, 1) not in (None, 1)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged metadata in a sound picture
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """One RGB of 8 bits for every mode Pillow has."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    rgba = (image.convert(straight) if straight else image).convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _eight_bits(values: npt.NDArray[Any], mode: str) -> Pixels:
    """Greys of 16 bits, or floats in [0, 1], to 8 bits; other ranges have no defined brightness."""
    top = 1.0 if mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise UnreadableError(f"pixels of mode {mode} outside 0 to {top:g} have no defined brightness")
    return np.asarray(np.rint(values.astype(np.float32) * (255.0 / top)), np.uint8)


def pixels_of(raw: bytes | npt.NDArray[Any], transform: Transform) -> Pixels:
    """A file's bytes, or ready pixels [H, W, C] of 8 bits, brought to the transform's size."""
    if isinstance(raw, bytes):
        return transform(decode(raw, transform.size))
    channels = raw.shape[2]
    return transform(to_rgb(Image.fromarray(raw[:, :, 0] if channels == 1 else raw)))
