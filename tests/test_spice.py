"""All three stages on handwritten digits: clusters, files, labels that are given, and a killed run."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gdui.config import Config
from gdui.evaluation.agreement import mapped_accuracy
from gdui.images import Source, open_source
from gdui.labeling.cluster import assign
from gdui.labeling.encoders.load import IMAGENET
from gdui.labeling.labeler import Labeler
from gdui.labeling.looks import Looks
from gdui.labeling.pictures import pictures_of
from gdui.labeling.spice import Spice, cluster_of_class, learn, learn_source
from gdui.labeling.workflow import label_run, predict_run, relabel_run
from gdui.training.backbones import backbone, outputs, settle
from gdui.training.history import History

SMALL = {
    "represent.epochs": 30,
    "represent.batch": 32,
    "represent.queue": 64,
    "represent.width": 16,
    "represent.views": "drawn",
    "cluster.heads": 3,
    "cluster.hidden": 32,
    "cluster.step": 32,
    "neighbors.consistency": 10,
    "joint.epochs": 2,
    "joint.batch": 32,
}


def pictures(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten zeros, ones and sevens of 8 x 8 pixels."""
    digits = load_digits()
    rows = np.flatnonzero(np.isin(digits.target, (0, 1, 7)))
    rows = rows[:count] if count > 0 else rows[count:]
    pixels = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    return pixels[..., None].repeat(3, axis=3), np.searchsorted((0, 1, 7), digits.target[rows])


def config(**changes: object) -> Config:
    return Config.named("default", **(SMALL | changes))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As `learned` had: another number rounds otherwise, and training makes much of it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("spice")
    return (*learn(pictures()[0], 3, config(), folder), folder)


def test_pictures_fall_into_their_kinds(learned: tuple) -> None:
    spice, stages, _ = learned
    assert mapped_accuracy(stages.after.cluster, pictures()[1]) > 0.9
    assert stages.reliable[0] > 0
    fresh, truth = pictures(-96)
    features = spice.encoder().encode_images(fresh)
    assert mapped_accuracy(assign(spice.head, features).cluster, truth) > 0.85
    assert spice.logits(features).shape == (96, 3)


def test_what_was_learned_is_one_file(learned: tuple, tmp_path: Path) -> None:
    spice, _, _ = learned
    spice.save(tmp_path / "spice.safetensors")
    again = Spice.load(tmp_path / "spice.safetensors")
    one, other = (each.encoder(batch=8) for each in (spice, again))
    assert one.hash == other.hash
    features = one.encode_images(pictures()[0][:8])
    np.testing.assert_array_equal(features, other.encode_images(pictures()[0][:8]))
    assert torch.equal(spice.logits(features), again.logits(features))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="holds nothing that was learned from pixels"):
        Spice.load(tmp_path / "broken.safetensors")


def test_a_killed_run_ends_the_same(learned: tuple) -> None:
    spice, stages, folder = learned
    for left in (folder / "joint-1").glob("step-*"):
        left.unlink()
    again, after = learn(pictures()[0], 3, config(), folder)
    np.testing.assert_array_equal(after.after.cluster, stages.after.cluster)
    assert again.encoder().hash == spice.encoder().hash


def test_scratch_needs_no_first_network(learned: tuple, tmp_path: Path) -> None:
    _, _, folder = learned
    (tmp_path / "represent").symlink_to(folder / "represent")
    spice, stages = learn(pictures()[0], 3, config(**{"joint.init": "scratch", "joint.rate": 0.03}), tmp_path)
    assert not torch.equal(spice.trunk.conv1.weight, learned[0].trunk.conv1.weight)
    assert len(set(stages.after.cluster.tolist())) > 1


def test_classes_take_the_clusters_that_hold_them() -> None:
    cluster, given = np.array([2, 2, 0, 0, 1, 1, 1]), np.array([0, 0, 1, -1, 2, 2, 1])
    assert cluster_of_class(cluster, given, 3).tolist() == [2, 0, 1, -1]
    assert cluster_of_class(cluster, np.full(7, -1), 3).tolist() == [-1]
    crowded = cluster_of_class(np.zeros(4, np.int64), np.array([0, 0, 1, 2]), 1)
    assert crowded.tolist() == [0, 0, 0, -1]


