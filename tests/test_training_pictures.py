"""The pictures that training sees: each once an epoch, from a store that is whole or absent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import RECIPE, pictures

from gdui.diffusion.pictures import Pictures, store_pixels
from gdui.diffusion.recipe import draw


def test_an_epoch_shows_every_picture_once() -> None:
    seen = pictures(24)
    pixels = np.arange(24, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    numbered = Pictures(pixels, seen.classes, seen.names)
    drawn = [draw(step, numbered, RECIPE).batch.x0[:, 0, 0, 0] for step in range(3)]
    shown = ((torch.cat(drawn) + 1) * 127.5).round().int()
    assert sorted(shown.tolist()) == list(range(24))


def test_a_store_is_whole_or_absent(tmp_path: Path) -> None:
    blocks = [(np.arange(value - 1, 6, 2), np.full((3, 2, 2, 3), value, np.uint8)) for value in (1, 2)]
    store = store_pixels(tmp_path / "pixels.npy", 6, (2, 2, 3), blocks)
    assert store[:, 0, 0, 0].tolist() == [1, 2, 1, 2, 1, 2]
    with pytest.raises(ValueError, match="was to hold 7 pictures, but 6 came"):
        store_pixels(tmp_path / "short.npy", 7, (2, 2, 3), blocks)
    assert not (tmp_path / "short.npy").exists()


@pytest.mark.parametrize(
    ("pixels", "classes", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), [0, 0], "shape"),
        (np.zeros((2, 8, 8, 3)), [0, 0], "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), [], "at least one"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, 5], "below 2"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0], "2 entries"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pixels: np.ndarray, classes: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pictures(pixels, np.array(classes, np.int64), ("a", "b"))
