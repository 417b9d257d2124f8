"""Runs that an older gdui made: what it had no setting for is said, and the usual is taken where that is right."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdui.config import Config
from gdui.labeling.workflow import label_run, predict_run, relabel_run
from gdui.labels import Labels
from gdui.runs import Run, read_manifest

NAMES = ["ant", "bee"]


def label(**changes: Any) -> Any:
    """Labels vectors of two kinds, in the working folder."""
    return label_run("f.npy", NAMES, "run", Config(), ready=True, opinions="o.npy", **changes)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def older(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was made before there were two of today's settings."""
    monkeypatch.chdir(tmp_path)
    kind = np.arange(60) % 2
    np.save("f.npy", np.eye(2)[kind] + rng.random((60, 2)) / 4)
    np.save("o.npy", np.eye(2)[kind] * 0.8 + 0.1)
    label()
    settings = read_manifest("run")["settings"]
    del settings["cluster"]["least_steps"], settings["fit_rows"]
    with monkeypatch.context() as patch, Run("run", read_manifest("run")["settings"]) as run:
        patch.setattr("gdui.runs.__version__", "0.0.9")
        run.reopen(settings)


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize("mode", ["continue", "extend"])
def test_a_run_without_a_setting_of_today_is_not_continued(mode: str) -> None:
    words = r"^run was made by gdui 0\.0\.9 without fit_rows, cluster\.least_steps, so .*'overwrite'; relabel"
    with pytest.raises(ValueError, match=words):
        label(mode=mode)
    assert label(mode="overwrite").ledger


@pytest.mark.usefixtures("older")
def test_relabelling_takes_what_is_usual_today_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    relabel_run("run", ["ant", "cow"], opinions="o.npy")
    words = "run had no fit_rows, cluster.least_steps when it was made: what is usual today is taken"
    assert warned(caplog) == [words]
    assert words in Path("run/log").read_text()
    assert read_manifest("run")["settings"]["cluster"]["least_steps"] == Config().cluster.least_steps
    caplog.clear()
    relabel_run("run", NAMES, opinions="o.npy")
    assert warned(caplog) == []
    assert label().ledger == {}, "now it has all settings and can be continued"


@pytest.mark.usefixtures("older")
def test_a_prediction_learns_nothing_and_so_misses_no_setting(caplog: pytest.LogCaptureFixture) -> None:
    before = Labels.from_run("run")
    after = predict_run("run", "f.npy", "new", ready=True, opinions="o.npy").labels
    np.testing.assert_array_equal(after.label_index, before.label_index)
    assert warned(caplog) == []


def test_settings_that_differ_are_told_with_the_version_that_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gdui.runs.__version__", "0.0.9")
        with Run(tmp_path / "run", {"seed": 1}) as run:
            run.finish("encode")
    with pytest.raises(ValueError, match=r"run was begun by gdui 0\.0\.9 with other settings: .*\n  seed: 1 -> 2"):
        Run(tmp_path / "run", {"seed": 2})
