"""Finds what a user means by a source and cuts it into shards, the unit of work."""

import hashlib
import itertools
import json
import logging
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.labeling.images import readers
from gdui.labeling.images.decode import readable_suffixes

__all__ = ["Shard", "Source", "expand_braces", "open_source"]

ROWS = 4096
MEAN_FILES = 2048
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_PATTERN = 1_000_000
BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Some images of a source that are read, encoded and written together."""

    key: str
    read: Callable[[], Iterator[readers.Item]]
    stamp: Callable[[], str]
    fingerprint: str

    @classmethod
    def make(cls, key: str, read: Callable[[], Iterator[readers.Item]], stamp: Callable[[], str]) -> "Shard":
        return cls(key, read, stamp, stamp())

    def changed(self) -> bool:
        """Whether the shard's files are no longer those it was made from."""
        try:
            return self.stamp() != self.fingerprint
        except OSError:
            return True


@dataclass(frozen=True)
class Source:
    """Shards in a fixed order, and how many files of each suffix were left out because they are no pictures."""

    name: str
    shards: list[Shard]
    ignored: Counter[str] = field(default_factory=Counter)


def open_source(
    source: "str | os.PathLike[str] | Sequence[str | bytes] | npt.NDArray[Any] | Source | Any",
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    layout: str | None = None,
    ids: Sequence[str] | None = None,
) -> Source:
    """The images behind `source`, cut into shards with stable ids.

    Args:
        source: a folder; tar shards or Parquet files as a path, a pattern (`*`, `{000..099}`, any fsspec URL) or a list of
            these; an .npy or .npz file; an array or tensor of images; a list of encoded files (bytes).
        image_column: the Parquet column of the images, where it can't be guessed.
        id_column: the Parquet column that names the rows; without it the ids are file/row.
        layout: the axes of an array: "NHWC", "NCHW" or "NHW", where its shape leaves a doubt.
        ids: names for the rows of an array; without them the ids are the row numbers.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source), image_column, id_column, layout, ids)
    if isinstance(source, (list, tuple)) and source and all(isinstance(part, (str, os.PathLike)) for part in source):
        urls = [url for part in source for url in _matches(os.fspath(part))]
        return _from_files("a list of files", urls, image_column, id_column)
    if isinstance(source, (list, tuple)) and source and all(isinstance(part, bytes) for part in source):
        return _from_bytes(source)
    return _from_array(_as_numpy(source), layout, ids)


def _from_path(
    path: str, image_column: str | None, id_column: str | None, layout: str | None, ids: Sequence[str] | None
) -> Source:
    if Path(path).is_dir():
        return _from_folder(Path(path))
    if path.lower().endswith((".npy", ".npz")) and Path(path).is_file():
        return _from_array(_load_array(Path(path)), layout, ids, stamp=partial(_stamp_files, (path,)), name=path)
    return _from_files(path, _matches(path), image_column, id_column)


# Folders


def _from_folder(root: Path) -> Source:
    ignored: Counter[str] = Counter()
    names = sorted(_walk(root, "", (_identity(root),), ignored))
    if not names:
        found = ", ".join(f"{n} {suffix}" for suffix, n in ignored.most_common(5)) or "nothing"
        raise ValueError(
            f"source {str(root)!r} holds no images, but {found}; name archives by a pattern: 'folder/*.tar'"
        )
    if ignored:
        listed = ", ".join(f"{n} {suffix}" for suffix, n in ignored.most_common(5))
        log.info("%s: left out %s: not images by their suffix", root, listed)
    shards = [
        Shard.make(part[0], partial(readers.read_files, root, part), partial(_stamp_names, root, part))
        for part in _cut(names)
    ]
    return Source(str(root), shards, ignored)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(root: Path, below: str, ancestors: tuple[tuple[int, int], ...], ignored: Counter[str]) -> Iterator[str]:
    """Relative paths of what may be images; links to folders are followed, but never back to an ancestor."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                identity = _identity(root / name)
                if identity in ancestors:
                    yield name
                else:
                    yield from _walk(root, name + "/", (*ancestors, identity), ignored)
            elif (suffix := PurePosixPath(name).suffix.lower()) in readable_suffixes() or not suffix:
                yield name
            else:
                ignored[suffix] += 1


