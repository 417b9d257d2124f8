"""The pictures that a network learns from: all of a source or a sample of them, in memory at one size."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from gdui.images import Shard, Source, Transform, batches
from gdui.images.decode import UnreadableError, decode
from gdui.images.readers import Item
from gdui.labeling.looks import Pixels

__all__ = ["Decoded", "pictures_of"]

LARGEST = 96  # pixels to a side, where none are asked for
DECODED = 256


@dataclass(frozen=True)
class Decoded:
    """Pictures of a source that can be read, and their ids."""

    pixels: Pixels
    ids: list[str]


def pictures_of(
    source: Source, size: int | None, *, most: int | None = None, always: Collection[str] = (), seed: int = 0
) -> Decoded:
    """The pictures of a source, in memory.

    Args:
        size: pixels to a side; None takes the shorter side of the first, at most 96.
        most: of more pictures than this so many are drawn by lot, and those named in `always` beside them.
    """
    if size is None:
        size = min(LARGEST, _first_side(source))
    shards = source.shards if most is None else _drawn(source.shards, most, always, seed)
    taken = list(batches(shards, Transform(size, filter="bilinear"), DECODED))
    ids = [id_ for batch in taken for id_ in batch.ids]
    if not ids:
        raise ValueError(f"source {source.name!r} holds no image that can be read")
    return Decoded(np.concatenate([batch.pixels for batch in taken]), ids)


def _drawn(shards: Sequence[Shard], most: int, always: Collection[str], seed: int) -> Sequence[Shard]:
    """Shards that read only what the lot falls on: a function of id and seed, so the order of files can't matter.

    Nothing else is decoded; where a source does not know how many pictures it has, it is read once to count them.
    """
    counts = [shard.count for shard in shards]
    if None not in counts and sum(count or 0 for count in counts) <= most:
        return shards
    ids = chain.from_iterable(shard.read() for shard in shards)
    lots = np.fromiter((_lot(id_, seed) for id_, _ in ids), np.uint64)
    if len(lots) <= most:
        return shards
    last = int(np.partition(lots, most - 1)[most - 1])

    def read(shard: Shard) -> Iterator[Item]:
        return (item for item in shard.read() if item[0] in always or _lot(item[0], seed) <= last)

    return [replace(shard, read=partial(read, shard)) for shard in shards]


def _lot(id_: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {id_}".encode(), digest_size=8).digest(), "big")


def _first_side(source: Source) -> int:
    """The shorter side of the first picture that can be read."""
    for _, raw in chain.from_iterable(shard.read() for shard in source.shards):
        with suppress(UnreadableError, OSError):
            if isinstance(raw, np.ndarray):
                return int(min(raw.shape[:2]))
            if not isinstance(raw, UnreadableError):
                return min(decode(raw if isinstance(raw, bytes) else raw.read_bytes()).size)
    raise ValueError(f"source {source.name!r} holds no image that can be read")
