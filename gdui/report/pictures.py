"""Small pictures of chosen images, each as a WebP file."""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Semaphore
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gdui import checks
from gdui.config import SourceConfig
from gdui.images import UnreadableError, decode, open_source
from gdui.images.decode import to_rgb

__all__ = ["SMALL", "thumbnails"]

SMALL = 96
TINY = 40  # pictures with a side of so few pixels are kept without loss
QUALITY = 72
ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")
AHEAD = 4  # images that each thread may have waiting: an archive is read faster than it is decoded


def thumbnails(
    source: Any, sizes: Mapping[str, int], ids: list[str] | None = None, *, reading: SourceConfig | None = None
) -> dict[str, bytes]:
    """A WebP file for each id of `sizes` that `source` holds: its picture, no side longer than the size.

    Args:
        source: what `gdui.images.open_source` takes. A folder is asked for these files alone; all else is read through,
            once, until none of them is wanting.
        ids: names of the rows of an array.
        reading: how the source is read, where that leaves a doubt.
    """
    options = {} if reading is None else reading.given()
    workers = checks.thread_count()
    room = Semaphore(AHEAD * workers)
    with ThreadPoolExecutor(workers) as pool:

        def begun(raw: Any, size: int) -> Future[bytes]:
            room.acquire()
            work = pool.submit(_thumbnail, raw, size)
            work.add_done_callback(lambda _: room.release())
            return work

        work = [(id_, begun(raw, sizes[id_])) for id_, raw in _found(source, set(sizes), ids, options)]
        return {id_: file for id_, done in work if (file := done.result())}


def _found(
    source: Any, wanted: set[str], ids: list[str] | None, options: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """(id, raw) of the wanted images, until none is wanting."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        files = ((id_, _file(Path(source), id_)) for id_ in sorted(wanted) if _lies_inside(id_))
        yield from (one for one in files if one[1].is_file())
        return
    for shard in open_source(source, ids=ids, **options).shards:
        for id_, raw in shard.read():
            if id_ in wanted:
                wanted.discard(id_)
                yield id_, raw
            if not wanted:
                return


def _file(folder: Path, id_: str) -> Path:
    """The file of that name, or else the one whose bytes that are not UTF-8 the id has written out."""
    path = folder / id_
    return path if path.is_file() else folder / os.fsdecode(ESCAPED.sub(_byte, os.fsencode(id_)))


def _byte(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode())


def _lies_inside(id_: str) -> bool:
    path = PurePosixPath(id_)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in id_


def _thumbnail(raw: Any, size: int) -> bytes:
    """The picture, square where it is small; nothing where it can't be read."""
    try:
        image = _opened(raw, size)
    except (UnreadableError, OSError):
        return b""
    if size <= SMALL:
        side = min(size, *image.size)
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    else:
        image.thumbnail((size, size), Image.Resampling.BICUBIC)
    out = BytesIO()
    image.save(out, "WEBP", quality=QUALITY, lossless=min(image.size) <= TINY)
    return out.getvalue()


def _opened(raw: Any, size: int) -> Image.Image:
    if isinstance(raw, UnreadableError):
        raise raw
    if isinstance(raw, np.ndarray):
        return to_rgb(Image.fromarray(raw[:, :, 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw))
    return decode(raw.read_bytes() if isinstance(raw, Path) else raw, size)
