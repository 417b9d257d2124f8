"""What stands in one shard: (id, raw) in a fixed order, raw being bytes, a path, pixels or why there are none."""

import itertools
import lzma
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.images.decode import UnreadableError, readable_suffixes
from gdui.images.tar import DamagedError, members

__all__ = ["read_array", "read_bytes", "read_files", "read_parquet", "read_tar"]

Raw = bytes | Path | npt.NDArray[np.uint8] | UnreadableError
Item = tuple[str, Raw]


def printable(name: str) -> str:
    """`name` as text that every file format can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_files(root: Path, names: Sequence[str]) -> Iterator[Item]:
    """The files `names` below `root`; the bytes are read later, by whoever decodes them."""
    for name in names:
        path = root / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield printable(name), UnreadableError.because(error)
            continue
        if stat.S_ISREG(mode):
            yield printable(name), path
        elif stat.S_ISDIR(mode):
            yield printable(name), UnreadableError(_why_unread(path))
        else:
            yield printable(name), UnreadableError("not a regular file")


def _why_unread(folder: Path) -> str:
    opens = os.access(folder, os.R_OK | os.X_OK)
    return "a folder that is read under another name" if opens else "a folder that can't be opened"


def read_bytes(files: Sequence[bytes], ids: Sequence[str]) -> Iterator[Item]:
    """Encoded files held in memory."""
    yield from zip(ids, files, strict=True)


def read_array(images: npt.NDArray[Any], ids: Sequence[str]) -> Iterator[Item]:
    """Pixels [n, H, W, C], 8 bits or floats in [0, 1]."""
    for name, image in zip(ids, images, strict=True):
        if image.dtype == np.uint8:
            yield name, np.ascontiguousarray(image)
        elif not (image.min() >= 0 and image.max() <= 1):
            yield name, UnreadableError(f"floats must be in [0, 1], not [{image.min():.4g}, {image.max():.4g}]")
        else:
            yield name, np.rint(image.astype(np.float32) * 255).astype(np.uint8)


def read_tar(url: str, stem: str) -> Iterator[Item]:
    """The pictures of a WebDataset shard; the id is stem/key, the key being the member's name up to its first dot."""
    seen: set[str] = set()
    try:
        with fsspec.open(url, "rb", compression=_compression(url)) as file:
            for name, contents in members(file, readable_suffixes()):
                unused = _unused(printable(name), stem, seen)
                seen.add(unused)
                yield unused, contents
    except (DamagedError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        yield stem, UnreadableError(f"the archive is damaged after {len(seen)} images: {error}")


def _compression(url: str) -> str | None:
    endings = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".xz": "xz"}
    return endings.get(PurePosixPath(url).suffix.lower())


def _unused(name: str, stem: str, seen: set[str]) -> str:
    """stem/key; the full name where a sample holds several pictures; numbered where even that is taken."""
    folder, slash, base = name.rpartition("/")
    candidates = (f"{stem}/{folder}{slash}{base.split('.')[0]}", f"{stem}/{name}")
    numbered = (f"{stem}/{name}#{copy}" for copy in itertools.count(2))
    return next(candidate for candidate in itertools.chain(candidates, numbered) if candidate not in seen)


def read_parquet(
    url: str, stem: str, groups: Sequence[int], first: int, column: str, id_column: str | None
) -> Iterator[Item]:
    """Rows of some row groups; the id is stem/row, or what stands in `id_column`."""
    row = first
    try:
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            wanted = [column] if id_column is None else [column, id_column]
            for batch in table.iter_batches(batch_size=64, row_groups=list(groups), columns=wanted):
                names = None if id_column is None else batch.column(id_column).to_pylist()
                for at, value in enumerate(_cells(batch.column(column))):
                    yield f"{stem}/{row}" if names is None else str(names[at]), value
                    row += 1
    except pa.ArrowInvalid as error:
        yield f"{stem}/{row}", UnreadableError(f"the file is damaged from this row on: {error}")
    except OSError as error:
        if error.errno is not None:
            raise
        yield f"{stem}/{row}", UnreadableError(f"the file is damaged from this row on: {error}")


def _cells(column: pa.Array) -> Iterator[Raw]:
    """Bytes from a binary column, or from a struct {bytes, path} as Hugging Face writes it."""
    nested = pa.types.is_struct(column.type)
    for cell in column.field("bytes") if nested else column:
        yield cell.as_py() if cell.is_valid else UnreadableError("no image bytes in this row")
