"""Drawn images on disk: a folder a class, a file an image; what is there already isn't drawn again."""

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gdui.diffusion.gather import Progress
from gdui.diffusion.generator import Asked, Classes, Drawing, Generator
from gdui.diffusion.grid import write_grid
from gdui.images.folders import DRAWN_FACTS as FACTS
from gdui.images.folders import DRAWN_GRID as GRID
from gdui.labels.export import folder_names
from gdui.runs import atomic_path

__all__ = ["GRID", "draw_into"]

UNNAMED = "unnamed"
GRID_COLUMNS, GRID_ROWS = 12, 20


def draw_into(
    folder: str | os.PathLike[str],
    model: Generator,
    classes: Classes = None,
    n: int | Sequence[int] = 1,
    *,
    progress: Progress | None = None,
    **how: Any,
) -> int:
    """Draws what `Generator.sample` would into folder/CLASS/NUMBER.png and grid.png; returns how many are new.

    A stopped call goes on where it was, and a larger `n` adds to what is there; another model or way of drawing is
    refused.
    """
    folder, drawing = Path(folder), Drawing(**how)
    asked = model.asked(classes, n, drawing)
    batches = model.draw(asked, np.arange(0), drawing)
    next(batches, None)  # mistakes show before anything is written
    _agree(folder, model, drawing, asked)
    files = _files(folder, model, asked)
    missing = np.array([row for row, file in enumerate(files) if not file.exists()], np.int64)
    for path in {file.parent for file in files}:
        path.mkdir(parents=True, exist_ok=True)
    done = 0
    for images in model.draw(asked, missing, drawing, progress):
        for row, image in zip(missing[done:], images, strict=False):
            _write(files[row], image)
        done += len(images)
    _grid(folder, model, asked, files)
    return done


def _files(folder: Path, model: Generator, asked: Asked) -> list[Path]:
    """Where each image goes: by its class and its number in it."""
    names, seen = [*folder_names(list(model.names)), UNNAMED], dict[int, int]()
    files = []
    for index in asked.classes.tolist():
        seen[index] = seen.get(index, -1) + 1
        files.append(folder / names[index] / f"{seen[index]:06d}.png")
    return files


def _write(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """A whole file or none; thousands of them aren't synced one by one."""
    temporary = path.with_suffix(".part")
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(temporary, format="PNG")
    temporary.replace(path)


def _agree(folder: Path, model: Generator, drawing: Drawing, asked: Asked) -> None:
    """Notes how the images are drawn, or refuses if those that are there were drawn otherwise."""
    told = {one.name: getattr(drawing, one.name) for one in fields(Drawing) if one.name not in ("compile", "weaker")}
    scales = {int(index): float(asked.scales[asked.classes == index][0]) for index in np.unique(asked.classes)}
    facts = json.loads(
        json.dumps(
            told | {"guidance": scales, "model": model.digest(), "weaker": drawing.weaker and drawing.weaker.digest()}
        )
    )
    path = folder / FACTS
    before = _told(path) if path.exists() else facts
    common = before["guidance"].keys() & facts["guidance"].keys()
    changed = [name for name in facts if name != "guidance" and before.get(name) != facts[name]]
    changed += ["guidance"] * any(before["guidance"][index] != facts["guidance"][index] for index in common)
    if changed:
        listed = ", ".join(f"{name}: {before.get(name)} -> {facts[name]}" for name in changed)
        raise ValueError(f"{folder} holds images that were drawn otherwise ({listed}): choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        facts["guidance"] |= before["guidance"]
        temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _told(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dict(told["guidance"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged and doesn't say how images were drawn: choose another folder") from None
    return told


def _grid(folder: Path, model: Generator, asked: Asked, files: list[Path]) -> None:
    """The first images of the first classes, as one picture."""
    indices = list(dict.fromkeys(asked.classes.tolist()))[:GRID_ROWS]
    least = min(int((asked.classes == index).sum()) for index in indices)
    shown = min(GRID_COLUMNS, least) if indices != [-1] else min(8 * GRID_COLUMNS, least)
    rows = np.concatenate([np.flatnonzero(asked.classes == index)[:shown] for index in indices])
    images = np.stack([np.array(Image.open(files[row])) for row in rows])
    names = [model.names[index] for index in indices if index >= 0]
    write_grid(folder / GRID, images if images.ndim == 4 else images[..., None], names)