def test_given_labels_teach(learned: tuple, tmp_path: Path) -> None:
    _, _, folder = learned
    (tmp_path / "represent").symlink_to(folder / "represent")
    given = np.where(np.arange(120) < 24, pictures()[1], -1)
    _, stages = learn(pictures()[0], 3, config(), tmp_path, given=given)
    named = cluster_of_class(stages.before.cluster, given, 3)
    assert (stages.after.cluster[:24] == named[given[:24]]).mean() > 0.9
    assert stages.reliable[0] >= 24


def test_labels_that_a_person_gave_are_told_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, object] = {}
    monkeypatch.setattr("gdui.labeling.spice.learn", lambda *_, given, **__: (told.update(given=given), None))
    source = open_source(pictures(4)[0], ids=list("abcd"))
    learn_source(source, NAMES, config(), tmp_path, pins={"d": "seven", "b": "zero", "a": "", "z": "one"})
    assert told["given"].tolist() == [-1, 0, -1, 2]
    learn_source(source, NAMES, config(), tmp_path)
    assert told["given"] is None


def test_pictures_come_from_any_source(tmp_path: Path) -> None:
    pixels, _ = pictures(5)
    found = pictures_of(open_source(pixels, ids=list("abcde")), None)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.ids == list("abcde")
    assert pictures_of(open_source(pixels), 8).pixels.shape == (5, 8, 8, 3)
    with pytest.raises(ValueError, match="holds no image"):
        pictures_of(open_source([b"nothing"]), None)


def test_of_many_pictures_a_sample_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, _ = pictures(60)
    ids = [f"p{at}" for at in range(60)]
    source = open_source(pixels, ids=ids)
    found = pictures_of(source, 8, most=20, always=["p7", "p8"], seed=3)
    assert {"p7", "p8"} < set(found.ids)
    assert 20 <= len(found.ids) <= 22
    at = [ids.index(name) for name in found.ids]
    assert at == sorted(at)
    np.testing.assert_array_equal(found.pixels, pixels[at])
    backwards = pictures_of(open_source(pixels[::-1], ids=ids[::-1]), 8, most=20, always=["p7", "p8"], seed=3)
    assert set(backwards.ids) == set(found.ids), "the lot falls on ids, whatever their order"
    assert set(pictures_of(source, 8, most=20, seed=4).ids) != set(pictures_of(source, 8, most=20, seed=3).ids)
    uncounted = Source("tar", [replace(shard, count=None) for shard in source.shards])
    assert pictures_of(uncounted, 8, most=20, always=["p7", "p8"], seed=3).ids == found.ids
    assert len(pictures_of(uncounted, 8, most=60).ids) == 60
    seen: list[int] = []
    whole = sys.modules["gdui.images.batches"].decoded
    monkeypatch.setattr(
        sys.modules["gdui.images.batches"], "decoded", lambda data, *rest: seen.append(0) or whole(data, *rest)
    )
    assert len(pictures_of(source, 8, most=20).ids) == len(seen) == 20, "what no lot falls on is never decoded"


def test_a_labeler_lets_a_sample_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[int] = []
    monkeypatch.setattr("gdui.labeling.spice.learn", lambda pixels, *_, **__: (taught.append(len(pixels)), None))
    monkeypatch.setattr("gdui.config.ROWS_PER_CLASS", 5)
    learn_source(open_source(pictures(60)[0]), NAMES, config(fit_rows=40), tmp_path)
    assert taught == [40]


