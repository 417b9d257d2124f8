"""What a labeler may be handed: one encoder or two, texts on the classes, and images that can't be read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gdui import cli, toml
from gdui.demo import NAMES, images
from gdui.images import open_source
from gdui.labeling.encoders import Encoder, load_encoder
from gdui.labeling.features import FeatureStore, encode_source, load_features
from gdui.labeling.labeler import Labeler
from gdui.labeling.opinions import TEMPLATES, class_embeddings, zero_shot
from gdui.labels import Facts, Labels
from gdui.runs import read_manifest

FEW = 400


@pytest.fixture(scope="module")
def digits() -> npt.NDArray[np.uint8]:
    return images()[:FEW]


@pytest.fixture(scope="module")
def folder(digits: npt.NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    heap = tmp_path_factory.mktemp("digits")
    for at, picture in enumerate(digits):
        Image.fromarray(picture).save(heap / f"{at:04d}.png")
    return heap


def opinion_of(digits: npt.NDArray[np.uint8], descriptions: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
    """What the encoder says of the pictures, by its own functions."""
    encoder = load_encoder("digits", device="cpu", batch=64)
    pixels = np.stack([encoder.transform(Image.fromarray(picture).convert("RGB")) for picture in digits])
    texts = class_embeddings(encoder, NAMES, templates=TEMPLATES, descriptions=descriptions)
    embedding = encoder.encode_images(pixels).astype(np.float16)  # as a store keeps it
    return zero_shot(embedding, texts, encoder.logit_scale)


def test_names_that_the_encoder_was_not_taught_are_told_once(
    digits: npt.NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    Labeler(["Zero", "the_number one", "two"], "digits").fit(digits[:40])
    assert not caplog.records
    Labeler({"zero": [], "nien": [], "two": [], "ring": ["zero"]}, "digits").fit_predict(digits[:40])
    assert [one.message for one in caplog.records if "taught" in one.message] == [
        "encoder 'digits' was taught few words, and not nien; did you mean 'nine'?"
    ]


def test_one_encoder_is_asked_for_names_and_another_sees_what_is_clustered(digits: npt.NDArray[np.uint8]) -> None:
    labeler = Labeler(NAMES, "digits")
    labels = labeler.fit_predict(digits)
    opinion = opinion_of(digits)
    np.testing.assert_array_equal(labels.indices("clip_label"), opinion.argmax(1))
    np.testing.assert_allclose(labels.numbers("clip_confidence"), opinion.max(1), atol=2e-3)
    assert (labels.facts.encoder, labels.facts.clustered_by) == ("digits", "digits#layer3")
    assert labels.facts.encoder_hash != labels.facts.named_hash
    by_hand = Labeler(NAMES, "digits", cluster_by="digits#layer3").fit_predict(digits)
    assert by_hand.table.equals(labels.table)
    other = Labeler(NAMES, "digits", **{"encode.cluster_by": "digits"}).fit_predict(digits)
    assert other.facts.encoder_hash == other.facts.named_hash == labels.facts.named_hash


@pytest.mark.parametrize(("threads", "at_once"), [(1, 16), (2, 48), (5, 400)])
def test_labels_do_not_depend_on_workers_or_on_how_many_images_are_read_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, at_once: int
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.iterdir())[:120]:
        shutil.copy(path, few)
    Labeler(NAMES, "digits").fit_predict(few).to_parquet(tmp_path / "wanted.parquet")
    monkeypatch.setenv("GDUI_THREADS", str(threads))
    monkeypatch.setattr(Encoder, "at_once", at_once)
    Labeler(NAMES, "digits").fit_predict(few).to_parquet(tmp_path / "found.parquet")
    assert (tmp_path / "found.parquet").read_bytes() == (tmp_path / "wanted.parquet").read_bytes()


def test_a_function_may_see_what_is_clustered(digits: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    def blocks(pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 28).flatten(1)

    labeler = Labeler(NAMES, "digits", cluster_by=blocks)
    labels = labeler.fit_predict(digits)
    assert (labels.label_index == load_digits().target[:FEW]).mean() > 0.8
    labeler.save(tmp_path)
    with pytest.raises(ValueError, match=r"needs the callable '.*blocks' again"):
        Labeler.load(tmp_path).predict(digits[:9])
    again = Labeler.load(tmp_path, cluster_by=blocks).predict(digits)
    np.testing.assert_array_equal(again.indices("clip_label"), labels.indices("clip_label"))


def test_ready_features_and_embeddings_of_two_encoders(
    digits: npt.NDArray[np.uint8], folder: Path, tmp_path: Path
) -> None:
    for name in ("digits", "digits#layer3"):
        encoder = load_encoder(name, device="cpu", batch=64)
        encode_source(open_source(folder), encoder, FeatureStore(tmp_path / name, encoder))
    labeler = Labeler(NAMES, "digits")
    labels = labeler.fit_predict(features=tmp_path / "digits#layer3", embeddings=tmp_path / "digits")
    assert labels.table.equals(Labeler(NAMES, "digits").fit_predict(folder).table)
    with pytest.raises(ValueError, match="is not the one that the other features come from"):
        labeler.predict(features=tmp_path / "digits", embeddings=tmp_path / "digits")
    with pytest.raises(ValueError, match="is not the one that the other features come from"):
        labeler.predict(features=tmp_path / "digits#layer3", embeddings=tmp_path / "digits#layer3")
    with pytest.raises(ValueError, match=f"embeddings must have {FEW} rows as features, not 3"):
        labeler.predict(features=tmp_path / "digits#layer3", embeddings=np.zeros((3, 64)))
    with pytest.raises(ValueError, match="embeddings must be of the same images as features"):
        labeler.predict(features=tmp_path / "digits#layer3", embeddings=np.zeros((FEW, 64)))


def test_texts_on_a_class_count_beside_the_templates(digits: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    texts = {"one": ["a vertical stroke", "a thin line"], "eight": "two rings"}
    classes = {name: texts.get(name, []) for name in NAMES}
    labeler = Labeler(classes, "digits")
    labels = labeler.fit_predict(digits)
    wanted = opinion_of(digits, {"one": texts["one"], "eight": ["two rings"]})
    np.testing.assert_allclose(labels.numbers("clip_confidence"), wanted.max(1), atol=2e-3)
    assert np.abs(wanted - opinion_of(digits)).max() > 0.01
    labeler.save(tmp_path)
    loaded = Labeler.load(tmp_path)
    assert loaded.descriptions == {"one": ("a vertical stroke", "a thin line"), "eight": ("two rings",)}
    np.testing.assert_array_equal(loaded.predict(digits).indices("clip_label"), labels.indices("clip_label"))


@pytest.mark.parametrize("texts", [[""], [3], 3, [["a"]]])
def test_texts_that_are_none_are_refused(texts: Any) -> None:
    with pytest.raises(TypeError, match="the descriptions of class 'b' must be texts"):
        Labeler({"a": [], "b": texts})


def test_what_cannot_be_read_is_handed_back_with_the_reason(
    folder: Path, tmp_path: Path, digits: npt.NDArray[np.uint8]
) -> None:
    heap = tmp_path / "heap"
    shutil.copytree(folder, heap)
    (heap / "broken.png").write_bytes((heap / "0000.png").read_bytes()[:40])
    (heap / "empty.jpg").touch()
    labels = Labeler(NAMES, "digits").fit_predict(heap)
    assert len(labels) == FEW
    found = {row["id"]: row["reason"] for row in labels.quarantine.to_pylist()}
    assert found["empty.jpg"] == "the file is empty"
    assert set(found) == {"broken.png", "empty.jpg"}
    assert "2 images could not be read: broken.png, empty.jpg\n" in labels.summary()
    assert labels.take([0]).quarantine.num_rows == 2
    assert Labeler(NAMES, "digits").fit_predict(digits).quarantine.num_rows == 0


def test_inputs_that_nobody_knows_are_refused(digits: npt.NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(TypeError, match="'opinion' can't be handed in; besides a source there are features"):
        Labeler(NAMES).fit_predict(digits, **{"opinion": 3})  # type: ignore[misc]
    with pytest.raises(ValueError, match="ids can be given for arrays and features only"):
        Labeler(NAMES, "digits").fit_predict(folder, ids=["a"])
    with pytest.raises(ValueError, match="ids must be 9 different names, not 1"):
        Labeler(NAMES, "digits").fit_predict(digits[:9], ids=["a"])


def test_names_may_be_of_any_language(digits: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    names = ["零", "واحد", "δύο", "три", "quatre", "fünf", "שש", "सात", "여덟", "n°9 🎱"]
    labels = Labeler(names, "digits").fit_predict(digits)
    assert labels.classes == names
    labels.to_parquet(tmp_path / "labels.parquet")
    assert Labels.from_parquet(tmp_path / "labels.parquet").table.equals(labels.table)
    assert any(name in labels.why("0") for name in names)


def test_the_estimate_of_k_is_kept_and_drawn(digits: npt.NDArray[np.uint8], folder: Path, tmp_path: Path) -> None:
    labeler = Labeler(NAMES, "digits", k="auto")
    labels = labeler.fit_predict(folder)
    best = max(labeler.criterion, key=lambda k: (labeler.criterion[k], -k))
    assert len(labels.facts.clusters) == best
    labels.to_parquet(tmp_path / "labels.parquet")
    assert Labels.from_parquet(tmp_path / "labels.parquet").facts.criterion == labeler.criterion
    labeler.plot_criterion(tmp_path / "k.png")
    assert Image.open(tmp_path / "k.png").width > 500
    with pytest.raises(ValueError, match="there is no criterion to draw"):
        Labeler(NAMES).plot_criterion(tmp_path / "k.png")
    assert Facts.from_json(Facts(criterion={2: 0.5}).to_json()).criterion == {2: 0.5}


def run(*arguments: Any) -> int:
    return cli.main([str(one) for one in arguments])


def test_the_command_line_clusters_by_the_layer_and_takes_up_its_own_configuration(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.toml").write_text("".join(f"{name} = []\n" for name in NAMES))
    label = ("label", folder, "--classes", tmp_path / "names.toml", "--encoder", "digits", "--out", tmp_path / "run")
    assert run(*label, "--set", "k=auto") == 0
    labels = Labels.from_run(tmp_path / "run")
    assert (labels.label_index == load_digits().target[:FEW]).mean() > 0.9
    assert len(load_features(tmp_path / "run" / "embeddings")) == FEW
    assert Image.open(tmp_path / "run" / "criterion.png").width > 500
    out = capsys.readouterr().out
    assert "\nembed " in out
    assert "\nencode " in out
    assert run("label", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again") == 0
    assert Labels.from_run(tmp_path / "again").table.equals(labels.table)
    assert toml.read(tmp_path / "again" / "config.toml") == toml.read(tmp_path / "run" / "config.toml")
    assert run("predict", tmp_path / "run", folder) == 0
    predicted = Labels.from_run(tmp_path / "run" / "predicted" / folder.name)
    assert (predicted.label_index == labels.label_index).mean() > 0.97


def test_texts_on_classes_stay_with_the_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, texts = tmp_path / "names.txt", tmp_path / "texts.toml"
    names.write_text("\n".join(NAMES))
    given = {"eight": ["two rings", "a snowman"]}
    texts.write_text("".join(f"{name} = {json.dumps(given.get(name, []))}\n" for name in NAMES))
    label = ("label", folder, "--classes", names, "--encoder", "digits", "--out", tmp_path / "run")
    assert run(*label) == 0
    assert run("relabel", tmp_path / "run", "--classes", texts) == 0
    settings = read_manifest(tmp_path / "run")["settings"]
    assert settings["descriptions"] == given
    assert settings["classes"] == list(NAMES)
    assert toml.read(tmp_path / "run" / "config.toml")["descriptions"] == settings["descriptions"]
    assert "labels changed" in capsys.readouterr().out


def test_a_label_without_source_or_names_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    for given, words in (
        (["--classes", tmp_path / "names.txt"], "label needs a source of images"),
        ([tmp_path], "label needs names"),
    ):
        assert run("label", *given, "--out", tmp_path / "run") == 1
        assert capsys.readouterr().err.startswith(f"gdui: error: {words}")


def test_relabelling_by_names_needs_what_names_are_compared_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    np.save(tmp_path / "opinions.npy", np.eye(10, dtype=np.float32)[load_digits().target[:FEW]])
    given = ("--classes", tmp_path / "names.txt")
    label = ("label", folder, *given, "--encoder", "digits", "--out", tmp_path / "run")
    assert run(*label, "--opinions", tmp_path / "opinions.npy") == 0
    assert not (tmp_path / "run" / "embeddings").exists()
    assert run("relabel", tmp_path / "run", *given) == 1
    assert "give --opinions for the new classes, or label again" in capsys.readouterr().err
