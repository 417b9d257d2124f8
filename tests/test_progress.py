"""Progress on a terminal and elsewhere."""

import io
import time

import numpy as np
import pytest

from gdui.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_renews_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        for done in (0, 10, 20, 40):
            progress("encode", done, 40)
        progress("match", 5, 0)
    lines = stream.getvalue().replace("\r", "\n").split("\n")
    assert "encode: 10 of 40, 10/s, 0:03 left" in lines
    assert any(line.startswith("encode: 40 of 40, 13/s") for line in lines)
    assert "match: 5" in lines
    assert stream.getvalue().endswith("\n")


def test_progress_elsewhere_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    with Progress(stream) as progress:
        for done in range(0, 5000, 500):
            progress("encode", done, 3_600_000)
    assert (
        stream.getvalue()
        == "encode: 2,000 of 3,600,000, 500/s, 1:59:56 left\nencode: 4,500 of 3,600,000, 500/s, 1:59:51 left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "step", "words"),
    [
        (1.0, 1, "unet: 2 of 40, 1.0/s, 0:38 left"),
        (0.5, 1, "unet: 2 of 40, 2.0/s, 0:19 left"),
        (2.5, 1, "unet: 2 of 40, 2.5 s each, 1:35 left"),
        (90.0, 1, "unet: 2 of 40, 90 s each, 57:00 left"),
        (1.0, 0, "unet: 1 of 40"),
    ],
)
def test_what_is_slow_is_told_in_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, step: int, words: str
) -> None:
    now = iter(np.arange(0, 9) * seconds)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        progress("unet", 1, 40)
        progress("unet", 1 + step, 40)
    assert stream.getvalue().strip().split("\r")[-1] == words


def test_a_stage_that_was_interrupted_by_another_keeps_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        for stage, done in [
            ("unet", 0),
            ("unet", 6),
            ("steps", 1),
            ("steps", 4),
            ("unet", 12),
            ("steps", 1),
            ("steps", 2),
        ]:
            progress(stage, done, 40)
    lines = stream.getvalue().replace("\r", "\n").split("\n")
    assert "unet: 12 of 40, 3.0/s, 0:09 left" in lines
    assert lines[-3:-1] == ["steps: 1 of 40", "steps: 2 of 40, 1.0/s, 0:38 left"]
