"""Brings labels and pictures together by their ids, and decodes every labelled picture once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui.diffusion.pictures import store_pixels
from gdui.images import Batch, Source, Transform, batches, open_source
from gdui.labels import Labels

__all__ = ["Progress", "confidence_weights", "store_pictures"]

Progress = Callable[[str, int, int], None]
Pixels = npt.NDArray[np.uint8]
LUMINANCE = (0.299, 0.587, 0.114)
DECODED = 64


def store_pictures(
    labels: Labels, source: Any, path: Path, *, size: int, channels: int, progress: Progress | None = None
) -> Pixels:
    """The pictures [N, size, size, channels] of the labels, in their order, as a mapped .npy file.

    Pictures without a row in the labels are left out; a row without a picture is an error, and nothing is written.
    """
    if not len(labels):
        raise ValueError("labels must hold at least one image")
    opened = open_source(source)
    if lost := opened.lacks(labels.ids.to_pylist()):
        raise _apart(lost[0], len(lost), len(labels), opened, f"; its pictures are called like {opened.example!r}")
    decoded = batches(opened.shards, Transform(size=size), DECODED)
    blocks = _matched(labels, opened, decoded, progress)
    placed = ((rows, _channels(pixels, channels)) for rows, pixels in blocks)
    return store_pixels(path, len(labels), (size, size, channels), placed)


def _matched(
    labels: Labels, source: Source, decoded: Iterator[Batch], progress: Progress | None
) -> Iterator[tuple[npt.NDArray[np.integer], Pixels]]:
    """Pictures, and the row of the labels that each belongs to."""
    row_of = {id_: row for row, id_ in enumerate(labels.ids.to_pylist())}
    reasons: dict[str, str] = {}
    example, total = "", len(row_of)
    missing = set(row_of)
    for batch in decoded:
        reasons |= {one.id: one.reason for one in batch.rejected}
        example = example or next(iter(batch.ids), "")
        kept = [at for at, id_ in enumerate(batch.ids) if id_ in row_of]
        missing.difference_update(batch.ids)
        if progress:
            progress("pictures", total - len(missing), total)
        yield np.array([row_of[batch.ids[at]] for at in kept], np.int64), batch.pixels[kept]
    if missing:
        lost = min(missing, key=lambda id_: row_of[id_])
        why = f" ({reasons[lost]})" if lost in reasons else f"; its pictures are called like {example!r}"
        raise _apart(lost, len(missing), total, source, why)


def _apart(lost: str, missing: int, total: int, source: Source, why: str) -> ValueError:
    return ValueError(
        f"labels and source don't fit together: {missing:,} of {total:,} labels have no picture in "
        f"{source.name!r} that can be read, such as {lost!r}{why}"
    )


def _channels(pixels: Pixels, channels: int) -> Pixels:
    if channels == 3:
        return pixels
    return np.rint(pixels @ np.array(LUMINANCE, np.float32)).astype(np.uint8)[..., None]


def confidence_weights(labels: Labels) -> npt.NDArray[np.float32]:
    """The labels' confidences, scaled to a mean of one; images without a label, or without a confidence, weigh one."""
    confidence = labels.numbers("confidence").astype(np.float32)
    told = np.isfinite(confidence) & (labels.label_index >= 0)
    mean = float(confidence[told].mean()) if told.any() else 1.0
    return np.where(told, confidence / max(mean, 1e-6), np.float32(1)).astype(np.float32)
