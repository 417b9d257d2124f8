"""Labels on disk: Parquet whose schema metadata says what the rows mean, and CSV for a spreadsheet."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from gdui import __version__
from gdui.labels.facts import Facts
from gdui.labels.pins import FORMULA
from gdui.places import readable
from gdui.runs import atomic_path

__all__ = ["read_about", "read_batches", "read_parquet", "read_quarantine", "write_csv", "write_parquet"]

SCHEMA_VERSION = 1
KEY = b"gdui"
GROUP_ROWS = 1 << 20
# A dictionary must hold every class name once: without it each row would repeat its own.
DICTIONARY_BYTES = 1 << 30


def write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, classes: list[str], facts: Facts, path: Path) -> None:
    """Writes the rows of all tables and the facts as one file, whole or not at all, with checksums."""
    about = {"schema": SCHEMA_VERSION, "gdui": __version__, "classes": classes, "facts": json.loads(facts.to_json())}
    schema = schema.with_metadata({KEY: json.dumps(about)})
    names = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    kind: dict[str, Any] = {"compression": "zstd", "use_dictionary": names, "write_page_checksum": True}
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, dictionary_pagesize_limit=DICTIONARY_BYTES, **kind) as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(schema).combine_chunks(), GROUP_ROWS)


def read_parquet(path: Path, columns: pa.Schema, rules: list[str]) -> tuple[pa.Table, list[str], Facts]:
    """The rows as `columns`, the classes and the facts in the file `path`."""
    with _reading(path) as file:
        classes, facts = _about(path, file)
        missing = [name for name in columns.names if name not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"{path} is damaged: it has no column {missing[0]!r}")
        table = file.read(columns=columns.names).select(columns.names)
        rows = {
            name: _column(table[name], columns.field(name), rules if name == "rule" else classes)
            for name in columns.names
        }
    if not rows["label"].indices.fill_null(-1).equals(rows["label_index"]):
        raise ValueError(f"{path} is damaged: label and label_index say different things")
    return pa.table(rows, schema=columns), classes, facts


def read_about(path: Path) -> tuple[list[str], Facts]:
    """The classes and the facts in the file `path`."""
    with _reading(path) as file:
        return _about(path, file)


def read_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the file `path`, a few rows at a time."""
    with _reading(path) as file:
        yield from file.iter_batches(columns=columns)


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; what can't be read of it is a mistake that names it."""
    try:
        with pq.ParquetFile(readable(path), page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} can't be read as labels: {' '.join(str(error).split())}") from None


def read_quarantine(path: Path) -> pa.Table:
    """The id and the reason of every image that could not be read."""
    try:
        return pq.read_table(readable(path), columns=["id", "reason"])
    except pa.ArrowException as error:
        raise ValueError(f"{path} can't be read as a quarantine: {' '.join(str(error).split())}") from None


def write_csv(table: pa.Table, path: Path) -> None:
    """Writes the rows in UTF-8 with a header."""
    schema = pa.schema([(field.name, _plain_type(field.type)) for field in table.schema])
    with atomic_path(path) as temporary, pcsv.CSVWriter(temporary, schema) as writer:
        for batch in table.to_batches(max_chunksize=1 << 16):
            writer.write_batch(pa.record_batch([_guarded(column) for column in batch.columns], schema=schema))


def _about(path: Path, file: pq.ParquetFile) -> tuple[list[str], Facts]:
    metadata = file.schema_arrow.metadata or {}
    if KEY not in metadata:
        raise ValueError(f"{path} is a Parquet file, but not of labels: gdui did not write it")
    try:
        about = json.loads(metadata[KEY])
    except ValueError:
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("schema"), int):
        raise ValueError(f"{path} is a Parquet file of gdui, but not of labels")
    if about["schema"] > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written by gdui {about.get('gdui')} with schema {about['schema']} of the labels; this is gdui "
            f"{__version__}, which reads up to {SCHEMA_VERSION}: please upgrade"
        )
    return list(about["classes"]), Facts.from_json(json.dumps(about["facts"]))


def _column(column: pa.ChunkedArray, field: pa.Field, names: list[str]) -> pa.Array:
    """One piece; names in the order of the classes again, whatever order the file kept them in."""
    if not pa.types.is_dictionary(field.type):
        return column.cast(field.type).combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    known = pa.array(names, pa.string())
    codes = pa.chunked_array([_recode(chunk, known) for chunk in column.chunks], pa.int32()).combine_chunks()
    if codes.null_count != column.null_count:
        raise ValueError(f"the labels are damaged: column {field.name!r} holds a name that is none of the classes")
    return pa.DictionaryArray.from_arrays(codes, known)


def _recode(chunk: pa.DictionaryArray, known: pa.Array) -> pa.Array:
    return pc.index_in(chunk.dictionary.cast(known.type), known).take(chunk.indices)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) else kind


def _guarded(column: pa.Array) -> pa.Array:
    """Text that can't be taken for a formula; `gdui.labels.pins` takes it for what it was."""
    if pa.types.is_dictionary(column.type):
        return _guarded(column.dictionary).take(column.indices)
    if _plain_type(column.type) != pa.string():
        return column
    return pc.replace_substring_regex(column.cast(pa.string()), FORMULA, r"'\1")
