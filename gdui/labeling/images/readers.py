"""What stands in one shard: (id, raw) in a fixed order, raw being bytes, a path, pixels or why there are none."""

import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.labeling.images.decode import MAX_BYTES, UnreadableError, readable_suffixes

__all__ = ["read_array", "read_bytes", "read_files", "read_parquet", "read_tar"]

Raw = bytes | Path | npt.NDArray[np.uint8] | UnreadableError
Item = tuple[str, Raw]

MAX_HEADER = 1 << 20
EXTENDED_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"X")
ARCHIVE_ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


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
            yield printable(name), UnreadableError("a symbolic link that leads back into its own folders")
        else:
            yield printable(name), UnreadableError("not a regular file")


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


class _StrictMember(tarfile.TarInfo):
    """Says so when an archive breaks off or a header is damaged, where tarfile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictMember":
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a member or the end mark should be") from None
        if member.type in EXTENDED_HEADERS and member.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def read_tar(url: str, stem: str) -> Iterator[Item]:
    """The pictures of a WebDataset shard; the id is stem/key, the key being the member's name up to its first dot."""
    seen: set[str] = set()
    try:
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictMember) as tar:
            for member in tar:
                if _is_picture(member):
                    name = _unused(printable(member.name), stem, seen)
                    seen.add(name)
                    yield name, _member(tar, member)
    except ARCHIVE_ERRORS as error:
        yield stem, UnreadableError(f"the archive is damaged after {len(seen)} images: {error}")


def _is_picture(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    return not member.isdir() and not path.name.startswith(".") and path.suffix.lower() in readable_suffixes()


def _unused(name: str, stem: str, seen: set[str]) -> str:
    """stem/key; the full name where a sample holds several pictures; numbered where even that is taken."""
    folder, _, base = name.rpartition("/")
    key = "/".join(filter(None, (folder, base.split(".")[0])))
    candidates = (f"{stem}/{key}", f"{stem}/{name}", *(f"{stem}/{name}#{copy}" for copy in range(2, len(seen) + 3)))
    return next(candidate for candidate in candidates if candidate not in seen)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Raw:
    if not member.isreg():
        return UnreadableError("a link or a device inside an archive")
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return UnreadableError("its name points outside the archive")
    if member.size > MAX_BYTES:
        return UnreadableError(f"the file is larger than {MAX_BYTES:,} bytes")
    file = tar.extractfile(member)
    return file.read() if file else UnreadableError("a member without contents")


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
