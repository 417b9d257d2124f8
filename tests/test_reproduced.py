"""The words and numbers about the paper's tables are the rows', and rows that were made unlike are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import measured, reproduced
from benchmarks.measured import DEFAULT, METHODS, PLG, STEPS, UNCONDITIONAL, Measured


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
    assert "| PLG (cluster ids) (3) | 10.00 ± 1.00 | 9.00 ± 1.00 |" in table
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
