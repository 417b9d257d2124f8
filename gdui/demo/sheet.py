"""A contact sheet: one picture from which a person sees how good a labelling is, and what a generator made of it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gdui.drawing import ACCENT, FAINT, PAGE, TEXT, fitted, font, in_greys, stacked
from gdui.labels import Labels
from gdui.runs import atomic_path

__all__ = ["DRAWN", "contact_sheet"]

# Twice as large as a README shows it, where type of 26 is one of 13.
WIDTH, EDGE, NAMES_WIDTH, GUTTER = 1680, 44, 210, 40
CELL, GAP, APART = 62, 5, 50
LEAST, DRAWN = 4, 7
LEFT, RIGHT = EDGE + NAMES_WIDTH, WIDTH - EDGE
SMALL, LARGE = 26, 30
CHANGES = (RIGHT - EDGE + APART) // (CELL + APART)

Indices = npt.NDArray[np.integer]
Pixels = npt.NDArray[np.uint8]


def contact_sheet(pictures: Pixels, labels: Labels, path: Path, drawn: Pixels | None = None) -> None:
    """Writes a PNG: the surest and the least sure images of every class, and images on which the opinion was overruled.

    Args:
        pictures: [N, H, W] or [N, H, W, 3], in the order of the labels.
        labels: of the same images.
        path: the file to write.
        drawn: [C, DRAWN, H, W] or [C, DRAWN, H, W, 3], new images of every class, which stand beside its own.
    """
    if len(pictures) != len(labels):
        raise ValueError(f"pictures must be as many as the labels, {len(labels)}, not {len(pictures)}")
    label, opinion = labels.label_index, labels.indices("clip_label")
    order = np.argsort(-labels.numbers("confidence"), kind="stable")
    members = [order[label[order] == index] for index in range(len(labels.classes))]
    changed = order[(label[order] != opinion[order]) & (label[order] >= 0) & (opinion[order] >= 0)]
    new = [None] * len(labels.classes) if drawn is None else list(drawn)
    strips = [
        _heading(labels, drawn is not None),
        *(_class_row(pictures, *row) for row in zip(labels.classes, members, new, strict=True)),
        *_changes(pictures, labels, _interleaved(changed, label)[:CHANGES], len(changed)),
    ]
    page = stacked(strips)
    with atomic_path(path) as temporary:
        (in_greys(page) if pictures.ndim == 3 else page).save(temporary, format="PNG", optimize=True)


def _columns(with_drawn: bool) -> tuple[int, int, int]:
    """Where the least sure and the drawn images begin, and how many of the surest fit before them."""
    drawn = RIGHT - DRAWN * (CELL + GAP) + GAP
    least = (drawn - GUTTER if with_drawn else RIGHT) - LEAST * (CELL + GAP) + GAP
    return least, drawn, (least - GUTTER - LEFT + GAP) // (CELL + GAP)


def _heading(labels: Labels, with_drawn: bool) -> Image.Image:
    strip = _strip(96)
    pen, baseline = ImageDraw.Draw(strip), 78
    least, drawn, _ = _columns(with_drawn)
    pen.text((EDGE, baseline), f"{len(labels):,} images", TEXT, font(SMALL), "ls")
    pen.text((LEFT, baseline), "labelled, the surest first", FAINT, font(SMALL), "ls")
    pen.text((least, baseline), "the least sure", FAINT, font(SMALL), "ls")
    if with_drawn:
        pen.text((drawn, baseline), "drawn by name", ACCENT, font(SMALL), "ls")
    return strip


def _class_row(pictures: Pixels, name: str, rows: Indices, drawn: Pixels | None) -> Image.Image:
    """A class, its images given from the surest on; no image stands in the row twice."""
    strip = _strip(CELL + GAP)
    pen, middle = ImageDraw.Draw(strip), CELL // 2
    count = f"{len(rows):,}"
    room = NAMES_WIDTH - 44 - round(font(SMALL).getlength(count))
    pen.text((EDGE, middle), fitted(name, font(LARGE, bold=True), room), TEXT, font(LARGE, bold=True), "lm")
    pen.text((LEFT - 24, middle), count, FAINT, font(SMALL), "rm")
    least, left, surest = _columns(drawn is not None)
    _paste(strip, pictures[rows[:surest]], LEFT)
    _paste(strip, pictures[rows[surest:][::-1][:LEAST]], least)
    if drawn is not None:
        _paste(strip, drawn, left)
    return strip


def _changes(pictures: Pixels, labels: Labels, rows: Indices, count: int) -> list[Image.Image]:
    """Images whose label is not what the opinion called them, below each the opinion's name and the label."""
    title, strip = _strip(84), _strip(CELL + EDGE + 84)
    pen = ImageDraw.Draw(title)
    said = f"{count:,} labels are not what the encoder said"
    pen.text((EDGE, 58), said, TEXT, font(LARGE, bold=True), "ls")
    after = EDGE + font(LARGE, bold=True).getlength(said) + 24
    pen.text((after, 58), "its name is struck out, the label stands below", FAINT, font(SMALL), "ls")
    _paste(strip, pictures[rows], EDGE + APART // 2, APART)
    label, opinion = labels.label_index[rows], labels.indices("clip_label")[rows]
    for column, (before, after_) in enumerate(zip(opinion, label, strict=True)):
        _renamed(strip, EDGE + APART // 2 + column * (CELL + APART) + CELL // 2, labels.classes, before, after_)
    return [title, strip]


def _renamed(strip: Image.Image, middle: int, classes: list[str], before: int, after: int) -> None:
    """Two names below an image, the upper one struck out."""
    pen, room = ImageDraw.Draw(strip), CELL + APART - 10
    for index, y, colour in ((before, CELL + 32, FAINT), (after, CELL + 64, ACCENT)):
        pen.text((middle, y), fitted(classes[index], font(SMALL), room), colour, font(SMALL), "ms")
    half = font(SMALL).getlength(fitted(classes[before], font(SMALL), room)) / 2
    pen.line((middle - half, CELL + 24, middle + half, CELL + 24), FAINT, 2)


def _interleaved(rows: Indices, label: Indices) -> Indices:
    """The first of every class, then the second of every class, and so on."""
    seen: dict[int, int] = {}
    turn = np.empty(len(rows), np.int64)
    for at, index in enumerate(label[rows].tolist()):
        turn[at] = seen[index] = seen.get(index, -1) + 1
    return rows[np.lexsort((label[rows], turn))]


def _paste(strip: Image.Image, pictures: Pixels, left: int, apart: int = GAP) -> None:
    for column, picture in enumerate(pictures):
        tile = Image.fromarray(picture).convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
        strip.paste(tile, (left + column * (CELL + apart), 0))


def _strip(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH, height), PAGE)
