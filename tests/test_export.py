"""Labels for other tools: what they get is what the labels say, and hostile names never leave the folder."""

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui.labels import Facts, Labels
from gdui.labels.export import folder_names

HOSTILE = [
    "../../up",
    "a/b",
    "a\nb",
    "",
    ".hidden",
    "x" * 100_000,
    "<script>",
    "con\0",
    "A_b",
    "a_B",
    "ünïcode 猫",
    "\ud7ff",
]


def make(index: list[int], classes: list[str], ids: list[str] | None = None, **changes: Any) -> Labels:
    n = len(index)
    arrays: dict[str, Any] = {
        "label_index": index,
        "confidence": np.linspace(0.9, 0.6, n),
        "matched_index": index,
        "cluster": [0] * n,
        "cluster_confidence": [1.0] * n,
        "consistency": [1.0] * n,
        "clip_index": [0] * n,
        "clip_confidence": [0.5] * n,
        "clip_second_index": [len(classes) - 1] * n,
        "rule": ["cluster"] * n,
    } | changes
    return Labels.from_arrays(ids or [f"{i}.jpg" for i in range(n)], classes, **arrays, facts=Facts())


def pictures(folder: Path, ids: list[str]) -> Path:
    for one in ids:
        path = folder / one
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one)
    return folder


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_pandas_has_names_as_categories() -> None:
    pytest.importorskip("pandas")
    frame = make([1, -1], ["cat", "dog"]).to_pandas()
    assert frame["label"].isna().tolist() == [False, True]
    assert frame["label"].cat.categories.tolist() == ["cat", "dog"]


def test_without_pandas_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pandas")
    with pytest.raises(ImportError, match="pip install pandas"):
        make([0], ["cat"]).to_pandas()


def test_cleanlab_gets_the_rival_class() -> None:
    labels = make([0, 1, 2], ["a", "b", "c"], confidence=[0.9, 0.3, np.nan])
    index, probabilities = labels.to_cleanlab()
    assert index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(probabilities, [[0.9, 0, 0.1], [0.7, 0.3, 0], [0, 0, 1]], atol=1e-6)


def test_cleanlab_shares_out_what_no_opinion_claims() -> None:
    labels = make([0, 1], ["a", "b", "c"], clip_index=[-1, -1], clip_second_index=[-1, -1], confidence=[0.8, 0.4])
    np.testing.assert_allclose(labels.to_cleanlab()[1], [[0.8, 0.1, 0.1], [0.3, 0.4, 0.3]], atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 2), st.floats(0, 1)), max_size=20))
@settings(max_examples=30, deadline=None)
def test_cleanlab_probabilities_sum_to_one(rows: list[tuple[int, int, int, float]]) -> None:
    index, first, second, confidence = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    )
    labels = make(index, ["a", "b", "c"], clip_index=first, clip_second_index=second, confidence=confidence)
    given_index, probabilities = labels.to_cleanlab()
    assert probabilities.shape == (len(rows), 3)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities[np.arange(len(rows)), given_index], confidence, atol=1e-6)


def test_cleanlab_wants_every_image_decided() -> None:
    with pytest.raises(ValueError, match="without a label, here 1: use decided"):
        make([0, -1], ["a", "b"]).to_cleanlab()


def test_imagefolder_links_every_labelled_image(tmp_path: Path) -> None:
    ids = ["1.jpg", "deep/er/2.jpg", "other/2.jpg", "4.jpg"]
    images = pictures(tmp_path / "images", ids)
    made = make([0, 1, 1, -1], ["cat", "dog"], ids).to_imagefolder(tmp_path / "tree", images)
    assert made == 3
    links = sorted(path for path in (tmp_path / "tree").rglob("*") if path.is_symlink())
    assert [str(path.relative_to(tmp_path / "tree")) for path in links] == [
        "cat/1.jpg",
        "dog/deep/er/2.jpg",
        "dog/other/2.jpg",
    ]
    assert [path.read_text() for path in links] == ids[:3]


def test_imagefolder_is_read_by_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    ids = ["1.jpg", "deep/2.jpg"]
    make([1, 0], ["cat", "dog"], ids).to_imagefolder(tmp_path / "tree", pictures(tmp_path / "images", ids))
    found = ImageFolder(str(tmp_path / "tree"))
    assert found.classes == ["cat", "dog"]
    assert [(Path(path).name, target) for path, target in found.samples] == [("2.jpg", 0), ("1.jpg", 1)]


