"""Images that are in memory or in an .npy file: arrays, tensors, and lists of encoded files."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui.config import LAYOUTS
from gdui.images.readers import read_array, read_bytes
from gdui.images.shards import ROWS, Shard, Source, fingerprint, stamp_files

__all__ = ["open_array", "open_bytes", "open_npy"]

Images = npt.NDArray[Any]
CHANNELS = (1, 3, 4)


def open_bytes(files: Sequence[bytes], ids: Sequence[str] | None) -> Source:
    """Encoded files in memory."""
    names = _names(ids, len(files))

    def shard(first: int) -> Shard:
        part, part_ids = files[first : first + ROWS], names[first : first + ROWS]
        stamp = fingerprint(first, part_ids, [hashlib.blake2b(data, digest_size=16).hexdigest() for data in part])
        return Shard.make(
            str(first), partial(read_bytes, part, part_ids), partial(str, stamp), len(part), part_ids.copy
        )

    return Source("a list of files in memory", [shard(first) for first in range(0, len(files), ROWS)])


def open_npy(path: Path, layout: str | None, ids: Sequence[str] | None) -> Source:
    """An .npy file, which is mapped, or the one array of images in an .npz."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # numpy's reader of headers has errors of many kinds
        raise ValueError(f"source {str(path)!r} is not an array that can be read: {error}") from None
    images = [name for name, array in arrays.items() if array.ndim in (3, 4)]
    if len(images) != 1:
        found = images or "none; if it holds features, say so (features=, --features)"
        raise ValueError(f"source {str(path)!r} must hold one array of images, not {found}")
    return _cut(str(path), arrays[images[0]], layout, ids, lambda _: partial(stamp_files, (str(path),)))


def open_array(array: Any, layout: str | None, ids: Sequence[str] | None) -> Source:
    """An array or a tensor."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    if not isinstance(array, np.ndarray):
        kinds = "a path, a pattern, an array, a tensor, or a list of paths or of encoded files"
        raise TypeError(f"source must be {kinds}, not {type(array).__name__}")
    return _cut("an array", array, layout, ids, lambda part: partial(str, _checksum(part)))


def _cut(
    name: str,
    array: Images,
    layout: str | None,
    ids: Sequence[str] | None,
    stamp_of: Callable[[Images], Callable[..., str]],
) -> Source:
    images = _channels_last(array, layout)
    names = _names(ids, len(images))

    def shard(first: int) -> Shard:
        part, part_ids = images[first : first + ROWS], names[first : first + ROWS]
        stamp = partial(_stamp, stamp_of(part), first, part_ids, layout)
        return Shard.make(str(first), partial(read_array, part, part_ids), stamp, len(part), part_ids.copy)

    return Source(name, [shard(first) for first in range(0, len(images), ROWS)])


def _stamp(contents: Callable[[], str], first: int, ids: list[str], layout: str | None) -> str:
    """Without a layout that was asked for, the shape alone says what the pictures are."""
    return fingerprint(contents(), first, ids, *filter(None, [layout]))


def _checksum(part: Images) -> str:
    return hashlib.blake2b(np.ascontiguousarray(part).data, digest_size=16).hexdigest()


def _names(ids: Sequence[str] | None, count: int) -> list[str]:
    if ids is None:
        return [str(row) for row in range(count)]
    names = [str(one) for one in ids]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"ids must be {count} different names, not {len(names)} ({len(set(names))} different)")
    return names


def _channels_last(array: Images, layout: str | None) -> Images:
    """The array as [N, H, W, C]."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise TypeError(f"source must be uint8 or floats in [0, 1], not {array.dtype}")
    layout = _guess_layout(array.shape) if layout is None else layout
    if layout not in LAYOUTS or len(layout) != array.ndim:
        raise ValueError(f"layout must be 'NHWC', 'NCHW' or 'NHW' and fit the shape {array.shape}, not {layout!r}")
    images = np.moveaxis(array, 1, 3) if layout == "NCHW" else array[..., None] if layout == "NHW" else array
    if images.shape[3] not in CHANNELS or 0 in images.shape[1:]:
        raise ValueError(f"source of layout {layout} must have 1, 3 or 4 channels, not the shape {array.shape}")
    return images


def _guess_layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and (shape[3] in CHANNELS) != (shape[1] in CHANNELS):
        return "NHWC" if shape[3] in CHANNELS else "NCHW"
    if len(shape) == 3 and shape[2] not in CHANNELS:
        return "NHW"
    raise ValueError(
        f"source of shape {shape} is ambiguous, or no images: give layout='NHWC', 'NCHW' or 'NHW', "
        "on the command line as --set source.layout=NHWC"
    )
