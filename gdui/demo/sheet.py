"""A contact sheet: one picture from which a person sees how good a labelling is."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gdui.drawing import ACCENT, FAINT, PAGE, TEXT, fitted, font, stacked
from gdui.labels import Labels
from gdui.runs import atomic_path

__all__ = ["contact_sheet"]

CELL, GAP, EDGE, GUTTER = 68, 8, 56, 52
SUREST, LEAST, CHANGED_ROWS = 11, 7, 3
NAMES_WIDTH = 3 * (CELL + GAP) - GUTTER  # so that both parts end at one edge
LEFT = EDGE + NAMES_WIDTH
MIDDLE = LEFT + SUREST * (CELL + GAP) + GUTTER
WIDTH = MIDDLE + LEAST * (CELL + GAP) - GAP + EDGE
COLUMNS = (WIDTH - 2 * EDGE + GAP) // (CELL + GAP)

Indices = npt.NDArray[np.integer]
Pixels = npt.NDArray[np.uint8]


def contact_sheet(pictures: Pixels, labels: Labels, path: Path) -> None:
    """Writes a PNG: the surest and the least sure images of every class, and images on which the opinion was overruled.

    Args:
        pictures: [N, H, W] or [N, H, W, 3], in the order of the labels.
        labels: of the same images.
        path: the file to write.
    """
    if len(pictures) != len(labels):
        raise ValueError(f"pictures must be as many as the labels, {len(labels)}, not {len(pictures)}")
    label, opinion = labels.label_index, labels.indices("clip_label")
    order = np.argsort(-labels.numbers("confidence"), kind="stable")
    members = [order[label[order] == index] for index in range(len(labels.classes))]
    changed = order[(label[order] != opinion[order]) & (label[order] >= 0) & (opinion[order] >= 0)]
    strips = [
        _heading(labels),
        *(_class_row(pictures, name, rows) for name, rows in zip(labels.classes, members, strict=True)),
        *_changes(pictures, labels, _interleaved(changed, label)),
        _strip(EDGE - GAP),
    ]
    with atomic_path(path) as temporary:
        stacked(strips).save(temporary, format="PNG", optimize=True)


def _heading(labels: Labels) -> Image.Image:
    strip = _strip(172)
    pen = ImageDraw.Draw(strip)
    pen.text((EDGE, EDGE), f"{len(labels):,} images, {len(labels.classes)} names", TEXT, font(34, bold=True))
    baseline = strip.height - 14
    pen.text((LEFT, baseline), "surest of each class", FAINT, font(17), anchor="ls")
    pen.text((MIDDLE, baseline), "least sure", FAINT, font(17), anchor="ls")
    return strip


def _class_row(pictures: Pixels, name: str, rows: Indices) -> Image.Image:
    """A class, its images given from the surest on; no image stands in the row twice."""
    strip = _strip(CELL + GAP)
    pen = ImageDraw.Draw(strip)
    pen.text(
        (EDGE, CELL // 2 + 2), fitted(name, font(22, bold=True), NAMES_WIDTH - 20), TEXT, font(22, bold=True), "ls"
    )
    pen.text((EDGE, CELL // 2 + 8), f"{len(rows):,} images", FAINT, font(14), "la")
    _paste(strip, pictures, rows[:SUREST], LEFT)
    _paste(strip, pictures, rows[SUREST:][::-1][:LEAST], MIDDLE)
    return strip


def _changes(pictures: Pixels, labels: Labels, changed: Indices) -> list[Image.Image]:
    """Images whose label is not what the opinion called them, in rows, each with both names below it."""
    title = _strip(92)
    pen = ImageDraw.Draw(title)
    pen.text((EDGE, 46), f"{len(changed):,} labels are not what the opinion said", TEXT, font(22, bold=True), "ls")
    pen.text((EDGE, 72), "its name above, the label's below", FAINT, font(15), "ls")
    shown = changed[: CHANGED_ROWS * COLUMNS]
    return [title, *(_change_row(pictures, labels, shown[at : at + COLUMNS]) for at in range(0, len(shown), COLUMNS))]


def _change_row(pictures: Pixels, labels: Labels, rows: Indices) -> Image.Image:
    strip = _strip(CELL + 54)
    pen = ImageDraw.Draw(strip)
    _paste(strip, pictures, rows, EDGE)
    label, opinion = labels.label_index[rows], labels.indices("clip_label")[rows]
    for column, (before, after) in enumerate(zip(opinion, label, strict=True)):
        middle = EDGE + column * (CELL + GAP) + CELL // 2
        for index, y, colour in ((before, 17, FAINT), (after, 35, ACCENT)):
            pen.text((middle, CELL + y), fitted(labels.classes[index], font(14), CELL + 4), colour, font(14), "ms")
    return strip


def _interleaved(rows: Indices, label: Indices) -> Indices:
    """The first of every class, then the second of every class, and so on."""
    seen: dict[int, int] = {}
    turn = np.empty(len(rows), np.int64)
    for at, index in enumerate(label[rows].tolist()):
        turn[at] = seen[index] = seen.get(index, -1) + 1
    return rows[np.lexsort((label[rows], turn))]


def _paste(strip: Image.Image, pictures: Pixels, rows: Indices, left: int) -> None:
    for column, row in enumerate(rows.tolist()):
        tile = Image.fromarray(pictures[row]).convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
        strip.paste(tile, (left + column * (CELL + GAP), 0))


def _strip(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH, height), PAGE)
