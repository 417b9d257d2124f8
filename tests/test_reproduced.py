"""The words and numbers about the paper's tables are the rows', and rows that were made unlike are refused."""

import io
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import judge, measured, reproduce, reproduced
from benchmarks.measured import DEFAULT, LMR, METHODS, PLG, PLM, TRUTH, UNCONDITIONAL, ZERO_SHOT, Measured
from benchmarks.subjects import Subject, digits, stl10

STEPS = 300


def row(method: str, seed: int = 0, fid: float = 10.0) -> Measured:
    right = float("nan") if method == UNCONDITIONAL else 0.9
    return Measured(
        method, seed, STEPS, 1790, 1797, fid, fid - 1, fid / 2, 6.0, 0.5, 0.6, 0.001, right, right, 0.99, 60.0, "{}",
        "2026-01-01",
    )  # fmt: skip


def test_rows_are_kept_as_they_were(tmp_path: Path) -> None:
    rows = [row(UNCONDITIONAL), row(PLG, 1, fid=12.25)]
    for one in rows:
        measured.append(one, tmp_path / "digits.csv")
    found = measured.read_measured(tmp_path / "digits.csv")
    assert found[1] == rows[1]
    assert [one.key for one in found] == [one.key for one in rows]


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    rows = [row(PLG, seed, fid) for seed, fid in enumerate((9.0, 10.0, 11.0))] + [row(UNCONDITIONAL)]
    table = reproduced.scores_table(rows)
    assert "| PLG (3) | 10.00 ± 1.00 | 9.00 ± 1.00 |" in table
    assert "| unconditional (1) | 10.00 |" in table
    assert "nan" not in table


def test_rows_of_unequal_size_make_no_table() -> None:
    with pytest.raises(ValueError, match="same numbers of samples"):
        reproduced.scores_table([row(PLG), replace(row(UNCONDITIONAL), samples=100)])


def test_rows_in_the_midst_of_training_stay_out_of_the_table() -> None:
    assert reproduced.final([replace(row(PLG), steps=STEPS // 2), row(PLG)]) == {PLG: [row(PLG)]}


def test_the_sentences_follow_the_rows() -> None:
    rows = [row(method, fid=20.0 if method == UNCONDITIONAL else 10.0 + at) for at, method in enumerate(METHODS)]
    said = reproduced.claims(rows)
    ours = 10.0 + METHODS.index(DEFAULT)
    assert f"FID {ours:.2f} with our labels" in said
    assert f"a share of {ours / 20:.2f}" in said
    assert reproduced.claims(rows[:2]) == ""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The digits, a step of training, few pictures, and a judge that hardly learned."""
    monkeypatch.setattr(judge, "STEPS", 2)
    subject = digits(steps=1)
    return replace(subject, each=2, sampler_steps=2, settings={**subject.settings, "recipe.batch": 8})


def test_a_run_makes_what_is_missing_and_no_row_twice(tiny: Subject, tmp_path: Path) -> None:
    keys = [(UNCONDITIONAL, 0, 1), (TRUTH, 0, 1)]
    rows, figure = tmp_path / "digits.csv", tmp_path / "figure.png"
    run = partial(reproduce.make, tiny, keys, work=tmp_path / "work", rows=rows, figure=figure)
    run(minutes=0)
    assert not rows.exists()
    run(minutes=10)
    first = rows.read_bytes()
    plain, truth = measured.read_measured(rows)
    assert (plain.method, truth.method, truth.label_accuracy) == (UNCONDITIONAL, TRUTH, 1.0)
    assert plain.samples == truth.samples == 20
    assert math.isnan(plain.asked_accuracy)
    assert figure.exists()
    run(minutes=10)
    assert rows.read_bytes() == first


def test_all_methods_come_first_and_curves_only_where_asked(tiny: Subject) -> None:
    plain = reproduce.wanted(tiny, curves=False, sigmas=False)
    assert [method for method, _, _ in plain[: len(METHODS)]] == list(METHODS)
    whole = reproduce.wanted(tiny, curves=True, sigmas=True)
    assert set(plain) < set(whole)
    assert len(set(whole)) == len(whole)


def test_a_label_set_is_made_once(tiny: Subject, tmp_path: Path) -> None:
    """One run of the labeller gives the clusters, their names, the repair and the opinion."""
    np.savez(tmp_path / "labels-paper-0.npz", cluster=[3, 1], named=[1, 1], opinion=[0, 2], label=[1, 2])
    unasked = replace(tiny, label=None)
    found = [reproduce.labels_of(unasked, method, 0, tmp_path).tolist() for method in (PLG, PLM, LMR, ZERO_SHOT)]
    assert found == [[3, 1], [1, 1], [1, 2], [0, 2]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of a folder for each of two classes."""
    for name, shade in (("bird", 40), ("ship", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 50, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise + np.uint8(shade)).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_a_folder_of_classes_makes_rows_as_the_digits_do(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "STEPS", 2)
    subject = stl10(pictures, "tiny", "digits", "digits", None, steps=1, each=2)
    assert subject.classes == ("bird", "ship")
    assert subject.pixels.shape == (8, 8, 8, 3)
    assert subject.truth.tolist() == [0] * 4 + [1] * 4
    small = replace(subject, sampler_steps=2, settings={**subject.settings, "recipe.batch": 4, "network.width": 32})
    rows, figure = tmp_path / "rows.csv", tmp_path / "figure.png"
    reproduce.make(small, [(LMR, 0, 1)], work=tmp_path / "work", rows=rows, figure=figure, minutes=10)
    made = measured.read_measured(rows)[0]
    assert (made.method, made.samples, made.references) == (LMR, 4, 8)
    assert 0 <= made.label_accuracy <= 1


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder for each class"):
        stl10(tmp_path / "none", "tiny", "digits", "digits", None, steps=1, each=2)


def test_the_papers_own_pictures_are_read_from_a_file(tmp_path: Path) -> None:
    """Both folds, in their order, brought to the network's side."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array(["bird", "ship"])}
    for fold, labels in (("train", [1, 0]), ("test", [0])):
        files = [jpeg(100 * label + 50) for label in labels]
        arrays[f"{fold}_data"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{fold}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{fold}_labels"] = np.array(labels)
    np.savez(tmp_path / "stl.npz", **arrays)
    subject = stl10(tmp_path / "stl.npz", "tiny", "digits", "digits", None, steps=1, each=2)
    assert subject.truth.tolist() == [1, 0, 0]
    assert np.abs(subject.pixels.mean((1, 2, 3)) - [150, 50, 50]).max() < 2


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()
