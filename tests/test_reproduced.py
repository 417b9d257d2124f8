"""The words and numbers about the paper's tables are the rows', and rows that were made unlike are refused."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import judge, measured, reproduce, reproduced
from benchmarks.measured import DEFAULT, LMR, METHODS, PLG, PLM, STEPS, TRUTH, UNCONDITIONAL, ZERO_SHOT, Measured


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
    assert reproduced.final([row(PLG), replace(row(PLG), steps=STEPS // 2)]) == {PLG: [row(PLG)]}


def test_the_sentences_follow_the_rows() -> None:
    rows = [row(method, fid=20.0 if method == UNCONDITIONAL else 10.0 + at) for at, method in enumerate(METHODS)]
    said = reproduced.claims(rows)
    ours = 10.0 + METHODS.index(DEFAULT)
    assert f"FID {ours:.2f} with our labels" in said
    assert f"a share of {ours / 20:.2f}" in said
    assert reproduced.claims(rows[:2]) == ""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two methods, a step of training, and a judge that hardly learned."""
    monkeypatch.setattr(judge, "STEPS", 2)
    monkeypatch.setattr(reproduce, "set_threads", lambda _: None)
    monkeypatch.setattr(reproduce, "EACH", 2)
    monkeypatch.setattr(reproduce, "SAMPLER_STEPS", 2)
    monkeypatch.setattr(reproduce, "STEPS", 1)
    monkeypatch.setattr(reproduce, "SETTINGS", reproduce.SETTINGS | {"recipe.batch": 8})
    monkeypatch.setattr(reproduce, "FIGURE", tmp_path / "figure.png")
    monkeypatch.setattr(reproduce, "SEEDS", (0,))
    monkeypatch.setattr(reproduce, "METHODS", (UNCONDITIONAL, TRUTH))
    rows = tmp_path / "digits.csv"
    monkeypatch.setattr(reproduce, "read_measured", lambda: measured.read_measured(rows))
    monkeypatch.setattr(reproduce, "append", lambda row: measured.append(row, rows))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "digits", "--work", str(tmp_path / "work")])
    return rows


def test_a_run_makes_what_is_missing_and_no_row_twice(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--minutes", "0"])
    reproduce.main()
    assert not tiny.exists()
    monkeypatch.setattr(sys, "argv", sys.argv[:-2])
    reproduce.main()
    first = tiny.read_bytes()
    plain, truth = measured.read_measured(tiny)
    assert (plain.method, truth.method, truth.label_accuracy) == (UNCONDITIONAL, TRUTH, 1.0)
    assert plain.samples == truth.samples == 20
    assert math.isnan(plain.asked_accuracy)
    assert reproduce.FIGURE.exists()
    reproduce.main()
    assert tiny.read_bytes() == first


def test_a_label_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of the labeller gives the clusters, their names, the repair and the opinion."""
    np.savez(tmp_path / "labels-paper-0.npz", cluster=[3, 1], named=[1, 1], opinion=[0, 2], label=[1, 2])
    monkeypatch.setattr(reproduce, "Labeler", None)
    found = [reproduce.labels_of(method, 0, tmp_path).tolist() for method in (PLG, PLM, LMR, ZERO_SHOT)]
    assert found == [[3, 1], [1, 1], [1, 2], [0, 2]]
