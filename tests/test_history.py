"""A training's folder: checkpoints that are whole or passed over, and the table of losses."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainings import losses

from gdui.training.history import History, Saved


@pytest.mark.parametrize("text", ["", "step,lo", "step,loss\n", "step,loss\n1,0.5\n"])
def test_a_table_of_losses_before_the_first_checkpoint_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "losses.csv").write_text(text)
    history = History(tmp_path)
    assert history.resume({}, 1) is None
    history.record(step=1, loss=0.25)
    assert losses(tmp_path) == [["step", "loss", "gradient_norm"], ["1", "0.25", ""]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": None}, r"step-00000002\.json lacks 'sha256': another version of gdui wrote it"),
        ({"facts": None}, r"step-00000002\.json lacks 'facts'"),
        ({"facts": {}}, r"step-00000002\.json lacks 'recipe'"),
        ({"version": 2}, r"step-00000002\.json was written by a newer gdui \(checkpoint version 2, known 1\)"),
    ],
)
def test_a_seal_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    history = History(tmp_path)
    history.save(Saved(2, {"recipe": {}}, {"w": torch.zeros(1)}))
    path = tmp_path / "step-00000002.json"
    changed = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    with pytest.raises(ValueError, match=words):
        history.resume({}, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"step": 2, '])
def test_a_seal_that_is_no_json_is_passed_over(tmp_path: Path, text: str) -> None:
    history = History(tmp_path)
    for step in (1, 2):
        history.save(Saved(step, {}, {"w": torch.zeros(1)}))
    (tmp_path / "step-00000002.json").write_text(text)
    found = history.newest()
    assert found is not None
    assert found.step == 1


def test_a_flipped_bit_sends_a_run_back_one_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path)
    for step in (1, 2):
        history.save(Saved(step, {}, {"w": torch.full((4,), float(step))}))
    path = tmp_path / "step-00000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = history.newest()
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in caplog.text


def test_tensorboard_gets_the_losses_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((Path(folder).name, purge_step))

        def add_scalar(self, *value: Any) -> None:
            told.append(value)

        def flush(self) -> None:
            told.append(("flushed",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    history = History(tmp_path)
    history.record(step=7, loss=0.5)
    history.save(Saved(7, {}, {"w": torch.zeros(1)}))
    assert told == [("tensorboard", 7), ("step", 7, 7), ("loss", 0.5, 7), ("flushed",)]
    assert (tmp_path / "losses.csv").read_text().splitlines()[1] == "7,0.5,,,,,"


def test_without_tensorboard_the_table_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    History(tmp_path).record(step=1, loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["losses.csv"]


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    history = History(tmp_path, keep=2)
    for step in range(5):
        history.save(Saved(step, {}, {"w": torch.zeros(1)}))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"step-0000000{step}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
    ]


def test_one_killed_before_it_dropped_old_checkpoints_is_tidied(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        History(tmp_path, keep=9).save(Saved(step, {"recipe": {}}, {"w": torch.zeros(1)}))
    (tmp_path / "step-00000004.safetensors").write_bytes(b"damaged")
    saved = History(tmp_path, keep=1).resume({}, 4)
    assert saved is not None
    assert saved.step == 3
    assert sorted(path.stem[-1] for path in tmp_path.glob("*.safetensors")) == ["3", "4"]
