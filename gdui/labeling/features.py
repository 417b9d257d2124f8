"""The feature store: float16 vectors on disk, shard by shard, that only the encoder which made them may extend."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gdui import checks
from gdui.labeling.images import Batch, Clock, Rejected, Shard, Source, Transform, batches

__all__ = ["FeatureStore", "Features", "Ledger", "encode_source", "load_features"]

SCHEMA = 1
Matrix = npt.NDArray[Any]

log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    temporary = path.with_name(path.name + ".part")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


class ImageEncoder(Protocol):
    """What is asked of an encoder here."""

    name: str
    hash: str
    transform: Transform
    dim: int

    @property
    def batch(self) -> int:
        """How many images it takes at once."""

    @property
    def precision(self) -> str:
        """The type it computes in."""

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Vectors [B, dim] of RGB pixels [B, size, size, 3]."""


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
        for part, (start, end) in zip(self.parts, zip(starts, starts[1:], strict=False), strict=True):
            at = np.flatnonzero((wanted >= start) & (wanted < end))
            if len(at):
                out[at] = part[wanted[at] - start]
        return out

    def array(self) -> npt.NDArray[np.float32]:
        """Everything in memory."""
        return np.concatenate([np.empty((0, self.dim), np.float32), *self.parts], dtype=np.float32)