def test_hostile_class_names_stay_inside(tmp_path: Path) -> None:
    ids = [f"{i}.jpg" for i in range(len(HOSTILE))]
    images = pictures(tmp_path / "images", ids)
    made = make(list(range(len(HOSTILE))), HOSTILE, ids).to_imagefolder(tmp_path / "tree", images)
    assert made == len(HOSTILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "tree"]
    folders = list((tmp_path / "tree").iterdir())
    assert len(folders) == len(HOSTILE)
    assert len({folder.name.casefold() for folder in folders}) == len(HOSTILE)
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
def test_folder_names_are_distinct_single_names(classes: list[str]) -> None:
    names = folder_names(classes)
    assert len({name.casefold() for name in names}) == len(classes)
    for name in names:
        assert Path(name).name == name
        assert name.isprintable() or " " in name or not name.isascii()
        assert len(name.encode()) <= 120


def test_plain_names_stay_as_they_are() -> None:
    assert folder_names(["cat", "hot dog", "ünïcode 猫"]) == ["cat", "hot dog", "ünïcode 猫"]


@pytest.mark.parametrize("id_", ["../out.jpg", "/etc/passwd", "a/../../b", "a\0b", ""])
def test_ids_that_lead_outside_are_refused(tmp_path: Path, id_: str) -> None:
    with pytest.raises(ValueError, match="is not a path inside a folder"):
        make([0], ["cat"], [id_]).to_imagefolder(tmp_path / "tree", tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))


def test_imagefolder_wants_files_and_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only for images in a folder"):
        make([0], ["cat"]).to_imagefolder(tmp_path / "tree", tmp_path)
    (tmp_path / "0.jpg").touch()
    with pytest.raises(ValueError, match="is not empty"):
        make([0], ["cat"]).to_imagefolder(tmp_path, tmp_path)


def test_datasets_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "datasets")
    with pytest.raises(ImportError, match=r"pip install 'gdui\[datasets\]'"):
        make([0], ["cat"]).to_datasets()


def test_datasets_gets_a_class_label_and_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    Image.new("RGB", (4, 4), "red").save(tmp_path / "0.png")
    dataset = make([1, -1], ["cat", "dog"], ["0.png", "1.png"]).to_datasets(tmp_path)
    assert dataset.features["label"] == datasets.ClassLabel(names=["cat", "dog"])
    assert dataset["label"][:] == [1, -1]
    assert dataset[0]["image"].size == (4, 4)
    assert dataset[0]["id"] == "0.png"
    assert dataset[0]["clip_label"] == "cat"


def test_label_studio_gets_predictions(tmp_path: Path) -> None:
    make([1, -1], ["cat", 'd"og\n</script>']).to_label_studio(tmp_path / "tasks.json", "/data/local-files/?d=")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"] == {"image": "/data/local-files/?d=0.jpg", "id": "0.jpg"}
    prediction = SimpleNamespace(**tasks[0]["predictions"][0])
    assert prediction.score == pytest.approx(0.9)
    assert prediction.result[0]["value"] == {"choices": ['d"og\n</script>']}
    assert "predictions" not in tasks[1]


def test_label_studio_of_nothing_is_an_empty_list(tmp_path: Path) -> None:
    make([], ["cat"]).to_label_studio(tmp_path / "tasks.json")
    assert json.loads((tmp_path / "tasks.json").read_text()) == []


def test_fiftyone_gets_targets_by_path_without_suffix(tmp_path: Path) -> None:
    make([1, -1], ["cat", "dog"], ["a/0.jpg", "1.tar.png"]).to_fiftyone(tmp_path / "labels.json")
    found = json.loads((tmp_path / "labels.json").read_text())
    assert found == {"classes": ["cat", "dog"], "labels": {"a/0": {"label": 1, "confidence": 0.9}, "1.tar": None}}


def test_fiftyone_is_told_no_confidence_where_there_is_none(tmp_path: Path) -> None:
    make([0, 1], ["cat", "dog"], confidence=[np.nan, 0.5]).to_fiftyone(tmp_path / "labels.json")
    found = json.loads((tmp_path / "labels.json").read_text())["labels"]
    assert found == {"0": {"label": 0}, "1": {"label": 1, "confidence": 0.5}}


def test_fiftyone_refuses_ids_it_would_confuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"could not tell 'a\.png' from another"):
        make([0, 1], ["cat", "dog"], ["a.jpg", "a.png"]).to_fiftyone(tmp_path / "labels.json")
    assert not (tmp_path / "labels.json").exists()
