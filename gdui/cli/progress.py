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
        self._from = (0.0, 0)
        self._shown_at = self._opened = time.monotonic()
        self._line = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._finish_line()
            self._stage, self._from = stage, (now, done)
        pause = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        if now - self._shown_at >= pause or (self._line and done == total):
            self._shown_at = now
            self._show(_line(stage, done, total, done - self._from[1], now - self._from[0]))

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
    rate = moved / seconds if seconds > 0 else 0.0
    of = f" of {total:,}" if total else ""
    speed = f", {rate:,.0f}/s" if rate else ""
    left = f", {_clock((total - done) / rate)} left" if rate and total > done else ""
    return f"{stage}: {done:,}{of}{speed}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