def test_published_weights_and_heads_take_the_place_of_the_first_stages(tmp_path: Path) -> None:
    """A network and heads such as SPICE publishes them: what the heads say is heard, and no first stage runs."""
    pixels, _ = pictures(48)
    torch.manual_seed(0)
    looks = replace(Looks.of(pixels), channels=3, mean=IMAGENET.mean, std=IMAGENET.std)
    trunk = settle(backbone("resnet18", side=8), lambda: looks.batches(pixels, torch.device("cpu")))
    raw = torch.cat(list(outputs(trunk, looks.batches(pixels, torch.device("cpu")))))
    first = torch.randn(16, 512) / 512**0.5
    second = torch.randn(3, 16)
    bias = -(torch.relu(raw @ first.T) @ second.T).mean(0)
    state = {f"module.feature_module.{name}": value for name, value in trunk.state_dict().items() if name != "center"}
    start = "module.head.head_0.classifier."
    state |= {f"{start}0.weight": first, f"{start}0.bias": torch.zeros(16)}
    state |= {f"{start}2.weight": second, f"{start}2.bias": bias}
    torch.save({"state_dict": state}, tmp_path / "spice.pth.tar")
    few = {"represent.weights": str(tmp_path / "spice.pth.tar"), "represent.backbone": "resnet18"}
    few |= {"joint.epochs": 1, "cluster.informed": 0, "cluster.heads": 1, "cluster.epochs": 40, "joint.rate": 1e-6}
    _, stages = learn(pixels, 3, config(**few), tmp_path / "run")
    said = (torch.relu(raw @ first.T) @ second.T + bias).argmax(1).numpy()
    assert len(set(said.tolist())) == 3
    assert (stages.before.cluster == said).mean() > 0.9
    assert (stages.after.cluster == said).mean() > 0.9
    assert not (tmp_path / "run" / "represent").exists()


