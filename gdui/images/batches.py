"""Reads and decodes ahead of whoever takes the batches, in an order that depends on the source alone."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdui import checks
from gdui.images.decode import Transform, UnreadableError
from gdui.images.nvjpeg import decoded
from gdui.images.readers import Raw
from gdui.images.shards import Shard

__all__ = ["Batch", "Clock", "Rejected", "batches"]

Pixels = npt.NDArray[np.uint8]


class Rejected(NamedTuple):
    """An image that can't be read."""

    id: str
    reason: str


@dataclass
class Batch:
    """Some images of one shard; every shard ends with a batch that is its `last`, be it empty."""

    shard: Shard
    ids: list[str]
    pixels: Pixels
    rejected: list[Rejected]
    last: bool


@dataclass
class Clock:
    """Seconds of work, summed over the threads that did it."""

    read: float = 0.0
    decode: float = 0.0


class _Decoded(NamedTuple):
    result: Pixels | UnreadableError
    read: float
    decode: float


Decoder = Callable[[Raw], _Decoded]


@dataclass
class _End:
    error: BaseException | None = None


@dataclass
class _Item:
    shard: Shard
    id: str = ""
    work: "Future[_Decoded] | None" = None  # None: the shard ends here
    read: float = 0.0


@dataclass
class _Building:
    ids: list[str] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def finish(self, shard: Shard, transform: Transform, last: bool) -> Batch:
        side = transform.size
        stacked = np.stack(self.pixels) if self.pixels else np.empty((0, side, side, 3), np.uint8)
        return Batch(shard, self.ids, stacked, self.rejected, last)


def batches(
    shards: Iterable[Shard],
    transform: Transform,
    batch_size: int,
    *,
    workers: int | None = None,
    clock: Clock | None = None,
    device: str = "cpu",
) -> Iterator[Batch]:
    """Batches of `batch_size` decoded images, shard after shard; a shard's last batch may be smaller.

    Threads decode (Pillow lets go of the interpreter lock while it does), one more reads; both run ahead by a bounded
    number of images. Where `device` is a GPU, it decodes the JPEGs. What comes out does not depend on their number.
    """
    checks.in_range("batch_size", batch_size, 1, 65536)
    workers = checks.thread_count(workers)
    clock = clock or Clock()
    building, decode = _Building(), partial(_decode, transform=transform, device=device)
    for item in _ahead(shards, decode, workers, ahead=2 * batch_size + 2 * workers):
        clock.read += item.read
        if item.work is None:
            yield building.finish(item.shard, transform, last=True)
            building = _Building()
            continue
        _add(building, item.id, item.work.result(), clock)
        if len(building.ids) == batch_size:
            yield building.finish(item.shard, transform, last=False)
            building = _Building()


def _add(building: _Building, id_: str, decoded: _Decoded, clock: Clock) -> None:
    clock.read += decoded.read
    clock.decode += decoded.decode
    if isinstance(decoded.result, UnreadableError):
        building.rejected.append(Rejected(id_, decoded.result.reason))
    else:
        building.ids.append(id_)
        building.pixels.append(decoded.result)


def _ahead(shards: Iterable[Shard], decode: Decoder, workers: int, ahead: int) -> Iterator[_Item]:
    """Items in the source's order, at most `ahead` of them in flight."""
    waiting: queue.Queue[_Item | _End] = queue.Queue(ahead)
    stop = threading.Event()
    with ThreadPoolExecutor(workers, "gdui-decode") as pool:
        read = partial(_read, shards, decode, pool, waiting, stop)
        reader = threading.Thread(target=read, name="gdui-read", daemon=True)
        reader.start()
        try:
            while isinstance(item := waiting.get(), _Item):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            stop.set()
            reader.join()
            pool.shutdown(cancel_futures=True)


def _read(
    shards: Iterable[Shard],
    decode: Decoder,
    pool: ThreadPoolExecutor,
    waiting: "queue.Queue[_Item | _End]",
    stop: threading.Event,
) -> None:
    try:
        for shard in shards:
            start = time.perf_counter()
            for id_, raw in shard.read():
                took = time.perf_counter() - start
                if not _put(waiting, _Item(shard, id_, pool.submit(decode, raw), took), stop):
                    return
                start = time.perf_counter()
            _put(waiting, _Item(shard), stop)
        _put(waiting, _End(), stop)
    except BaseException as error:  # handed over to the thread that takes the batches
        _put(waiting, _End(error), stop)


def _put(waiting: "queue.Queue[_Item | _End]", item: _Item | _End, stop: threading.Event) -> bool:
    """Waits for room, but not after `stop`."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _decode(raw: Raw, transform: Transform, device: str) -> _Decoded:
    start = read = time.perf_counter()
    try:
        if isinstance(raw, UnreadableError):
            return _Decoded(raw, 0.0, 0.0)
        data = raw.read_bytes() if isinstance(raw, Path) else raw
        read = time.perf_counter()
        result: Pixels | UnreadableError = decoded(data, transform, device)
    except (UnreadableError, OSError) as error:
        result = UnreadableError.because(error)
    return _Decoded(result, read - start, time.perf_counter() - read)
