"""The feature store: float16 shards on disk that only the encoder which made them may extend."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.images import Rejected, Shard, Transform
from gdui.labeling.features.matrix import READERS, SCHEMA, Features, checksum, load_features, read_manifest, stored_rows
from gdui.places import place, readable
from gdui.runs import atomic_path

__all__ = ["FeatureStore", "ImageEncoder"]


class ImageEncoder(Protocol):
    """What is asked of an encoder here."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def hash(self) -> str:
        """Tells its weights from others."""

    @property
    def transform(self) -> Transform:
        """How a picture is brought to its input."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def batch(self) -> int:
        """How many images it takes at once."""

    @property
    def at_once(self) -> int:
        """How many images it is best handed at once."""

    @property
    def device(self) -> str:
        """Where it computes; a GPU decodes JPEGs, too."""

    @property
    def precision(self) -> str:
        """The type it computes in."""

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Vectors [B, dim] of RGB pixels [B, size, size, 3]."""


class FeatureStore:
    """A folder of feature shards.

    Each is two files named after its fingerprint: FP.npy with the vectors, then FP.parquet with every id it met and why
    the rejected ones were (the others stand in the order of the rows); the second completes the shard. manifest.json
    holds what the vectors depend on and, once all are written, the shards in the source's order.
    """

    def __init__(self, folder: str | os.PathLike[str], encoder: ImageEncoder) -> None:
        """Opens `folder`, or makes it; refuses features of another encoder."""
        self.folder = place(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = _identity(encoder)
        self._manifest = self.folder / "manifest.json"
        if self._manifest.exists():
            _agree(read_manifest(self.folder), self.identity, self.folder)
        else:
            self._write_manifest([])

    def __contains__(self, shard: Shard) -> bool:
        return (self.folder / f"{shard.fingerprint}.parquet").exists() and (
            self.folder / f"{shard.fingerprint}.npy"
        ).exists()

    def write(self, shard: Shard, ids: Sequence[str], features: npt.NDArray[Any], rejected: Sequence[Rejected]) -> None:
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
        paths = [self.folder / f"{shard.fingerprint}.parquet" for shard in shards]
        with ThreadPoolExecutor(READERS) as pool:
            self._write_manifest(list(pool.map(_about, paths)))

    def features(self) -> Features:
        """The sealed shards as one virtual array."""
        return load_features(self.folder)

    def quarantine(self) -> pa.Table:
        """The id and the reason of every image of the sealed shards that could not be read."""
        return stored_rows(self.folder, rejected=True)

    def _write_manifest(self, shards: list[dict[str, Any]]) -> None:
        with atomic_path(self._manifest) as path:
            path.write_text(json.dumps({**self.identity, "shards": shards}, indent=1) + "\n")


def _identity(encoder: ImageEncoder) -> dict[str, Any]:
    """What features depend on."""
    return {
        "schema": SCHEMA,
        "encoder": encoder.name,
        "hash": encoder.hash,
        "transform": json.loads(json.dumps(asdict(encoder.transform))),
        "dim": encoder.dim,
        "precision": encoder.precision,
        "decoder": "pillow" if encoder.device == "cpu" else "nvjpeg",
    }


def _agree(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """The encoder may be known by another name, but must be the same."""
    differing = [key for key in ("hash", "transform", "dim", "precision", "decoder") if found.get(key) != wanted[key]]
    if differing:
        listed = "; ".join(f"{key} {found.get(key)} there, {wanted[key]} here" for key in differing)
        raise ValueError(
            f"features in {str(folder)!r} are of encoder {found.get('encoder')!r}, not of {wanted['encoder']!r}; "
            f"use the same encoder or another folder ({listed})"
        )


def _about(path: Path) -> dict[str, Any]:
    return dict(json.loads(pq.read_schema(readable(path)).metadata[b"gdui"]))
