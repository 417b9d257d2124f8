"""JPEG on a GPU: nvJPEG decodes it and it is brought to size there; all that nvJPEG can't take goes through Pillow."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gdui.images.decode import MAX_BYTES, MAX_PIXELS, ORIENTATION, Transform, pixels_of

__all__ = ["decoded", "on_device"]

Pixels = npt.NDArray[np.uint8]

LONGEST_RIBBON = 16  # sides of a picture longer than this many times the other would grow beyond all bounds


def decoded(raw: bytes | npt.NDArray[Any], transform: Transform, device: str) -> Pixels:
    """Bytes or pixels brought to the transform's size: a plain JPEG by the GPU where `device` is one."""
    found = on_device(raw, transform, device) if device != "cpu" and isinstance(raw, bytes) else None
    return pixels_of(raw, transform) if found is None else found


def on_device(data: bytes, transform: Transform, device: str) -> Pixels | None:
    """RGB pixels [size, size, 3] of a JPEG file, or None where Pillow must have it: it also says what is wrong."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if not _plain(data):
        return None
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        picture = decode_jpeg(encoded, ImageReadMode.RGB, device)
    except RuntimeError:
        return None
    height, width = picture.shape[1:]
    side, shorter = transform.size, min(height, width)
    squash = transform.resize == "squash"
    tall, wide = (side, side) if squash else (int(side * height / shorter), int(side * width / shorter))
    scaled = torch.nn.functional.interpolate(
        picture[None].float(), (tall, wide), mode=transform.filter, antialias=True, align_corners=False
    )
    top, left = round((tall - side) / 2), round((wide - side) / 2)
    square = scaled[0, :, top : top + side, left : left + side].round().clamp(0, 255).byte()
    return np.asarray(square.permute(1, 2, 0).contiguous().cpu().numpy())


def _plain(data: bytes) -> bool:
    """Whether it is a JPEG of RGB or greys, upright, and of a bearable size, as far as its header says."""
    if len(data) > MAX_BYTES or not data.startswith(b"\xff\xd8"):
        return False
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            shorter, longer = sorted(image.size)
            upright = image.getexif().get(ORIENTATION, 1) in (None, 1)
            bearable = shorter * longer <= MAX_PIXELS and longer <= LONGEST_RIBBON * shorter
            return image.mode in ("RGB", "L") and upright and bearable
    except Exception:  # Pillow's parsers raise almost anything on hostile bytes
        return False
