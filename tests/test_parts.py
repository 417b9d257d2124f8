"""Labels part by part: the same as at once, kept through a kill, and extended by what is new in the source."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_labeler import NAMES, heap, right

from gdui import cli
from gdui.config import Config
from gdui.labeling import inputs, job, parts
from gdui.labeling.features import load_features
from gdui.labeling.labeler import Labeler
from gdui.labeling.workflow import label_run, predict_run
from gdui.labels import Labels
from gdui.runs import read_manifest

CONFIG = Config(fit_rows=400)
N = 600


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 128)
    monkeypatch.setattr(parts, "BLOCK_CELLS", 24 * 20)


def kept(folder: Path, n: int = N) -> tuple[str, str]:
    """The first features and opinions as files."""
    features, opinions, _ = heap()
    np.save(folder / "features.npy", features[:n].astype(np.float16))
    np.save(folder / "opinions.npy", opinions[:n].astype(np.float16))
    return str(folder / "features.npy"), str(folder / "opinions.npy")


def label(folder: Path, config: Config = CONFIG, **changes: Any) -> Any:
    features, opinions = str(folder / "features.npy"), str(folder / "opinions.npy")
    return label_run(features, NAMES, folder / "run", config, ready=True, opinions=opinions, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    names = ("log", ".lock", "manifest.json")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_parts_cover_every_row_once() -> None:
    for n in (0, 1, 127, 128, 129, 600):
        np.testing.assert_array_equal(np.concatenate(list(parts.parts(n))), np.arange(n))
    assert [len(part) for part in parts.parts(300)] == [128, 128, 44]


def test_parts_and_a_run_give_the_labels_of_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, opinions = kept(tmp_path)
    monkeypatch.setattr(parts, "PART_ROWS", 1 << 20)
    whole = Labeler(NAMES, fit_rows=400).fit_predict(features=np.load(features), opinions=np.load(opinions))
    monkeypatch.setattr(parts, "PART_ROWS", 128)
    cut = Labeler(NAMES, fit_rows=400).fit_predict(features=features, opinions=opinions)
    outcome = label(tmp_path)
    assert cut.table.select(["id", "label", "rule", "cluster"]).equals(
        whole.table.select(["id", "label", "rule", "cluster"])
    )
    assert outcome.labels.table.equals(cut.table)
    assert outcome.totals.images == N
    assert outcome.totals.counts.tolist() == cut.totals().counts.tolist()
    assert set(outcome.ledger) > {"neighbors", "predict", "write"}
    assert right(whole, heap()[2]) > 0.97


def test_rows_are_labelled_alike_in_any_company() -> None:
    """A part is a function of its rows: another machine may make it."""
    features, opinions, _ = heap()
    labeler = Labeler(NAMES, fit_rows=400).fit(features=features, opinions=opinions)
    images = labeler.recall(features=features, opinions=opinions)
    some = labeler.label(images, np.arange(128, 256))
    whole = labeler.predict(features=features, opinions=opinions)
    assert some.table.equals(whole.table.slice(128, 128))


def test_what_was_learned_and_the_parts_that_are_done_survive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path)
    label(tmp_path)
    undisturbed = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    write, written = Labels.to_parquet, []

    def failing(self: Labels, path: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path.name)
        write(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(Labels, "to_parquet", failing)
        with pytest.raises(OSError, match="No space left"):
            label(tmp_path)
    assert written == ["000000.parquet", "000001.parquet"]
    monkeypatch.setattr(Labeler, "learn", None)
    first = (tmp_path / "run" / "parts" / "000000.parquet").stat().st_mtime_ns
    monkeypatch.setattr(job.Parts, "remove", lambda self: None)
    label(tmp_path)
    assert (tmp_path / "run" / "parts" / "000000.parquet").stat().st_mtime_ns == first
    shutil.rmtree(tmp_path / "run" / "parts")
    assert contents(tmp_path / "run") == undisturbed


def test_a_call_that_dies_at_its_very_end_leaves_nothing_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, opinions = kept(tmp_path)
    calls: dict[str, Callable[[], Any]] = {
        "run": lambda: label(tmp_path),
        "new": lambda: predict_run(tmp_path / "run", features, tmp_path / "new", ready=True, opinions=opinions),
    }
    for name, call in calls.items():
        with monkeypatch.context() as patched:
            patched.setattr(parts.Parts, "remove", None)
            patched.setattr(parts.Parts, "begin", lambda self: self.folder.mkdir(exist_ok=True))
            with pytest.raises(TypeError):
                call()
        assert (tmp_path / name / "parts" / "000000.parquet").exists()
        before = contents(tmp_path / name)
        call()
        assert contents(tmp_path / name) == {path: data for path, data in before.items() if "parts/" not in path}


def test_parts_of_other_inputs_are_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "join", None)
        with pytest.raises(TypeError):
            label(tmp_path)
    assert (tmp_path / "run" / "parts" / "learned.parquet").exists()
    opinions = np.load(tmp_path / "opinions.npy")
    np.save(tmp_path / "opinions.npy", opinions[:, [1, 0, 2, 3]])
    labels = label(tmp_path).labels
    swapped = np.array([1, 0, 2, 3])[labels.label_index]
    assert (swapped == heap()[2]).mean() > 0.97


def test_the_opinion_may_be_vectors_of_the_classes(tmp_path: Path) -> None:
    features, _, truth = heap()
    vectors = np.stack([features[truth == c].mean(axis=0) for c in range(4)])
    np.save(tmp_path / "vectors.npy", vectors)
    labels = Labeler(NAMES).fit_predict(features=features, opinions=str(tmp_path / "vectors.npy"))
    assert right(labels, truth) > 0.97
    cosine = (features @ vectors.T / np.linalg.norm(features, axis=1)[:, None]) / np.linalg.norm(vectors, axis=1)
    np.testing.assert_array_equal(labels.indices("clip_label"), cosine.argmax(1))
    with pytest.raises(ValueError, match="opinions must have 600 rows, not 3"):
        Labeler(NAMES).fit_predict(features=features, opinions=vectors[:3])
    with pytest.raises(ValueError, match="opinions holds NaN"):
        Labeler(NAMES).fit_predict(features=features, opinions=vectors * np.nan)


def test_few_classes_are_labelled_as_many_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their products are made in one pass, and come out alike in any company."""
    features, _, truth = heap()
    vectors = str(tmp_path / "vectors.npy")
    np.save(vectors, np.stack([features[truth == c].mean(axis=0) for c in range(4)]))
    labeler = Labeler(NAMES, fit_rows=400).fit(features=features, opinions=vectors)
    few = labeler.predict(features=features, opinions=vectors)
    images = labeler.recall(features=features, opinions=vectors)
    assert labeler.label(images, np.arange(128, 256)).table.equals(few.table.slice(128, 128))
    monkeypatch.setattr(inputs, "NARROW", 0)
    many = labeler.predict(features=features, opinions=vectors)
    for column in ("label_index", "cluster", "clip_label", "rule"):
        assert few.table[column].equals(many.table[column])
    for column in ("confidence", "cluster_confidence", "clip_confidence"):
        np.testing.assert_allclose(few.numbers(column), many.numbers(column), atol=1e-4)