def _cut(names: list[str]) -> Iterator[list[str]]:
    """Runs of names that end where a name's own hash says so: a new file changes one shard, not all that follow."""
    part: list[str] = []
    for name in names:
        part.append(name)
        if zlib.crc32(os.fsencode(name)) % MEAN_FILES == 0 or len(part) == 2 * MEAN_FILES:
            yield part
            part = []
    if part:
        yield part


def _stamp_names(root: Path, names: Sequence[str]) -> str:
    return _fingerprint([(readers.printable(name), *_size_and_time(root / name)) for name in names])


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-2, -2)


# Files of many images


def expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}.{x,y}` written out, in order, the last brace running fastest."""
    parts = BRACES.split(pattern)
    choices = [_choices(part) if at % 2 else [part] for at, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
        if count > MAX_PATTERN:
            raise ValueError(f"source {pattern!r} stands for more than {MAX_PATTERN:,} files")
    return ["".join(picked) for picked in itertools.product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not numbers:
        return inside.split(",")
    first, last = numbers.groups()
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) and len(first) == len(last) else 0
    low, high = int(first), int(last)
    if high - low >= MAX_PATTERN:
        raise ValueError(f"source range {{{inside}}} stands for more than {MAX_PATTERN:,} files")
    return [f"{n:0{width}d}" for n in (range(low, high + 1) if high >= low else range(low, high - 1, -1))]


def _matches(pattern: str) -> list[str]:
    """The existing files that a path, a pattern or a URL stands for."""
    if Path(pattern).is_file():
        return [pattern]
    found: list[str] = []
    for url in expand_braces(pattern):
        files, path = fsspec.core.url_to_fs(url)
        remote = "://" in url or "::" in url
        listed = sorted(files.glob(path)) if "*" in path else [path] if files.exists(path) else []
        if not listed:
            raise ValueError(f"source {url!r} does not exist")
        found += [files.unstrip_protocol(one) if remote else one for one in listed]
    return found


def _from_files(name: str, urls: list[str], image_column: str | None, id_column: str | None) -> Source:
    stems = _stems(urls)
    shards: list[Shard] = []
    for url, stem in zip(urls, stems, strict=True):
        stamp = partial(_stamp_files, (url,), stem)
        if url.lower().endswith(TAR_SUFFIXES):
            shards.append(Shard.make(stem, partial(readers.read_tar, url, stem), stamp))
        elif url.lower().endswith(".parquet"):
            shards += _parquet_shards(url, stem, image_column, id_column)
        else:
            raise ValueError(f"source {url!r} must be a folder, a tar archive, a Parquet file, .npy or .npz")
    return Source(name, shards)


def _stems(urls: list[str]) -> list[str]:
    """File names without what all share: their common folder and their suffix."""
    common = os.path.commonpath([url.rpartition("/")[0] for url in urls]) if len(urls) > 1 else ""
    bases = [os.path.relpath(url, common) if common else url.rpartition("/")[2] for url in urls]
    stems = [re.sub(r"\.(tar(\.\w+)?|tgz|parquet)$", "", base, flags=re.IGNORECASE) for base in bases]
    return stems if len(set(stems)) == len(stems) else bases


def _stamp_files(urls: Sequence[str], *what: Any) -> str:
    return _fingerprint([what, *map(_file_stamp, urls)])


def _file_stamp(url: str) -> list[str]:
    files, path = fsspec.core.url_to_fs(url)
    info = files.info(path)
    marks = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated", "created")
    return [str(info.get("size")), next((str(info[mark]) for mark in marks if info.get(mark) is not None), "")]


def _fingerprint(parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _parquet_shards(url: str, stem: str, image_column: str | None, id_column: str | None) -> list[Shard]:
    """Row groups in runs of at least ROWS rows; a file whose footer is damaged is one shard that will say so."""
    try:
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            column = _image_column(url, table.schema_arrow, image_column, id_column)
            sizes = [table.metadata.row_group(at).num_rows for at in range(table.num_row_groups)]
    except pa.ArrowInvalid:
        column, sizes = image_column or "", [0]
    shards, groups, first = [], [], 0
    for at, rows in enumerate(sizes):
        groups.append(at)
        counted = sum(sizes[group] for group in groups)
        if counted >= ROWS or at == len(sizes) - 1:
            read = partial(readers.read_parquet, url, stem, tuple(groups), first, column, id_column)
            stamp = partial(_stamp_files, (url,), stem, first, column, id_column)
            shards.append(Shard.make(f"{stem}/{first}", read, stamp))
            first, groups = first + counted, []
    return shards


def _image_column(url: str, schema: pa.Schema, wanted: str | None, id_column: str | None) -> str:
    holding = [one.name for one in schema if _holds_images(one.type)]
    if id_column is not None and id_column not in schema.names:
        raise ValueError(f"id_column {id_column!r} is not in {url!r}, which has {schema.names}")
    if wanted is not None:
        if wanted not in holding:
            raise ValueError(f"image_column {wanted!r} of {url!r} must hold bytes; columns that do: {holding}")
        return wanted
    if len(holding) == 1 or "image" in holding:
        return "image" if "image" in holding else holding[0]
    raise ValueError(
        f"image_column must be named: {url!r} has {holding or 'no column of bytes, but ' + str(schema.names)}"
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


# Arrays


def _from_bytes(files: Sequence[bytes]) -> Source:
    def shard(first: int) -> Shard:
        part = files[first : first + ROWS]
        print_ = hashlib.blake2b(str(first).encode(), digest_size=16)
        for data in part:
            print_.update(len(data).to_bytes(8, "little") + data)
        return Shard.make(str(first), partial(readers.read_bytes, part, first), print_.hexdigest)

    return Source("a list of files in memory", [shard(first) for first in range(0, len(files), ROWS)])


def _as_numpy(source: Any) -> npt.NDArray[Any]:
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        raise TypeError(
            f"source must be a path, a pattern, an array, a tensor or encoded files, not {type(source).__name__}"
        )
    return source


def _load_array(path: Path) -> npt.NDArray[Any]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"source {str(path)!r} is not an array that can be read: {error}") from None
    if isinstance(loaded, np.ndarray):
        return loaded
    images = [name for name in loaded.files if loaded[name].ndim in (3, 4)]
    if len(images) != 1:
        raise ValueError(f"source {str(path)!r} must hold one array of images, not {images or 'none'}")
    return np.asarray(loaded[images[0]])


def _from_array(
    array: npt.NDArray[Any],
    layout: str | None,
    ids: Sequence[str] | None,
    stamp: Callable[..., str] | None = None,
    name: str = "an array",
) -> Source:
    images = _channels_last(array, layout)
    names = [str(row) for row in range(len(images))] if ids is None else [str(one) for one in ids]
    if len(names) != len(images) or len(set(names)) != len(names):
        raise ValueError(f"ids must be {len(images)} different names, not {len(names)} ({len(set(names))} different)")

    def shard(first: int) -> Shard:
        part, part_ids = images[first : first + ROWS], names[first : first + ROWS]
        print_ = stamp or partial(_stamp_array, part)
        given = _fingerprint([print_(), first, part_ids])
        again = (lambda: _fingerprint([stamp(), first, part_ids])) if stamp else (lambda: given)
        return Shard(str(first), partial(readers.read_array, part, part_ids), again, given)

    return Source(name, [shard(first) for first in range(0, len(images), ROWS)])


def _stamp_array(part: npt.NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(part).data, digest_size=16).hexdigest()


def _channels_last(array: npt.NDArray[Any], layout: str | None) -> npt.NDArray[Any]:
    """The array as [N, H, W, C], or what makes its axes ambiguous."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise TypeError(f"source must be uint8 or floats in [0, 1], not {array.dtype}")
    if layout is None:
        layout = _guess_layout(array.shape)
    if layout not in ("NHWC", "NCHW", "NHW") or len(layout) != array.ndim:
        raise ValueError(f"layout must be 'NHWC', 'NCHW' or 'NHW' and fit the shape {array.shape}, not {layout!r}")
    images = {"NHWC": lambda: array, "NCHW": lambda: array.transpose(0, 2, 3, 1), "NHW": lambda: array[..., None]}[
        layout
    ]()
    if images.shape[3] not in (1, 3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"source of layout {layout} must have 1, 3 or 4 channels, not shape {array.shape}")
    return images


def _guess_layout(shape: tuple[int, ...]) -> str:
    channels = (1, 3, 4)
    if len(shape) == 4 and (shape[3] in channels) != (shape[1] in channels):
        return "NHWC" if shape[3] in channels else "NCHW"
    if len(shape) == 3 and shape[2] not in channels:
        return "NHW"
    raise ValueError(
        f"source of shape {shape} could be read in several ways, or none: give layout='NHWC', 'NCHW' or 'NHW'"
    )
