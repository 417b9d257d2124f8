"""Labels that a person gave: they stand, they speak for the images around them, and a run keeps them."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.datasets import load_digits

from gdui import Labeler
from gdui.cli import main
from gdui.demo import NAMES as DIGITS
from gdui.demo import images
from gdui.labeling.graph import diffuse
from gdui.labeling.learned import RULE, Decision
from gdui.labeling.pins import Pins
from gdui.labels import Labels
from gdui.labels.pins import read_pins, write_pins

NAMES = ["ant", "bee", "cow", "dog"]
IDS = pa.chunked_array([["a", "b"], ["c", "d"]])


def heap(rng: np.random.Generator, n: int = 240) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Four kinds of images, as many of each; the opinion takes every dog for a cow."""
    kind = np.arange(n) % 4
    features = (rng.standard_normal((4, 12)) * 2)[kind] + rng.standard_normal((n, 12)) * 0.7
    said = np.array([0, 1, 2, 2])[kind]
    return features.astype(np.float32), np.eye(4)[said] * 0.6 + rng.random((n, 4)) * 0.3


def save_heap(rng: np.random.Generator, n: int = 240) -> None:
    """The heap as files in the working folder."""
    features, opinions = heap(rng, n)
    np.save("features.npy", features)
    np.save("scores.npy", opinions)
    Path("names.txt").write_text("\n".join(NAMES))


def test_pins_know_rows_and_refuse_what_is_unknown() -> None:
    pins = Pins.of({"d": "bee", "a": ""}, IDS, NAMES)
    assert pins.rows.tolist() == [0, 3]
    assert pins.classes.tolist() == [-1, 1]
    assert pins.joining(np.array([1, 3])).tolist() == [0, 1, 3]
    assert pins.among(np.array([0, 1, 3])).rows.tolist() == [0, 2]
    assert len(Pins.of({}, IDS, NAMES).rows) == 0
    with pytest.raises(ValueError, match="of 'b' is 'Bees', which is none of the classes; did you mean 'bee'"):
        Pins.of({"a": "ant", "b": "Bees"}, IDS, NAMES)
    with pytest.raises(ValueError, match=r"given for the image 'z', which is not among the images; .* like 'a'"):
        Pins.of({"a": "ant", "z": "ant"}, IDS, NAMES)


def test_pins_speak_and_decide() -> None:
    pins = Pins.of({"d": "bee", "a": ""}, IDS, NAMES)
    opinion = np.full((4, 4), 0.2, np.float32)
    assert pins.heard(opinion)[[0, 3]].tolist() == [[0.25] * 4, [0, 1, 0, 0]]
    assert pins.votes(opinion, 5)[[0, 3]].tolist() == [[0] * 4, [0, 5, 0, 0]]
    assert pins.weights(4, 5).tolist() == [0, 1, 1, 5]
    assert (opinion == np.float32(0.2)).all(), "what is handed in stays"
    before = Decision(np.zeros(4, np.int32), np.full(4, 0.5, np.float32), np.zeros(4, np.uint8))
    after = pins.decide(before)
    assert after.label.tolist() == [-1, 0, 0, 1]
    assert after.confidence.tolist() == [1, 0.5, 0.5, 1]
    assert after.rule.tolist() == [RULE["pinned"], 0, 0, RULE["pinned"]]
    assert before.label.tolist() == [0] * 4


def test_a_pinned_image_keeps_its_votes_while_others_mix() -> None:
    chain = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32))
    votes = np.array([[4, 0], [0, 1], [0, 1]], np.float32)
    field = diffuse(chain, votes, steps=200, keep=0.2, pinned=np.array([0]))
    assert field[0].tolist() == [4, 0]
    middle, end = field[1], field[2]  # what stands still: each is 0.8 of its neighbours' mean and 0.2 of its vote
    np.testing.assert_allclose(middle, 0.8 * (field[0] + end) / 2 + 0.2 * votes[1], rtol=1e-5)
    np.testing.assert_allclose(end, 0.8 * middle + 0.2 * votes[2], rtol=1e-5)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_corrections_stand_whatever_decides(rng: np.random.Generator, preset: str) -> None:
    features, opinions = heap(rng)
    pins = {"0": "cow", "5": "", "7": "ant"}
    labeler = Labeler(NAMES, preset=preset, **{"cluster.epochs": 1, "fit_rows": 100, "reject": 0.01})
    labels = labeler.fit_predict(features=features, opinions=opinions, pins=pins)
    for id_, name in pins.items():
        assert labels.row(id_)["label"] == (name or None)
        assert labels.row(id_)["rule"] == "pinned"
    assert "a person said so" in labels.why("7")
    assert (labels.indices("rule") == RULE["pinned"]).sum() == 3
    with pytest.raises(ValueError, match="pins are learned from: hand them to fit or fit_predict"):
        labeler.predict(features=features, opinions=opinions, pins=pins)


