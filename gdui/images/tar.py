"""Reads tar archives as a stream, from start to end, taking no member's word for anything.

tarfile takes a damaged header for the end of the archive, skips announced bytes even where none are left, and loops in
hostile maps of sparse files; so only its parser of the single header is used here.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from gdui.images.decode import MAX_BYTES, UnreadableError

__all__ = ["DamagedError", "members"]

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 1 << 20
CHUNK = 1 << 20
MOST_DIGITS = 9


class DamagedError(Exception):
    """Where an archive stops making sense; what came before is good."""


def members(
    file: IO[bytes], wanted: frozenset[str], *, headers_only: bool = False
) -> Iterator[tuple[str, bytes | UnreadableError]]:
    """Name and contents of each member with a suffix in `wanted`; links and strange names are refused, not followed.

    With `headers_only`, which a file on a disk can be read by, all are without contents.
    """
    skip = _leap if headers_only else _skip
    more: dict[str, str] = {}
    while (header := _header(file)) is not None:
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            more |= _extended(header, file)
            continue
        name, size = more.get("path", header.name), _size(more.get("size"), header.size)
        if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            size = 0
        path = PurePosixPath(name)
        if header.isdir() or path.name.startswith(".") or path.suffix.lower() not in wanted:
            skip(file, size)
        elif reason := _refusal(header, path, size):
            skip(file, size)
            yield name, UnreadableError(reason)
        elif headers_only:
            skip(file, size)
            yield name, b""
        else:
            yield name, _contents(file, size)
        more = {} if header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK) else more


def _header(file: IO[bytes]) -> tarfile.TarInfo | None:
    """The next header, None at the mark of the end."""
    block = file.read(BLOCK)
    if len(block) == BLOCK and not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        broken = "it breaks off" if len(block) < BLOCK else str(error)
        raise DamagedError(f"{broken} where a member or the end should be") from None


def _refusal(header: tarfile.TarInfo, path: PurePosixPath, size: int) -> str:
    if header.type not in tarfile.REGULAR_TYPES or header.type == tarfile.GNUTYPE_SPARSE:
        return "a link, a device or a sparse file inside an archive"
    if path.is_absolute() or ".." in path.parts:
        return "its name points outside the archive"
    return f"the file is larger than {MAX_BYTES:,} bytes" if size > MAX_BYTES else ""


def _extended(header: tarfile.TarInfo, file: IO[bytes]) -> dict[str, str]:
    """What a PAX header or a GNU long name says of the member that follows."""
    if header.size > MAX_HEADER:
        raise DamagedError(f"a header of {header.size:,} bytes")
    data = _contents(file, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records, at, end = {}, 0, len(data.rstrip(b"\0"))
    while at < end:
        length = data[at : at + MOST_DIGITS + 1].partition(b" ")[0]
        if not length.isdigit() or len(length) > MOST_DIGITS or not len(length) < int(length) <= len(data) - at:
            raise DamagedError("a header that makes no sense")
        record = data[at + len(length) + 1 : at + int(length) - 1].decode("utf-8", "surrogateescape")
        key, _, value = record.partition("=")
        records[key], at = value, at + int(length)
    return records


def _size(written: str | None, otherwise: int) -> int:
    if written is None:
        size = otherwise
    elif written.isdecimal() and len(written) < 20:
        size = int(written)
    else:
        size = -1
    if size < 0:
        raise DamagedError("a member without a size")
    return size


def _contents(file: IO[bytes], size: int) -> bytes:
    data = file.read(size + -size % BLOCK)
    if len(data) < size:
        raise DamagedError("it breaks off inside a member")
    return data[:size]


def _skip(file: IO[bytes], size: int) -> None:
    """Reads over a member; that no bytes are left shows at the next header."""
    left = size + -size % BLOCK
    while left and (read := len(file.read(min(left, CHUNK)))):
        left -= read


def _leap(file: IO[bytes], size: int) -> None:
    """Goes over a member, at most to where the file ends."""
    file.seek(min(file.tell() + size + -size % BLOCK, os.fstat(file.fileno()).st_size))
