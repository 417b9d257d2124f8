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

__all__ = ["parquet_names", "read_array", "read_bytes", "read_files", "read_parquet", "read_tar", "tar_names"]

Raw = bytes | Path | npt.NDArray[np.uint8] | UnreadableError
Item = tuple[str, Raw]


def printable(name: str) -> str:
    """`name` as text that every file format can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_files(root: Path, names: Sequence[str]) -> Iterator[Item]:
    """The files `names` below `root`; the bytes are read later, by whoever decodes them."""
    for name in names:
        found = _file(root / name)
        folder = isinstance(found, UnreadableError) and (root / name).is_dir()
        yield printable(name), UnreadableError(_why_unread(root / name)) if folder else found


def _file(path: Path) -> Path | UnreadableError:
    """The path, if it is of a file: to read a pipe or a device might never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # no path can have a NUL in it
        return UnreadableError.because(error)
    return path if stat.S_ISREG(mode) else UnreadableError("not a regular file")


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
    seen: dict[str, int] = {}
    try:
        with fsspec.open(url, "rb", compression=_compression(url)) as file:
            for name, contents in members(file, readable_suffixes()):
                unused = _unused(printable(name), stem, seen)
                seen[unused] = 1
                yield unused, contents
        if not seen:
            yield stem, UnreadableError("the archive holds no images")
    except (DamagedError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        yield stem, UnreadableError(f"the archive is damaged after {len(seen)} images: {error}")


def tar_names(url: str, stem: str) -> list[str] | None:
    """The ids of a shard's pictures by its headers; None where only reading tells: it is packed, afar or damaged."""
    if _compression(url) is not None or not Path(url).is_file():
        return None
    seen: dict[str, int] = {}
    try:
        with Path(url).open("rb") as file:
            for name, _ in members(file, readable_suffixes(), headers_only=True):
                seen[_unused(printable(name), stem, seen)] = 1
    except DamagedError:
        return None
    return list(seen)


def _compression(url: str) -> str | None:
    endings = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".xz": "xz"}
    return endings.get(PurePosixPath(url).suffix.lower())


def _unused(name: str, stem: str, seen: dict[str, int]) -> str:
    """stem/key; the full name where a sample holds several pictures; numbered where even that is taken.

    `seen` has the number that each id was given last.
    """
    folder, slash, base = name.rpartition("/")
    full = f"{stem}/{name}"
    for candidate in (f"{stem}/{folder}{slash}{base.split('.')[0]}", full):
        if candidate not in seen:
            return candidate
    seen[full] = next(copy for copy in itertools.count(seen[full] + 1) if f"{full}#{copy}" not in seen)
    return f"{full}#{seen[full]}"


def read_parquet(
    url: str, stem: str, groups: Sequence[int], first: int, column: str, id_column: str | None
) -> Iterator[Item]:
    """Rows of some row groups; the id is stem/row, or what stands in `id_column`."""
    row, folder = first, Path(url).parent if Path(url).is_file() else None
    try:
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            wanted = [column] if id_column is None else [column, id_column]
            there = [group for group in groups if group < table.num_row_groups]
            for batch in table.iter_batches(batch_size=64, row_groups=there, columns=wanted):
                names = None if id_column is None else batch.column(id_column).to_pylist()
                for at, value in enumerate(_cells(batch.column(column), folder)):
                    yield f"{stem}/{row}" if names is None else str(names[at]), value
                    row += 1
        if row == 0:
            yield stem, UnreadableError("the file holds no rows")
    except pa.ArrowInvalid as error:
        yield f"{stem}/{row}", UnreadableError(f"the file is damaged from this row on: {error}")
    except OSError as error:
        if error.errno is not None:
            raise
        yield f"{stem}/{row}", UnreadableError(f"the file is damaged from this row on: {error}")


def parquet_names(url: str, stem: str, groups: Sequence[int], rows: range, id_column: str | None) -> list[str] | None:
    """The ids of those rows of some row groups, without their images; None where they are damaged."""
    if id_column is None:
        return [f"{stem}/{row}" for row in rows]
    try:
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            return [str(name) for name in table.read_row_groups(groups, [id_column])[id_column].to_pylist()]
    except pa.ArrowInvalid:
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None


def _cells(column: pa.Array, folder: Path | None) -> Iterator[Raw]:
    """Bytes from a binary column, or from a struct {bytes, path} as Hugging Face writes it.

    A data set of local files may have left them where they are, and then has paths alone; those that lie in `folder`,
    where a local Parquet file is, are read: no file that comes from elsewhere may name files of ours.
    """
    nested = pa.types.is_struct(column.type)
    left = nested and folder is not None and column.type.get_field_index("path") >= 0
    paths = column.field("path").to_pylist() if left else [None] * len(column)
    for cell, path in zip(column.field("bytes") if nested else column, paths, strict=True):
        if cell.is_valid:
            yield cell.as_py()
        elif folder is not None and isinstance(path, str):
            yield _left_at(folder, path)
        else:
            yield UnreadableError("no image bytes in this row")


def _left_at(folder: Path, path: str) -> Path | UnreadableError:
    found = _file(folder / path)
    if isinstance(found, UnreadableError):
        return UnreadableError(f"no image bytes, and its path: {found.reason}")
    if not found.resolve().is_relative_to(folder.resolve()):
        return UnreadableError("no image bytes, and its path leads out of the file's folder")
    return found
