"""Arrays, in memory and on disk, as sources of pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, picture, read

from gdui.images import open_source


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays(convert: Callable[[Any], Any], dtype: str, rng: np.random.Generator) -> None:
    whole = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    given_ = whole if dtype == "uint8" else (whole / np.float32(255))
    for images in (given_, np.ascontiguousarray(np.moveaxis(given_, 3, 1))):
        ids, pixels, rejected = read(open_source(convert(images)))
        assert (ids, rejected) == (["0", "1", "2"], {})
        assert np.array_equal(pixels, whole)


def test_grey_arrays_and_alpha_arrays(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (2, 8, 8), np.uint8)
    assert np.array_equal(read(open_source(grey))[1], np.repeat(grey[..., None], 3, axis=3))
    assert (read(open_source(np.zeros((2, 8, 8, 4), np.uint8)))[1] == 255).all()


def test_npy_and_npz_files(tmp_path: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images=images, labels=np.arange(5))
    for name in ("a.npy", "b.npz"):
        source = open_source(tmp_path / name)
        assert np.array_equal(read(source)[1], images)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "d.npy").write_bytes(b"text")
    for name in ("c.npy", "d.npy"):
        with pytest.raises(ValueError, match="not an array that can be read"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("shape", [(4, 3, 8, 3), (4, 1, 1, 1), (8, 8, 3), (8, 8), (2, 8, 8, 5), (2, 2, 8, 8, 3)])
def test_ambiguous_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"is ambiguous, or no images: give layout="):
        open_source(np.zeros(shape, np.uint8))


def test_a_layout_settles_it() -> None:
    assert read(open_source(np.zeros((4, 3, 8, 3), np.uint8), layout="NCHW"))[1].shape == (4, 8, 8, 3)
    with pytest.raises(ValueError, match=r"layout must be .* not 'NHW'"):
        open_source(np.zeros((4, 3, 8, 3), np.uint8), layout="NHW")
    with pytest.raises(TypeError, match="must be uint8 or floats"):
        open_source(np.zeros((2, 8, 8, 3), np.int64))
    with pytest.raises(TypeError, match=r"source must be a path, .* not dict"):
        open_source({})


def test_floats_out_of_range_are_rejected() -> None:
    images = np.zeros((3, 8, 8, 3), np.float32)
    images[1, 0, 0, 0], images[2, 0, 0, 0] = -1, np.nan
    ids, _, rejected = read(open_source(images, ids=["a", "b", "c"]))
    assert ids == ["a"]
    assert rejected == {"b": "floats must be in [0, 1], not [-1, 0]", "c": "floats must be in [0, 1], not [nan, nan]"}


def test_ids_must_fit() -> None:
    with pytest.raises(ValueError, match="ids must be 2 different names, not 2 \\(1 different\\)"):
        open_source(np.zeros((2, 8, 8, 3), np.uint8), ids=["a", "a"])


def test_encoded_files_in_memory() -> None:
    ids, _, rejected = read(open_source([encoded(picture()), b"text"]))
    assert (ids, list(rejected)) == (["0"], ["1"])