def test_a_few_corrections_name_the_images_around_them(rng: np.random.Generator) -> None:
    features, opinions = heap(rng)
    dogs = np.flatnonzero(np.arange(240) % 4 == 3)
    before = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    assert (before.label_index[dogs] == 3).mean() < 0.1
    pins = {str(row): "dog" for row in dogs[:10]}
    after = Labeler(NAMES).fit_predict(features=features, opinions=opinions, pins=pins)
    assert (after.label_index[dogs[10:]] == 3).mean() > 0.9
    others = np.setdiff1d(np.arange(240), dogs)
    assert (after.label_index[others] == before.label_index[others]).mean() > 0.98


def test_what_a_person_said_counts_as_right() -> None:
    label, votes, near = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([[1], [2], [3], [2]])
    assert Pins().estimate(label, votes, near, votes) == np.sqrt(0.75 * 0.75)
    assert Pins(np.array([1]), np.array([0])).estimate(label, votes, near, votes) == 1
    wrong = Pins(np.array([0, 3]), np.array([0, 1])).estimate(label, votes, near, votes)
    np.testing.assert_allclose(wrong, 0.5 + 0.5 * np.sqrt(0.5 * 0.5))


def test_a_witness_whom_a_person_proved_wrong_is_not_heard() -> None:
    """Image 0 votes as the pinned image 3, which is wrong there; 1 as the pinned 4, which is right; 2 as none."""
    votes, label = np.array([0, 1, 2, 0, 1]), np.array([1, 2, 2, 1, 1])
    near = np.array([[4, 3], [2, 4], [3, 0], [0, 1], [1, 2]])
    pins = Pins(np.array([3, 4]), np.array([1, 1]))
    estimate = pins.estimate(label, votes, near, votes)
    np.testing.assert_allclose(estimate, 2 / 5 + 3 / 5 * np.sqrt(1 / 2 * 2 / 3), err_msg="two of three are heard")
    nobody = Pins(np.array([3, 4]), np.array([1, -1]))
    label[4] = -1
    estimate = nobody.estimate(label, votes, near, votes)
    np.testing.assert_allclose(estimate, 2 / 5 + 3 / 5 * np.sqrt(1 * 1 / 2), err_msg="an image of no class has no say")


def test_corrections_raise_the_estimate_as_they_raise_what_it_estimates() -> None:
    """Labels that a person taught leave an opinion that is wrong: their agreement with it says less than it did."""
    rows = np.sort(np.random.default_rng(0).choice(1797, 400, replace=False))
    pictures, truth = images()[rows], load_digits().target[rows]
    chosen = np.random.default_rng(9).choice(400, 60, replace=False)
    before, after = (
        Labeler(DIGITS, "digits").fit_predict(pictures, pins={str(row): DIGITS[truth[row]] for row in said})
        for said in ((), chosen)
    )
    right = [float((labels.label_index == truth).mean()) for labels in (before, after)]
    assert right[1] > right[0] + 0.02
    assert before.facts.accuracy < after.facts.accuracy <= right[1]


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("name", ["", "dog"])
def test_labels_that_are_all_corrected_are_all_right(rng: np.random.Generator, preset: str, name: str) -> None:
    features, opinions = heap(rng, 60)
    labeler = Labeler(NAMES, preset=preset, **{"cluster.epochs": 1})
    labels = labeler.fit_predict(features=features, opinions=opinions, pins={str(row): name for row in range(60)})
    assert labels.facts.accuracy == 1


@pytest.mark.parametrize("spared", [0, 5, 180])
def test_confidence_in_other_images_is_not_borrowed_from_corrections(rng: np.random.Generator, spared: int) -> None:
    """Kinds overlap, so that even a model taught by a person's labels alone is often wrong."""
    kind = np.arange(240) % 4
    features = (rng.standard_normal((4, 12)) * 0.5)[kind] + rng.standard_normal((240, 12))
    opinions = np.eye(4)[kind] * 0.4 + rng.random((240, 4))
    pins = {str(row): NAMES[kind[row]] for row in range(spared, 240)}
    labeler = Labeler(NAMES, **{"graph.least": 0.0})
    labels = labeler.fit_predict(features=features, opinions=opinions, pins=pins)
    assert labels.numbers("confidence")[spared:].min() == 1
    new = (rng.standard_normal((4, 12)) * 0.5)[kind] + rng.standard_normal((240, 12))
    for sure in (
        labels.numbers("confidence")[:spared],
        labeler.predict(features=new, opinions=opinions).numbers("confidence"),
    ):
        assert not len(sure) or 0.4 < sure.mean() < 0.9


