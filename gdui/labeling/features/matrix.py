"""Vectors that stand in memory or on disk, in one piece or many, read as one N x dim matrix."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdui import checks
from gdui.places import is_remote, place, readable

__all__ = ["SCHEMA", "Features", "checksum", "is_whole", "load_features", "read_manifest", "stored_rows"]

SCHEMA = 1
MAPPED_ROWS = 65_536
READERS = 16  # small files at once: a store answers many as soon as one
KEPT = 8  # pieces of a store that many blocks in a row ask for
SUFFIXES = (".npy", ".parquet")
Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """N x dim vectors that stand in pieces, in memory or on disk, with the ids of their rows.

    `identity` says what those of a store depend on: the encoder's name and hash, its transform, the dim.
    `piece(i)` gives the i-th, of `counts[i]` rows. Those on disk are mapped for as long as they are looked at and no
    longer: thousands of open maps would exhaust the process's file descriptors.
    """

    counts: Sequence[int]
    piece: Callable[[int], Matrix]
    ids: pa.ChunkedArray
    dim: int
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(self.counts)

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """The first row of each piece, and the end of the last."""
        return np.cumsum([0, *self.counts])

    def blocks(self, rows: int = 65536) -> Iterator[tuple[int, Matrix]]:
        """(first row, at most `rows` vectors), in order; none crosses a piece."""
        first = 0
        for at, count in enumerate(self.counts):
            part = self.piece(at)
            for start in range(0, count, rows):
                yield first + start, part[start : start + rows]
            first += count

    def take(self, rows: npt.NDArray[np.integer]) -> Matrix:
        """The vectors of `rows`: as they stand where these follow one another in one piece, else those of `gather`."""
        starts = self._starts
        first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        at = int(np.searchsorted(starts, first, "right")) - 1
        if 0 <= at < len(self.counts) and end <= starts[at + 1] and _consecutive(rows):
            return self.piece(at)[first - starts[at] : end - starts[at]]
        return self.gather(rows)

    def gather(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The vectors of `rows`, in the order given."""
        wanted = checks.indices("rows", rows, len(self))
        if len(wanted) and _consecutive(wanted):
            return self._between(int(wanted[0]), int(wanted[-1]) + 1)
        order = np.argsort(wanted, kind="stable")
        starts = self._starts
        ends = np.searchsorted(wanted[order], starts)
        out = np.empty((len(wanted), self.dim), np.float32)
        for at in np.flatnonzero(np.diff(ends)).tolist():
            mine = order[ends[at] : ends[at + 1]]
            out[mine] = self.piece(at)[wanted[mine] - starts[at]]
        return out

    def array(self) -> npt.NDArray[np.float32]:
        """Everything in memory."""
        return self._between(0, len(self))

    def _between(self, first: int, end: int) -> npt.NDArray[np.float32]:
        """The vectors of rows `first` to `end`."""
        out = np.empty((end - first, self.dim), np.float32)
        starts = self._starts
        for at in range(int(np.searchsorted(starts, first, "right")) - 1, int(np.searchsorted(starts, end))):
            low, high = max(first, int(starts[at])), min(end, int(starts[at + 1]))
            out[low - first : high - first] = self.piece(at)[low - starts[at] : high - starts[at]]
        return out


def _consecutive(rows: npt.NDArray[np.integer]) -> bool:
    return int(rows[-1]) - int(rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all())


def load_features(
    source: "str | os.PathLike[str] | npt.ArrayLike | Features",
    *,
    ids: Sequence[str] | None = None,
    verify: bool = False,
    name: str = "features",
) -> Features:
    """Features from a store's folder, an .npy file or an array [N, d]; ids default to the row numbers.

    With `verify` the checksums of a store are compared, which reads everything once. Errors call them `name`.
    """
    if isinstance(source, Features):
        return source
    if isinstance(source, (str, os.PathLike)) or is_remote(source):
        path = place(source)  # type: ignore[arg-type] # of the others only what `place` makes is on a store
        if path.is_dir():
            return _from_store(path, verify)
        counts, piece, dim = _mapped(path, name)
    else:
        array = checks.array(name, source, 2, finite=False)
        counts, piece, dim = [len(array)], [array].__getitem__, array.shape[1]
    n = sum(counts)
    names = pc.cast(pa.array(np.arange(n)), pa.string()) if ids is None else pa.array(ids, pa.string())
    if len(names) != n:
        raise ValueError(f"ids must be {n} names, one a row of {name}, not {len(names)}")
    return Features(counts, piece, pa.chunked_array([names]), dim)


