"""Who asks a training to stop is heard, and loses nothing."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import assert_stopping_loses_nothing, newest_digest
from trainings import RECIPE, losses, train

from gdui.training.history import History, Saved
from gdui.training.stopping import StoppedError


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_finishes_the_step_and_loses_none(tmp_path: Path, number: signal.Signals) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert_stopping_loses_nothing(train, tmp_path, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.usefixtures("ears")
def test_who_asks_while_the_last_checkpoint_is_written_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = History.save

    def saved_then_asked(self: History, saved: Saved) -> None:
        save(self, saved)
        if saved.step == RECIPE.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(History, "save", saved_then_asked)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert train(tmp_path).step == RECIPE.steps, "the last step was kept"


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("moment", ["step", "tensors", "seal"])
def test_who_is_asked_twice_leaves_at_once_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def ask(*_: Any, **__: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return ""

    def ask_twice(*_: Any) -> None:
        ask()
        ask()

    with monkeypatch.context() as patched:
        if moment != "step":
            patched.setattr(f"gdui.training.history.{'_digest' if moment == 'tensors' else 'json.dumps'}", ask)
        with pytest.raises(KeyboardInterrupt) as ended:
            train(tmp_path / "stopped", progress=ask_twice if moment == "step" else ask)
    assert not isinstance(ended.value, StoppedError)
    left = {path.name for path in (tmp_path / "stopped").iterdir()} - {"tensorboard"}
    assert left == {"losses.csv", *(["step-00000001.safetensors"] if moment == "seal" else [])}
    train(tmp_path / "stopped", replace(RECIPE, keep=9))
    train(tmp_path / "whole", replace(RECIPE, keep=9))
    assert newest_digest(tmp_path / "stopped") == newest_digest(tmp_path / "whole")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    names = [sorted(path.name for path in (tmp_path / one).glob("step-*")) for one in ("stopped", "whole")]
    assert names[0] == names[1]