class FeatureStore:
    """A folder of feature shards.

    Each is two files named after its fingerprint: FP.npy with the vectors, then FP.parquet with every id it met and why the
    rejected ones were (the others stand in the order of the rows); the second completes the shard. manifest.json holds what
    the vectors depend on and, once all are written, the shards in the source's order.
    """

    def __init__(self, folder: str | os.PathLike[str], encoder: ImageEncoder) -> None:
        """Opens `folder`, or makes it; refuses features of another encoder."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = identity_of(encoder)
        self._manifest = self.folder / "manifest.json"
        if self._manifest.exists():
            _agree(read_manifest(self.folder), self.identity, self.folder)
        else:
            self._write_manifest([])

    def __contains__(self, shard: Shard) -> bool:
        return (self.folder / f"{shard.fingerprint}.parquet").exists() and (
            self.folder / f"{shard.fingerprint}.npy"
        ).exists()

    def write(self, shard: Shard, ids: Sequence[str], features: Matrix, rejected: Sequence[Rejected]) -> None:
        """Adds one complete shard."""
        base = self.folder / shard.fingerprint
        stored = np.ascontiguousarray(features, dtype=np.float16)
        with atomic_path(base.with_suffix(".npy")) as path, path.open("wb") as file:
            np.save(file, stored)
        table = pa.table(
            {
                "id": pa.array([*ids, *(one.id for one in rejected)], pa.string()),
                "reason": pa.array([*[None] * len(ids), *(one.reason for one in rejected)], pa.string()),
            }
        )
        about = {
            "file": shard.fingerprint,
            "key": shard.key,
            "count": len(ids),
            "rejected": len(rejected),
            "checksum": checksum(stored),
        }
        with atomic_path(base.with_suffix(".parquet")) as path:
            pq.write_table(table.replace_schema_metadata({"gdui": json.dumps(about)}), path)

    def seal(self, shards: Sequence[Shard]) -> None:
        """Writes down which shards make up the source, in its order."""
        self._write_manifest([_about(self.folder / f"{shard.fingerprint}.parquet") for shard in shards])

    def features(self) -> Features:
        """The sealed shards as one virtual array."""
        return load_features(self.folder)

    def quarantine(self) -> pa.Table:
        """The id and the reason of every image of the sealed shards that could not be read."""
        return _rows(self.folder, pc.is_valid(pc.field("reason")), ["id", "reason"])

    def _write_manifest(self, shards: list[dict[str, Any]]) -> None:
        with atomic_path(self._manifest) as path:
            path.write_text(json.dumps({**self.identity, "shards": shards}, indent=1) + "\n")


def identity_of(encoder: ImageEncoder) -> dict[str, Any]:
    """What features depend on."""
    return {
        "schema": SCHEMA,
        "encoder": encoder.name,
        "hash": encoder.hash,
        "transform": json.loads(json.dumps(asdict(encoder.transform))),
        "dim": encoder.dim,
        "precision": encoder.precision,
    }


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


def _agree(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """The encoder may be known by another name, but must be the same."""
    differing = [key for key in ("hash", "transform", "dim", "precision") if found.get(key) != wanted[key]]
    if differing:
        listed = "; ".join(f"{key} {found.get(key)} there, {wanted[key]} here" for key in differing)
        raise ValueError(
            f"features in {str(folder)!r} are of encoder {found.get('encoder')!r}, not of {wanted['encoder']!r} ({listed}): "
            "use the same encoder or another folder"
        )


def _about(path: Path) -> dict[str, Any]:
    return dict(json.loads(pq.read_schema(path).metadata[b"gdui"]))


def checksum(features: Matrix) -> str:
    """blake2b over the values."""
    return hashlib.blake2b(np.ascontiguousarray(features).data, digest_size=16).hexdigest()


def _rows(folder: Path, which: pc.Expression, columns: list[str]) -> pa.Table:
    empty = pa.table({name: pa.array([], pa.string()) for name in columns})
    files = [folder / f"{shard['file']}.parquet" for shard in read_manifest(folder)["shards"]]
    tables = [pq.read_table(file, filters=which, columns=columns).replace_schema_metadata() for file in files]
    return pa.concat_tables([empty, *tables])


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
    names = pa.array([str(row) for row in range(len(array))] if ids is None else [str(one) for one in ids], pa.string())
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
    return Features(parts, _rows(folder, pc.is_null(pc.field("reason")), ["id"]).column("id"), manifest["dim"])


@dataclass
class Ledger:
    """What was done and the seconds it took; reading and decoding are summed over their threads."""

    images: int = 0
    quarantined: int = 0
    shards: int = 0
    shards_skipped: int = 0
    shards_total: int = 0
    clock: Clock = field(default_factory=Clock)
    encode: float = 0.0
    write: float = 0.0
    wall: float = 0.0


def encode_source(
    source: Source,
    encoder: ImageEncoder,
    store: FeatureStore,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[Ledger], None] | None = None,
) -> Ledger:
    """Encodes every shard that `store` lacks, then seals it; a killed run continues where it stood.

    Args:
        batch_size: how many images are handed to the encoder at once, rounded up to a multiple of its own batch.
        workers: decoding threads; by default one a core.
        progress: called with the ledger so far after each batch.
    """
    todo = [shard for shard in source.shards if shard not in store]
    ledger = Ledger(shards_total=len(source.shards), shards_skipped=len(source.shards) - len(todo))
    start = time.perf_counter()
    taken: list[Batch] = []
    features: list[npt.NDArray[np.float32]] = []
    step = -(-(batch_size or encoder.batch) // encoder.batch) * encoder.batch
    for batch in batches(todo, encoder.transform, step, workers=workers, clock=ledger.clock):
        before = time.perf_counter()
        features.append(encoder.encode_images(batch.pixels))
        ledger.encode += time.perf_counter() - before
        taken.append(batch)
        ledger.images += len(batch.ids)
        ledger.quarantined += len(batch.rejected)
        if batch.last:
            _write_shard(store, taken, features, ledger)
            taken, features = [], []
        ledger.wall = time.perf_counter() - start
        if progress is not None:
            progress(ledger)
    store.seal(source.shards)
    return ledger


def _write_shard(
    store: FeatureStore, taken: list[Batch], features: list[npt.NDArray[np.float32]], ledger: Ledger
) -> None:
    shard = taken[-1].shard
    if shard.changed():
        raise OSError(f"shard {shard.key!r} of the source changed while it was read: run again to continue")
    before = time.perf_counter()
    ids = [id_ for batch in taken for id_ in batch.ids]
    store.write(shard, ids, np.concatenate(features), [one for batch in taken for one in batch.rejected])
    ledger.write += time.perf_counter() - before
    ledger.shards += 1
