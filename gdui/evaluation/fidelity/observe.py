"""Looks at every image of a source once, batch by batch, and keeps what the scores need of it."""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from gdui import checks
from gdui.evaluation.fidelity.networks import Looks, Network
from gdui.evaluation.fidelity.statistics import Moments, Stream, merged
from gdui.images import Source, Transform, UnreadableError, batches, decode, open_source
from gdui.runs import atomic_path
from gdui.training.ranks import from_first, place

__all__ = ["Observed", "observe", "observe_reference", "side_of"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
READ_AT_ONCE = 256


@dataclass(frozen=True)
class Observed:
    """What a network saw in a set of images: pooled features [N, d], moments of the spatial ones, logits [N, C]."""

    network: str
    hash: str
    pooled: Floats
    spatial: Moments | None
    logits: Floats | None

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def samples(self) -> int:
        """How many images there were."""
        return len(self)


def observe(
    source: Any, network: Network, *, size: int, samples: int | None = None, progress: Progress | None = None
) -> Observed:
    """Looks at the images of `source`, or at the first `samples` of them.

    Under torchrun the ranks share the batches; each then knows all. Images and spatial features are never all in
    memory. What comes out does not depend on how the images were read.

    Args:
        source: a folder, shards, Parquet or arrays of images, as for labelling.
        size: to which side they are brought where they have another one: scaled, then cut to the centre.
    """
    opened = open_source(source)
    rank, ranks = place()
    seen = _Seen()
    for number, pixels in enumerate(_cut(_pixels(opened, size, samples), network.batch)):
        if number % ranks == rank:
            seen.add(number, network.look(pixels))
        if progress is not None and rank == 0:
            progress("evaluate", number * network.batch + len(pixels), samples or 0)
    found = seen.finish(network, opened.name)
    if samples is not None and len(found) < samples:
        raise ValueError(f"samples must be at most {len(found)}, the images of {opened.name}, not {samples}")
    return found


def observe_reference(
    source: Any,
    network: Network,
    *,
    size: int,
    samples: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Observed:
    """`observe`, kept by the first rank in the folder `cache` under a hash of the pixels and of the network."""
    if cache is None:
        return observe(source, network, size=size, samples=samples, progress=progress)

    def kept() -> tuple[Path, Observed | None]:
        path = Path(cache) / f"{_content(open_source(source), network, size, samples)}.npz"
        return path, _read(path, network) if path.exists() else None

    path, known = from_first(kept)
    if known is not None:
        return known
    seen = observe(source, network, size=size, samples=samples, progress=progress)
    if place()[0] == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, seen)
    return seen


def side_of(source: Any) -> int:
    """The shorter side of the first image that can be read."""
    opened = open_source(source)
    for _, raw in (item for shard in opened.shards for item in shard.read()):
        data = raw.read_bytes() if isinstance(raw, Path) else raw
        if isinstance(data, bytes):
            with contextlib.suppress(UnreadableError):
                return min(decode(data).size)
        if isinstance(data, np.ndarray):
            return int(min(data.shape[:2]))
    raise ValueError(f"source {opened.name} holds no image that can be read")


def _pixels(source: Source, size: int, samples: int | None) -> Iterator[Pixels]:
    left = checks.whole("samples", samples, 1) if samples is not None else 1 << 62
    for batch in batches(source.shards, Transform(size=checks.whole("size", size, 1)), READ_AT_ONCE):
        if batch.rejected:
            first = batch.rejected[0]
            raise ValueError(f"image {first.id} of {source.name} can't be read: {first.reason}")
        if left <= 0:
            return
        yield batch.pixels[:left]
        left -= len(batch.pixels)


def _cut(parts: Iterator[Pixels], size: int) -> Iterator[Pixels]:
    """The same images in batches of `size`, the last one smaller."""
    single = (image for part in parts for image in part)
    while taken := list(islice(single, size)):
        yield np.stack(taken)


class _Seen:
    """What one rank has seen so far, by the number of the batch."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Floats, Floats | None]] = {}
        self._spatial: Stream | None = None

    def add(self, number: int, looks: Looks) -> None:
        self._kept[number] = (looks.pooled, looks.logits)
        if looks.spatial is not None:
            self._spatial = self._spatial or Stream()
            self._spatial.add(looks.spatial)

    def finish(self, network: Network, source: str) -> Observed:
        """All ranks' batches in their order, and the moments of all."""
        kept, spatial = self._kept, None if self._spatial is None else self._spatial.finish()
        if dist.is_initialized():
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, (kept, spatial))
            kept = {number: one for part, _ in everyone for number, one in part.items()}
            spatial = merged([own for _, own in everyone if own is not None])
        if not kept:
            raise ValueError(f"source {source} holds no image")
        pooled, logits = zip(*(kept[number] for number in sorted(kept)), strict=True)
        known = [part for part in logits if part is not None]
        return Observed(
            network.name, network.hash, np.concatenate(pooled), spatial, np.concatenate(known) if known else None
        )


def _content(source: Source, network: Network, size: int, samples: int | None) -> str:
    digest = hashlib.sha256(f"{network.name} {network.hash} {size} ".encode())
    for part in _pixels(source, size, samples):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]


def _write(path: Path, seen: Observed) -> None:
    arrays: dict[str, Any] = {"pooled": seen.pooled}
    if seen.logits is not None:
        arrays["logits"] = seen.logits
    if seen.spatial is not None:
        arrays |= {"count": seen.spatial.count, "mean": seen.spatial.mean, "scatter": seen.spatial.scatter}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path, network: Network) -> Observed:
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"the cached statistics {path} are damaged ({error}): delete the file") from None
    spatial = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"]) if "count" in arrays else None
    return Observed(network.name, network.hash, arrays["pooled"], spatial, arrays.get("logits"))