def test_heads_of_other_clusters_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trunk = backbone("resnet18", side=8)
    state = {f"feature_module.{name}": value for name, value in trunk.state_dict().items() if name != "center"}
    start = "head.head_0.classifier."
    state |= {f"{start}0.weight": torch.zeros(4, 512), f"{start}0.bias": torch.zeros(4)}
    state |= {f"{start}2.weight": torch.zeros(7, 4), f"{start}2.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "spice.pth")
    few = {"represent.weights": str(tmp_path / "spice.pth"), "represent.backbone": "resnet18", "joint.epochs": 1}
    learn(pictures(32)[0], 3, config(**few), tmp_path / "run")
    assert "heads of [7] clusters" in caplog.text
    with pytest.raises(ValueError, match=r"represent\.backbone must say which network represent\.weights are of"):
        learn(pictures(32)[0], 3, config(**{"represent.weights": "spice.pth"}), tmp_path / "run")


def test_paper_walks_all_three_stages(tmp_path: Path) -> None:
    """The published settings but for sizes and lengths: natural views, no informed heads, stage 3 from scratch."""
    tiny = {"represent.backbone": "small", "represent.epochs": 2, "represent.batch": 32, "represent.width": 16}
    tiny |= {"cluster.heads": 2, "cluster.hidden": 16, "cluster.epochs": 3, "cluster.step": 32, "joint.epochs": 2}
    settings = Config.named("paper", clusterer="spice", **tiny)
    joint = settings.joint
    assert (joint.init, joint.balance, joint.confidence) == ("scratch", True, 0.99)
    assert settings.cluster.informed == 0
    spice, stages = learn(pictures(96)[0], 3, settings, tmp_path)
    assert len(stages.head.losses) == 2
    assert stages.head.kept == stages.head.losses.argmin(), "the lowest loss decides, and no graph"
    assert stages.reliable[0] % 3 == 0, "as many from every cluster"
    taught = History(tmp_path / "represent").newest()
    assert taught is not None
    assert not torch.equal(spice.trunk.conv1.weight, taught.tensors["query.0.conv1.weight"]), "it began from scratch"
    assert np.isfinite(spice.logits(spice.encoder().encode_images(pictures(96)[0])).numpy()).all()
    assert np.bincount(stages.after.cluster, minlength=3).sum() == 96


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k must be between 1 and the 5 pictures, not 6"):
        learn(pictures(5)[0], 6, config(), tmp_path)


NAMES = ("zero", "one", "seven")


def opinions(truth: np.ndarray) -> np.ndarray:
    """Scores that are wrong in a third of the images."""
    random = np.random.default_rng(7)
    voted = np.where(random.random(len(truth)) < 0.33, random.integers(0, 3, len(truth)), truth)
    return np.eye(3)[voted] * 3


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_labeler_learns_from_pixels(learned: tuple, tmp_path: Path, preset: str) -> None:
    pixels, truth = pictures()
    labeler = Labeler(NAMES, preset=preset, clusterer="spice", **SMALL)
    labeler.use(learned[0])
    labels = labeler.fit_predict(pixels, opinions=opinions(truth))
    assert (labels.label_index == truth).mean() > 0.85
    np.testing.assert_array_equal(labels.table["cluster"].to_numpy(), learned[1].after.cluster)
    labeler.save(tmp_path)
    fresh, new = pictures(-96)
    again = Labeler.load(tmp_path).predict(fresh, opinions=opinions(new))
    assert again.table.equals(labeler.predict(fresh, opinions=opinions(new)).table)
    assert (again.label_index == new).mean() > 0.8


def test_a_run_folder_learns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, truth = pictures()
    np.save(tmp_path / "pictures.npy", pixels)
    np.save(tmp_path / "scores.npy", opinions(truth))
    few = SMALL | {"represent.epochs": 2, "joint.epochs": 1, "clusterer": "spice"}
    arguments = (str(tmp_path / "pictures.npy"), NAMES, tmp_path / "run", Config.named("default", **few))
    first = label_run(*arguments, opinions=str(tmp_path / "scores.npy"))
    assert "learn" in first.ledger
    monkeypatch.setattr("gdui.labeling.job.learn_source", None)
    other = relabel_run(tmp_path / "run", ("nought", "one", "seven"), opinions=str(tmp_path / "scores.npy"))
    np.testing.assert_array_equal(other.labels.label_index, first.labels.label_index)
    predicted = predict_run(
        tmp_path / "run", str(tmp_path / "pictures.npy"), tmp_path / "new", opinions=str(tmp_path / "scores.npy")
    )
    np.testing.assert_array_equal(
        predicted.labels.table["cluster"].to_numpy(), first.labels.table["cluster"].to_numpy()
    )


def test_a_source_that_has_grown_is_learned_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SMALL | {"represent.epochs": 1, "joint.epochs": 1, "clusterer": "spice"}
    scores, taught = tmp_path / "scores.npy", []

    def learning(*arguments: object, **named: object) -> Spice:
        taught.append(named["pins"])
        return learn_source(*arguments, **named)

    def save(count: int) -> None:
        pixels, truth = pictures(count)
        np.save(tmp_path / "pictures.npy", pixels)
        np.save(scores, opinions(truth))

    def label() -> np.ndarray:
        config = Config.named("default", **few)
        done = label_run(str(tmp_path / "pictures.npy"), NAMES, tmp_path / "run", config, opinions=str(scores))
        return done.labels.table["cluster"].to_numpy()

    def predict(to: str) -> np.ndarray:
        done = predict_run(tmp_path / "run", str(tmp_path / "pictures.npy"), tmp_path / to, opinions=str(scores))
        return done.labels.table["cluster"].to_numpy()

    monkeypatch.setattr("gdui.labeling.job.learn_source", learning)
    save(60)
    label()
    predict("new")
    (tmp_path / "said.csv").write_text("id,label\n3,seven\n")
    relabel_run(tmp_path / "run", corrections=tmp_path / "said.csv")
    assert taught == [{}]
    save(90)
    grown = label()
    assert taught == [{}, {"3": "seven"}], "what a person said so far teaches, too"
    assert len(grown) == 90
    np.testing.assert_array_equal(predict("new"), grown)
    label()
    assert len(taught) == 2


@pytest.mark.usefixtures("ears")
def test_a_labeler_that_is_stopped_promises_no_continuation() -> None:
    """Its checkpoints lie in a temporary folder, which goes with it."""

    def ask(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    pixels, truth = pictures()
    with pytest.raises(KeyboardInterrupt, match=r"^stopped; nothing is kept, as only a run \(gdui label\)"):
        Labeler(NAMES, clusterer="spice", **SMALL).fit(pixels, opinions=opinions(truth), progress=ask)


def test_features_alone_teach_nothing() -> None:
    with pytest.raises(ValueError, match="clusterer 'spice' learns from pixels"):
        Labeler(NAMES, clusterer="spice").fit(features=np.eye(5), opinions=np.ones((5, 3)))
    with pytest.raises(ValueError, match="cluster_by can't be given with clusterer 'spice'"):
        Labeler(NAMES, clusterer="spice", cluster_by="digits#layer3")
    with pytest.raises(ValueError, match="k can't be 'auto' with clusterer 'spice'"):
        Labeler(NAMES, k="auto", clusterer="spice").fit(pictures()[0], opinions=np.ones((120, 3)))