def test_pins_on_disk_come_back(tmp_path: Path) -> None:
    pins = {'a,"1"\n': "x, y", " b": "", "ü": "=1+1", "-1": "'", "'@x": "''+"}
    write_pins(tmp_path / "pins.csv", pins)
    assert read_pins(tmp_path / "pins.csv") == pins
    assert not any(line.startswith(("=", "-", "@")) for line in (tmp_path / "pins.csv").read_text().splitlines())


def test_a_run_keeps_what_a_person_said(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_heap(rng)
    label = ["label", "features.npy", "--features", "--opinions", "scores.npy", "--classes", "names.txt"]
    label += ["--out", "run", "--json"]
    assert main(label) == 0
    write_pins("first.csv", {"0": "cow", "1": "ant"})
    write_pins("second.csv", {"1": "", "2": "bee"})
    for name in ("first.csv", "second.csv"):
        assert main(["relabel", "run", "--corrections", name, "--json"]) == 0
    assert read_pins("run/corrections.csv") == {"0": "cow", "1": "", "2": "bee"}
    labels = Labels.from_run("run")
    assert [labels.row(id_)["label"] for id_ in "012"] == ["cow", None, "bee"]
    kept = Path("run/labels.parquet").read_bytes()
    capsys.readouterr()
    assert main(label) == 0
    assert json.loads(capsys.readouterr().out)["ledger"] == {}, "the corrected labels are what the run ends with"
    assert Path("run/labels.parquet").read_bytes() == kept
    Path("others.txt").write_text("ant\ncow\nfox\nelk")
    assert main(["relabel", "run", "--classes", "others.txt", "--opinions", "scores.npy"]) == 0
    assert "1 correction in run/corrections.csv without effect: the labels" in capsys.readouterr().out
    assert read_pins("run/corrections.csv") == {"0": "cow", "1": "", "2": "bee"}
    assert Labels.from_run("run").row("2")["rule"] != "pinned"
    assert main([*label[:6], "others.txt", *label[7:]]) == 0
    assert json.loads(capsys.readouterr().out)["ledger"] == {}, "idle corrections change nothing"
    back = ["relabel", "run", "--classes", "names.txt", "--opinions", "scores.npy", "--json"]
    assert main(back) == 0
    assert json.loads(capsys.readouterr().out)["idle_corrections"] == 0
    assert Labels.from_run("run").row("2")["label"] == "bee"
    assert main([*label, "--mode", "overwrite"]) == 0
    assert not Path("run/corrections.csv").exists()


def test_predictions_follow_corrections(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_heap(rng)
    ready = ["features.npy", "--features", "--opinions", "scores.npy"]
    assert main(["label", *ready, "--classes", "names.txt", "--out", "run"]) == 0
    write_pins("said.csv", {str(row): "dog" for row in range(3, 43, 4)})
    dogs = []
    for step in (["predict", "run", *ready, "--out", "new"], ["relabel", "run", "--corrections", "said.csv"]) * 2:
        assert main(step) == 0
        if step[0] == "predict":
            dogs.append((Labels.from_run("new").label_index[3::4] == 3).mean())
    assert dogs[0] < 0.1
    assert dogs[1] > 0.9


def test_mistakes_are_answered_in_a_line(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_heap(rng, 60)
    label = ["label", "features.npy", "--features", "--opinions", "scores.npy", "--classes", "names.txt"]
    assert main([*label, "--out", "run"]) == 0
    before = Path("run/labels.parquet").read_bytes()
    write_pins("lost.csv", {"picture": "ant"})
    for arguments, words in (
        ([], "relabel needs other names (--classes) or what a person said of images (--corrections)"),
        (["--corrections", "lost.csv"], "a label is given for the image 'picture', which is not among the images"),
        (["--corrections", "none.csv"], "none.csv: No such file or directory"),
    ):
        assert main(["relabel", "run", *arguments]) == 1
        assert words in capsys.readouterr().err
    assert Path("run/labels.parquet").read_bytes() == before
    assert not Path("run/corrections.csv").exists()


def test_pins_are_read_and_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "pins.csv"
    path.write_text('\ufefflabel,note,id\ncat,,"a,\n""1"".png"\n,,b.png\ndog,,b.png\n', encoding="utf-8")
    assert read_pins(path) == {'a,\n"1".png': "cat", "b.png": "dog"}
    path.write_text("id;label\n1;2\n")
    with pytest.raises(ValueError, match="must begin with a line that names the columns id and label"):
        read_pins(path)
    path.write_text("id,label\na.png,cat\nb.png\n")
    with pytest.raises(ValueError, match="line 3, has too few columns"):
        read_pins(path)
    path.write_bytes(b"id,label\n\xff,2\n")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        read_pins(path)