def _mapped(path: Path, name: str) -> tuple[list[int], Callable[[int], Matrix], int]:
    """An .npy file [N, d] in pieces that are mapped anew: what has been read of it doesn't stay in memory."""
    whole = _open_npy(path, name)
    checks.array(name, whole[:1] if whole.ndim == 2 else whole, 2, finite=False)
    starts = range(0, len(whole), MAPPED_ROWS)

    def piece(at: int) -> Matrix:
        part = _open_npy(path, name)[starts[at] : starts[at] + MAPPED_ROWS]
        return checks.array(name, part, 2, finite=False)

    return [min(MAPPED_ROWS, len(whole) - at) for at in starts], piece, whole.shape[1]


def _open_npy(path: Path, name: str = "features") -> Matrix:
    try:
        if is_remote(path):
            array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's reader of headers has errors of many kinds
        reason = str(error).partition(". ")[0]  # without the advice to trust a file that may be anything
        raise ValueError(f"{name} {str(path)!r} can't be read as an .npy file of numbers: {reason}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} {str(path)!r} must be an .npy file of one array")
    return array


def _from_store(folder: Path, verify: bool) -> Features:
    """Shards are looked at now where that takes but their heads, and on a store when their rows are asked for."""
    manifest = read_manifest(folder)
    shards, dim = manifest["shards"], manifest["dim"]

    def piece(at: int, verify: bool = False) -> Matrix:
        shard = shards[at]
        part = _open_npy(folder / f"{shard['file']}.npy")
        if part.shape != (shard["count"], dim) or (verify and checksum(part) != shard["checksum"]):
            broken = f"features of shard {shard['key']!r} in {str(folder)!r} are damaged"
            raise ValueError(f"{broken}: delete {shard['file']}.* there and encode again")
        return part

    fetched = is_remote(folder)
    for at in range(len(shards)) if verify or not fetched else ():
        piece(at, verify)
    ids = stored_rows(folder, rejected=False).column("id")
    identity = {name: manifest.get(name) for name in ("encoder", "hash", "transform", "dim")}
    counts = [shard["count"] for shard in shards]
    return Features(counts, lru_cache(KEPT)(piece) if fetched else piece, ids, dim, identity)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a feature store, refused where a newer gdui wrote it."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
        if schema > SCHEMA:
            raise ValueError(
                f"features {str(folder)!r} were written by a newer gdui (schema {schema}, this one knows {SCHEMA})"
            )
        if not (isinstance(manifest["dim"], int) and all(map(_is_shard, manifest["shards"]))):
            raise TypeError("it does not list its shards")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(f"features {str(folder)!r} is no feature store: {path.name} can't be read ({error})") from None
    return dict(manifest)


def _is_shard(about: Any) -> bool:
    """Whether an entry of the manifest says what is asked of it; its file must lie in the folder."""
    kinds = {"file": str, "key": str, "count": int, "checksum": str}
    typed = isinstance(about, dict) and all(isinstance(about.get(name), kind) for name, kind in kinds.items())
    return typed and Path(about["file"]).name == about["file"]


def is_whole(folder: Path) -> bool:
    """Whether a store has every file that its manifest names."""
    there = {path.name for path in folder.iterdir()}
    return there.issuperset(f"{shard['file']}{end}" for shard in read_manifest(folder)["shards"] for end in SUFFIXES)


def checksum(features: Matrix) -> str:
    """blake2b over the values."""
    return hashlib.blake2b(np.ascontiguousarray(features).data, digest_size=16).hexdigest()


def stored_rows(folder: Path, *, rejected: bool) -> pa.Table:
    """The id and the reason of the sealed shards' images: the rejected ones, or those that have vectors."""

    def rows(shard: dict[str, Any]) -> pa.Table:
        table = pq.ParquetFile(readable(folder / f"{shard['file']}.parquet")).read().replace_schema_metadata()
        reasons = table.column("reason")
        return table.filter(pc.is_valid(reasons) if rejected else pc.is_null(reasons))

    none = pa.table({name: pa.array([], pa.string()) for name in ("id", "reason")})
    with ThreadPoolExecutor(READERS) as pool:
        return pa.concat_tables([none, *pool.map(rows, read_manifest(folder)["shards"])])
