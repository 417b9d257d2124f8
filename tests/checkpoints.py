"""What tests ask of a folder of checkpoints."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gdui.training.history import History


def newest_digest(folder: Path) -> str:
    """A digest of the newest checkpoint's bytes: pytest would take hours to show where megabytes differ."""
    return hashlib.sha256(sorted(folder.glob("step-*.safetensors"))[-1].read_bytes()).hexdigest()


def assert_alike(folder: Path, other: Path) -> None:
    """The newest checkpoints of both hold the same, but for the order in which sums were taken."""
    one, two = History(folder).newest(), History(other).newest()
    assert one is not None
    assert two is not None
    assert one.tensors.keys() == two.tensors.keys()
    for name, value in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], value, atol=2e-4, rtol=2e-3, msg=name)


def assert_stopping_loses_nothing(train: Callable[..., object], folder: Path, number: signal.Signals) -> None:
    """Who is asked to stop in the first of six steps finishes it; taken up again, `train` ends in the same bytes."""
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 1 of 6, which is kept in .*stopped; run the same"):
        train(folder / "stopped", progress=lambda *_: os.kill(os.getpid(), number))
    found = History(folder / "stopped").newest()
    assert found is not None
    assert found.step == 1
    train(folder / "stopped")
    train(folder / "whole")
    assert newest_digest(folder / "stopped") == newest_digest(folder / "whole")