def test_a_file_is_read_in_pieces_that_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdui.labeling.features.matrix.MAPPED_ROWS", 7)
    array = np.random.default_rng(0).random((45, 3)).astype(np.float16)
    np.save(tmp_path / "x.npy", array)
    features = load_features(tmp_path / "x.npy")
    assert [len(block) for _, block in features.blocks()] == [7, 7, 7, 7, 7, 7, 3]
    for rows in ([3, 44, 3, 20], range(5, 30), range(45), []):
        np.testing.assert_array_equal(features.gather(np.array(rows, np.int64)), array[list(rows)].astype(np.float32))
    before = len(Path("/proc/self/maps").read_text().splitlines())
    parts_ = [features.piece(at) for at in range(7)]
    assert len(Path("/proc/self/maps").read_text().splitlines()) > before
    del parts_
    assert sum("x.npy" in line for line in Path("/proc/self/maps").read_text().splitlines()) == 0


def test_extend_labels_what_is_new_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, 450)
    with pytest.raises(ValueError, match="has no labels yet that could be extended"):
        label(tmp_path, mode="extend")
    before = label(tmp_path).labels
    learned = contents(tmp_path / "run" / "labeler")
    assert label(tmp_path, mode="extend").ledger == {}
    kept(tmp_path)
    asked: list[int] = []
    made = Labeler.label

    def counting(self: Labeler, images: Any, rows: Any, *args: Any, **given: Any) -> Labels:
        asked.extend(rows.tolist())
        return made(self, images, rows, *args, **given)

    monkeypatch.setattr(Labeler, "label", counting)
    monkeypatch.setattr(Labeler, "learn", None)
    outcome = label(tmp_path, mode="extend")
    assert asked == list(range(450, N))
    after = outcome.labels
    assert after.table.slice(0, 450).equals(before.table)
    assert after.ids.to_pylist() == [str(row) for row in range(N)]
    assert right(after, heap()[2]) > 0.95
    assert (outcome.diff.changed.num_rows, outcome.diff.kept, outcome.diff.added) == (0, 450, 150)
    assert contents(tmp_path / "run" / "labeler") == learned
    assert label(tmp_path).ledger == {}, "what was extended is done, and is not learned anew"


