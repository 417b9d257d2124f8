"""How far a long command is: one line that renews itself on a terminal, else a line every few seconds."""

import sys
import time
from typing import TextIO

__all__ = ["Progress"]

TERMINAL_SECONDS, LOG_SECONDS = 0.1, 5.0


class Progress:
    """Takes (stage, done, total) as often as it is told; total 0 means that nobody knows. Use it in a `with` block."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._begun: dict[str, tuple[float, int, int]] = {}
        self._shown_at = self._opened = time.monotonic()
        self._line = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._finish_line()
            self._stage = stage
        began, first, last = self._begun.get(stage, (now, done, done))
        if done < last:  # the same once more
            began, first = now, done
        self._begun[stage] = began, first, done
        pause = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        if now - self._shown_at >= pause or (self._line and done == total):
            self._shown_at = now
            self._show(_line(stage, done, total, done - first, now - began))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_line()

    def _show(self, line: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{line:<{len(self._line)}}")
            self._line = line
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _finish_line(self) -> None:
        if self._line:
            self._stream.write("\n")
            self._stream.flush()
        self._line = ""


def _line(stage: str, done: int, total: int, moved: int, seconds: float) -> str:
    of = f" of {total:,}" if total else ""
    if moved <= 0 or seconds <= 0:
        return f"{stage}: {done:,}{of}"
    left = f", {_clock((total - done) * seconds / moved)} left" if total > done else ""
    return f"{stage}: {done:,}{of}, {_pace(moved / seconds)}{left}"


def _pace(rate: float) -> str:
    """So many a second, or of slow things the seconds that each takes."""
    return f"{_figure(rate)}/s" if rate >= 1 else f"{_figure(1 / rate)} s each"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
