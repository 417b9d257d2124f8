"""Labels that a source of Parquet files brings along, in a column beside the images."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.checks import did_you_mean
from gdui.images.files import PARQUET, stems, urls_of

__all__ = ["labels_in"]


def labels_in(source: Any, column: str, classes: Sequence[str], *, id_column: str | None = None) -> dict[str, str]:
    """id -> class name of the images that have a label in `column`; an empty one, or a number below 0, is none.

    A text is a class's name. A whole number counts the names that Hugging Face's `datasets` keeps with the column, or,
    where there are none, the classes.

    Args:
        source: Parquet files, as `open_source` takes them.
        id_column: the column that names the images, if `open_source` was told to take their names from one.
    """
    found: dict[str, str] = {}
    urls = urls_of(source)
    for url, stem in zip(urls, stems(urls), strict=True):
        if not PARQUET.search(url):
            raise ValueError(f"labels_column is a column of Parquet files, and {url!r} is none")
        with fsspec.open(url, "rb") as file, pq.ParquetFile(file) as table:
            names = _names(url, table.schema_arrow, column, classes)
            for id_, value in _cells(table, stem, column, id_column):
                if value is not None and value != "" and (names is None or value >= 0):
                    found[id_] = value if names is None else _named(url, column, names, value)
    return found


def _cells(table: pq.ParquetFile, stem: str, column: str, id_column: str | None) -> Iterator[tuple[str, Any]]:
    """Of every row the id and what the column holds."""
    first = 0
    for batch in table.iter_batches(columns=[column] if id_column is None else [column, id_column]):
        rows = range(first, first + len(batch))
        ids = (f"{stem}/{row}" for row in rows) if id_column is None else map(str, batch.column(id_column).to_pylist())
        yield from zip(ids, batch.column(column).to_pylist(), strict=True)
        first = rows.stop


def _names(url: str, schema: pa.Schema, column: str, classes: Sequence[str]) -> Sequence[str] | None:
    """What whole numbers in the column stand for; None where it holds text."""
    if column not in schema.names:
        meant = did_you_mean(column, schema.names)
        raise ValueError(f"labels_column must be a column of {url!r}, one of {schema.names}, not {column!r}{meant}")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None
    if not pa.types.is_integer(kind):
        raise ValueError(f"labels_column must hold text or whole numbers: in {url!r} {column!r} holds {kind}")
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names: Sequence[str] = told.get("info", {}).get("features", {}).get(column, {}).get("names") or classes
    return names


def _named(url: str, column: str, names: Sequence[str], value: int) -> str:
    if value >= len(names):
        raise ValueError(f"labels_column {column!r} of {url!r} holds {value}, and there are only {len(names)} names")
    return names[value]
