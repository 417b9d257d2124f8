"""Vectors that stand in memory or on disk, in one piece or many, read as one N x dim matrix."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdui import checks

__all__ = ["SCHEMA", "Features", "checksum", "load_features", "read_manifest", "stored_rows"]

SCHEMA = 1
Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """N x dim vectors that stand in one or more pieces, in memory or mapped from disk, with the ids of their rows."""

    parts: list[Matrix]
    ids: pa.ChunkedArray
    dim: int

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def blocks(self, rows: int = 65536) -> Iterator[tuple[int, Matrix]]:
        """(first row, at most `rows` vectors), in order; none crosses a piece."""
        first = 0
        for part in self.parts:
            for at in range(0, len(part), rows):
                yield first + at, part[at : at + rows]
            first += len(part)

    def gather(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The vectors of `rows`, in the order given."""
        wanted = checks.indices("rows", rows, len(self))
        starts = np.cumsum([0, *map(len, self.parts)])
        out = np.empty((len(wanted), self.dim), np.float32)
        for part, (start, end) in zip(self.parts, pairwise(starts), strict=True):
            at = np.flatnonzero((wanted >= start) & (wanted < end))
            if len(at):
                out[at] = part[wanted[at] - start]
        return out

    def array(self) -> npt.NDArray[np.float32]:
        """Everything in memory."""
        return np.concatenate([np.empty((0, self.dim), np.float32), *self.parts], dtype=np.float32)


def load_features(
    source: "str | os.PathLike[str] | Matrix | Features", *, ids: Sequence[str] | None = None, verify: bool = False
) -> Features:
    """Features from a store's folder, an .npy file or an array [N, d]; ids default to the row numbers.

    With `verify` the checksums of a store are compared, which reads everything once.
    """
    if isinstance(source, Features):
        return source
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return _from_store(Path(source), verify)
    if isinstance(source, (str, os.PathLike)):
        source = _open_npy(Path(source))
    array = checks.array("features", source, 2, finite=False)
    names = pc.cast(pa.array(np.arange(len(array))), pa.string()) if ids is None else pa.array(ids, pa.string())
    if len(names) != len(array):
        raise ValueError(f"ids must be {len(array)} names, one a row of features, not {len(names)}")
    return Features([array], pa.chunked_array([names]), array.shape[1])


def _open_npy(path: Path) -> Matrix:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"features {str(path)!r} can't be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"features {str(path)!r} must be an .npy file of one array")
    return array


def _from_store(folder: Path, verify: bool) -> Features:
    manifest = read_manifest(folder)
    parts = [_open_npy(folder / f"{shard['file']}.npy") for shard in manifest["shards"]]
    for shard, part in zip(manifest["shards"], parts, strict=True):
        if part.shape != (shard["count"], manifest["dim"]) or (verify and checksum(part) != shard["checksum"]):
            raise ValueError(
                f"features of shard {shard['key']!r} in {str(folder)!r} are damaged: delete {shard['file']}.* there"
            )
    return Features(parts, stored_rows(folder, pc.is_null(pc.field("reason")), ["id"]).column("id"), manifest["dim"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a feature store, refused where a newer gdui wrote it."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        schema = manifest["schema"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"features {str(folder)!r} is no feature store: {path.name} can't be read ({error})") from None
    if schema > SCHEMA:
        raise ValueError(
            f"features {str(folder)!r} were written by a newer gdui (schema {schema}, this one knows {SCHEMA})"
        )
    return dict(manifest)


def checksum(features: Matrix) -> str:
    """blake2b over the values."""
    return hashlib.blake2b(np.ascontiguousarray(features).data, digest_size=16).hexdigest()


def stored_rows(folder: Path, which: pc.Expression, columns: list[str]) -> pa.Table:
    empty = pa.table({name: pa.array([], pa.string()) for name in columns})
    files = [folder / f"{shard['file']}.parquet" for shard in read_manifest(folder)["shards"]]
    tables = [pq.read_table(file, filters=which, columns=columns).replace_schema_metadata() for file in files]
    return pa.concat_tables([empty, *tables])