def test_extend_refuses_other_settings_with_the_difference(tmp_path: Path) -> None:
    kept(tmp_path)
    label(tmp_path)
    with pytest.raises(ValueError, match=r"begun with other settings.*\n  refine.sigma: 0.5 -> 0.25"):
        label(tmp_path, CONFIG.override({"refine.sigma": 0.25}), mode="extend")


def test_a_prediction_is_made_in_parts_too(tmp_path: Path) -> None:
    features, opinions = kept(tmp_path)
    label(tmp_path)
    outcome = predict_run(tmp_path / "run", features, tmp_path / "other", ready=True, opinions=opinions)
    assert right(outcome.labels, heap()[2]) > 0.97
    assert not (tmp_path / "other" / "parts").exists()
    assert not (tmp_path / "other" / "labeler").exists()


def test_extend_encodes_the_new_pictures_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gdui.demo import images

    pictures, folder = images()[:80], tmp_path / "heap"
    folder.mkdir()
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(10))))
    for at in range(0, 80, 2):
        Image.fromarray(pictures[at]).save(folder / f"{at:03d}.png")
    command = ["label", folder, "--classes", tmp_path / "names.txt", "--encoder", "digits", "--out", tmp_path / "run"]
    assert cli.main(list(map(str, command))) == 0
    before = Labels.from_run(tmp_path / "run")
    (folder / "000.png").unlink()
    for at in range(1, 80, 2):
        Image.fromarray(pictures[at]).save(folder / f"{at:03d}.png")
    capsys.readouterr()
    assert cli.main([*map(str, command), "--mode", "extend", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["relabelled"]) == (79, 0)
    after = Labels.from_run(tmp_path / "run")
    assert after.ids.to_pylist() == [f"{at:03d}.png" for at in range(1, 80)]
    old = [f"{at:03d}.png" for at in range(2, 80, 2)]
    assert [after.row(id_)["label"] for id_ in old] == [before.row(id_)["label"] for id_ in old]
    assert read_manifest(tmp_path / "run")["stages"]["label"]["ledger"]["encode"][1] <= 79
    assert cli.main([*map(str, command), "--mode", "extend"]) == 0
    assert "nothing was left to do" in capsys.readouterr().out
