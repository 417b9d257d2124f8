"""Images to vectors: reads and decodes ahead, encodes, and writes each shard once it is complete."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gdui.images import Batch, Clock, Shard, Source, batches
from gdui.labeling.features.store import FeatureStore, ImageEncoder

__all__ = ["Ledger", "encode_shards", "encode_source"]


@dataclass
class Ledger:
    """What was done and the seconds it took; reading and decoding are summed over their threads.

    encode, beside: of the encoder, and of the one beside it.
    """

    images: int = 0
    quarantined: int = 0
    shards: int = 0
    shards_skipped: int = 0
    clock: Clock = field(default_factory=Clock)
    encode: float = 0.0
    beside: float = 0.0
    write: float = 0.0


def encode_source(
    source: Source,
    encoder: ImageEncoder,
    store: FeatureStore,
    *,
    beside: tuple[ImageEncoder, FeatureStore] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[Ledger], None] | None = None,
) -> Ledger:
    """Encodes every shard that `store` lacks, then seals it; a killed run continues where it stood.

    Args:
        beside: another encoder with its store, that sees the same pictures: they are read and decoded once for both.
        batch_size: how many images are handed to the encoder at once, rounded up to a multiple of its own batch.
        workers: decoding threads; by default one a core.
        progress: called with the ledger so far after each batch.
    """
    ledger = encode_shards(
        source.shards, encoder, store, beside=beside, batch_size=batch_size, workers=workers, progress=progress
    )
    for kept in (store, *([beside[1]] if beside is not None else [])):
        kept.seal(source.shards)
    return ledger


def encode_shards(
    shards: Sequence[Shard],
    encoder: ImageEncoder,
    store: FeatureStore,
    *,
    beside: tuple[ImageEncoder, FeatureStore] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[Ledger], None] | None = None,
) -> Ledger:
    """Encodes those of some shards that `store` lacks; the arguments are those of `encode_source`."""
    if beside is not None and beside[0].transform != encoder.transform:
        raise ValueError("beside must see pictures as the encoder does: their transforms differ")
    pairs = [(encoder, store), *([beside] if beside is not None else [])]
    todo = [shard for shard in shards if any(shard not in kept for _, kept in pairs)]
    ledger = Ledger(shards_skipped=len(shards) - len(todo))
    taken: list[Batch] = []
    features: list[list[npt.NDArray[np.float32]]] = [[] for _ in pairs]
    step = -(-(batch_size or encoder.at_once) // encoder.batch) * encoder.batch
    for batch in batches(todo, encoder.transform, step, workers=workers, clock=ledger.clock, device=encoder.device):
        times = [time.perf_counter()]
        for (asked, kept), parts in zip(pairs, features, strict=True):
            if batch.shard not in kept:
                parts.append(asked.encode_images(batch.pixels))
            times.append(time.perf_counter())
        ledger.encode += times[1] - times[0]
        ledger.beside += times[-1] - times[1]
        taken.append(batch)
        ledger.images += len(batch.ids)
        ledger.quarantined += len(batch.rejected)
        if batch.last:
            for (_, kept), parts in zip(pairs, features, strict=True):
                if parts:
                    _write_shard(kept, taken, parts, ledger)
            ledger.shards += 1
            taken, features = [], [[] for _ in pairs]
        if progress is not None:
            progress(ledger)
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
