"""Archives and Parquet files, named by paths, patterns and URLs."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.checks import did_you_mean
from gdui.images.readers import parquet_names, read_parquet, read_tar, tar_names
from gdui.images.shards import ROWS, Shard, Source, stamp_files

__all__ = ["PARQUET", "expand_braces", "matches", "open_files", "stems", "urls_of"]

MAX_PATTERN = 1_000_000
BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
TAR = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz)$", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)


def expand_braces(pattern: str) -> list[str]:
    """`a-{00..02}.{x,y}` written out in order, the last brace running fastest; braces don't nest."""
    parts = BRACES.split(pattern)
    choices = [_choices(part) if at % 2 else [part] for at, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
        if count > MAX_PATTERN:
            raise ValueError(f"source {pattern[:200]!r} stands for more than {MAX_PATTERN:,} files")
    return ["".join(picked) for picked in itertools.product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    numbers = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside)
    if not numbers:
        return inside.split(",")
    first, last = numbers.groups()
    width = len(first) if len(first) == len(last) else 0
    low, high = int(first), int(last)
    if abs(high - low) >= MAX_PATTERN:
        raise ValueError(f"source {{{inside}}} stands for more than {MAX_PATTERN:,} files")
    return [f"{n:0{width}d}" for n in (range(low, high + 1) if high >= low else range(low, high - 1, -1))]


def matches(pattern: str) -> list[str]:
    """The existing files that a path, a pattern or a URL stands for."""
    if Path(pattern).is_file():
        return [pattern]
    found: list[str] = []
    for url in expand_braces(pattern):
        try:
            files, path = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:  # a protocol nobody knows, or whose package is missing
            raise ValueError(f"source {url!r} can't be opened: {error}") from None
        if "*" in url:
            listed = [files.unstrip_protocol(one) if "://" in url else one for one in sorted(files.glob(path))]
        else:
            listed = [url] if files.exists(path) else []
        if not listed:
            raise ValueError(f"source {url!r} does not exist")
        found += listed
    return found


def urls_of(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The existing files that a path, a pattern, a URL or a list of these stands for."""
    named = [source] if isinstance(source, (str, os.PathLike)) else source
    return [url for one in named for url in matches(os.fspath(one))]


def open_files(name: str, urls: Sequence[str], image_column: str | None, id_column: str | None) -> Source:
    """Each archive is a shard, and so are some row groups of a Parquet file."""
    if twice := [url for url, times in Counter(urls).items() if times > 1]:
        raise ValueError(f"source names {twice[0]!r} more than once")
    shards: list[Shard] = []
    for url, stem in zip(urls, stems(urls), strict=True):
        if TAR.search(url):
            parts = partial(read_tar, url, stem), partial(stamp_files, (url,), stem)
            shards.append(Shard.make(stem, *parts, names=partial(tar_names, url, stem)))
        elif PARQUET.search(url):
            shards += _parquet_shards(url, stem, image_column, id_column)
        else:
            what = "for single images name the local folder they lie in"
            raise ValueError(f"source {url!r} must be a tar archive, a Parquet file, .npy or .npz; {what}")
    return Source(name, shards)


def stems(urls: Sequence[str]) -> list[str]:
    """File names without what all share: their common folder, and their suffix where that leaves them different."""
    if len(urls) == 1:
        bases = [urls[0].rpartition("/")[2]]
    else:
        common = _common_folder(urls)
        bases = [os.path.relpath(url, common) if common else url for url in urls]
    stems = [PARQUET.sub("", TAR.sub("", base)) for base in bases]
    return stems if len(set(stems)) == len(stems) else bases


def _common_folder(urls: Sequence[str]) -> str:
    try:
        return os.path.commonpath([url.rpartition("/")[0] for url in urls])
    except ValueError:  # some are relative, or of another store
        return ""


def _parquet_shards(url: str, stem: str, image_column: str | None, id_column: str | None) -> list[Shard]:
    """Row groups in runs of at least ROWS rows; a file whose footer is damaged is one shard that will say so."""
    try:
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            column = _image_column(url, table.schema_arrow, image_column, id_column)
            sizes = [table.metadata.row_group(at).num_rows for at in range(table.num_row_groups)]
    except pa.ArrowInvalid:
        column, sizes = image_column or "", [0]
    sizes = sizes or [0]
    shards, groups, first, counted = [], [], 0, 0
    for at, rows in enumerate(sizes):
        groups.append(at)
        counted += rows
        if counted >= ROWS or at == len(sizes) - 1:
            read = partial(read_parquet, url, stem, tuple(groups), first, column, id_column)
            stamp = partial(stamp_files, (url,), stem, first, column, id_column)
            names = partial(parquet_names, url, stem, tuple(groups), range(first, first + counted), id_column)
            shards.append(Shard.make(f"{stem}/{first}", read, stamp, counted, names))
            first, counted, groups = first + counted, 0, []
    return shards


def _image_column(url: str, schema: pa.Schema, wanted: str | None, id_column: str | None) -> str:
    holding = [one.name for one in schema if _holds_images(one.type)]
    if id_column is not None and id_column not in schema.names:
        meant = did_you_mean(id_column, schema.names)
        raise ValueError(f"id_column must be a column of {url!r}, one of {schema.names}, not {id_column!r}{meant}")
    if wanted is not None and wanted not in holding:
        meant = did_you_mean(wanted, holding)
        raise ValueError(f"image_column must hold bytes: in {url!r} one of {holding}, not {wanted!r}{meant}")
    if not holding:
        raise ValueError(f"source {url!r} holds no images: none of its columns {schema.names} holds bytes")
    if wanted is None and "image" not in holding and len(holding) > 1:
        raise ValueError(
            f"image_column must be given, on the command line as --set source.image_column={holding[0]}: "
            f"in {url!r} several columns hold bytes, {holding}"
        )
    return wanted or ("image" if "image" in holding else str(holding[0]))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
