"""Labels and pictures that a generator is trained from: what doesn't fit is refused before it costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generators import NAMES, make_labels, quick, two_kinds
from PIL import Image

from gdui.diffusion.gather import store_pictures
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.workflow import train
from gdui.images import open_source


def test_confidence_weighs_and_abstained_images_train_the_unnamed_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Pictures] = []

    def stop(*arguments: Any, **_: Any) -> None:
        given.append(arguments[2])
        raise InterruptedError

    monkeypatch.setattr("gdui.diffusion.workflow.train_network", stop)
    labels, source = two_kinds(4)
    labels = make_labels(labels.ids.to_pylist(), [0, 1, -1, 1], [0.9, 0.3, 0.1, np.nan])
    with pytest.raises(InterruptedError):
        quick(labels, source, tmp_path, weigh=True)
    (pictures,) = given
    assert pictures.weights is not None
    np.testing.assert_allclose(pictures.weights, [1.5, 0.5, 1, 1])
    assert pictures.classes.tolist() == [0, 1, -1, 1]
    assert pictures.named().rows.tolist() == [0, 1, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "huge"}, "preset must be one of 'tiny'"),
        ({"preset": "tinny"}, r"not 'tinny'; did you mean 'tiny'\?"),
        ({"device": "abacus"}, "device must be one that PyTorch can use here, such as 'cpu', not 'abacus'"),
        ({"classifier": "svm"}, "classifier must be one of 'adm', 'spice'"),
        ({"objective": "vae"}, "objective must be one of 'unet'"),
        ({"settings": {"size": 9}}, "image_size must be a multiple of 2"),
        ({"settings": {"recipe.speed": 9}}, "no setting is named 'recipe.speed'"),
        ({"settings": {"speed": 9}}, "no setting is named 'speed'; there is recipe.seed and"),
        ({"settings": {"recipe.batch": 0}}, "batch must be at least 1"),
        ({"settings": {"schedule": "square"}}, "schedule must be one of 'linear'"),
        ({"settings": {"channels": 4}}, "channels must be 1 or 3 for pictures, not 4"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    labels, source = two_kinds()
    with pytest.raises(ValueError, match=words):
        quick(labels, source, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but PyTorch sees no GPU"):
        train(*two_kinds(), tmp_path / "run", preset="tiny", device="cuda")


def test_labels_and_pictures_that_do_not_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, source = two_kinds()
    others = make_labels(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=r"2 of 2 labels have no picture.*such as 'a'.*called like 'p19'"):
        quick(others, source, tmp_path)
    more = make_labels([*labels.ids.to_pylist(), "lost"], [0] * 21)
    with pytest.raises(
        ValueError, match="1 of 21 labels have no picture in 'an array' that can be read, such as 'lost'"
    ):
        quick(more, source, tmp_path, objective="unet")
    assert not list(tmp_path.glob("*.npy"))
    monkeypatch.setattr("gdui.diffusion.gather.batches", None)
    with pytest.raises(ValueError, match="2 of 2 labels have no picture"):
        quick(others, source, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"such as 'a.png' \(not in an image format"):
        quick(make_labels(["a.png"], [0]), folder, tmp_path / "run", objective="unet")
    with pytest.raises(TypeError, match="labels must be a Labels table or the path of one, not int"):
        quick(3, source, tmp_path)


def test_labels_without_two_classes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    ids, source = two_kinds()[0].ids.to_pylist(), two_kinds()[1]
    for label, count in ([0] * 20, 1), ([-1] * 20, 0):
        with pytest.raises(ValueError, match=f"at least two classes for a classifier, not of {count}: train objective"):
            quick(make_labels(ids, label), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_picture_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels, source = two_kinds()
    single = make_labels(labels.ids.to_pylist(), [1] * 20)
    quick(single, source, tmp_path, objective="unet", settings={"recipe.steps": 1})
    assert "no picture is labelled dark: what is drawn of such a class means nothing" in caplog.text


def test_other_settings_or_labels_are_refused_in_a_used_folder(tmp_path: Path) -> None:
    labels, source = two_kinds()
    quick(labels, source, tmp_path / "run", objective="unet")
    with pytest.raises(ValueError, match=r'preset: "tiny" -> "small"'):
        quick(labels, source, tmp_path / "run", preset="small")
    with pytest.raises(ValueError, match=r"recipe.rate: 0.001 -> 0.5"):
        quick(labels, source, tmp_path / "run", settings={"recipe.rate": 0.5})
    changed = make_labels(labels.ids.to_pylist(), [0] * 20)
    with pytest.raises(ValueError, match="begun with other settings"):
        quick(changed, source, tmp_path / "run", objective="unet")
    assert quick(changed, source, tmp_path / "run", mode="overwrite", objective="unet").classifier is None


def test_other_pictures_under_the_same_ids_are_refused_in_a_used_folder(tmp_path: Path) -> None:
    labels, source = two_kinds()
    ids, pixels = labels.ids.to_pylist()[::-1], np.full((20, 8, 8, 1), 99, np.uint8)
    model = quick(labels, source, tmp_path / "run")
    with pytest.raises(ValueError, match=r'begun with other settings(?s:.*)\n  source: "\w+" -> "\w+"$'):
        quick(labels, open_source(pixels, ids=ids, layout="NHWC"), tmp_path / "run")
    again = quick(labels, two_kinds()[1], tmp_path / "run")
    assert again.digest() == model.digest()


def test_a_picture_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    labels = make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1])
    quick(labels, photos, tmp_path / "run", objective="unet")
    Image.new("L", (9, 9), 250).save(photos / "3.png")
    with pytest.raises(ValueError, match=r"\n  source: "):
        quick(labels, photos, tmp_path / "run", objective="unet")
    anew = quick(labels, photos, tmp_path / "run", objective="unet", mode="overwrite")
    assert anew.names == tuple(NAMES)
    assert np.load(tmp_path / "run" / "pictures.npy")[3].min() == 250


def test_pictures_are_decoded_in_colour_or_grey_in_the_labels_order(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", (250, 10, 10)), ("b.png", (90, 90, 90)), ("unlabelled.png", (1, 1, 1))):
        Image.new("RGB", (12, 12), colour).save(folder / name)
    labels = make_labels(["b.png", "a.png"], [0, 1])
    rgb = store_pictures(labels, folder, tmp_path / "rgb.npy", size=8, channels=3)
    grey = store_pictures(labels, folder, tmp_path / "grey.npy", size=6, channels=1)
    assert rgb[:, 0, 0].tolist() == [[90, 90, 90], [250, 10, 10]]
    assert grey[:, 0, 0].tolist() == [[90], [82]]
    assert rgb.shape == (2, 8, 8, 3)
