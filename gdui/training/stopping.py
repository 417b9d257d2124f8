"""A training loop that is asked to end: the first Ctrl-C or SIGTERM lets the step underway finish, the next doesn't."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StoppedError", "asked_to_stop"]


class StoppedError(KeyboardInterrupt):
    """A training was asked to end, and its checkpoint is written."""


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Tells whether somebody has asked since the block began; a second time interrupts at once.

    Only a process's main thread hears of signals, and one that is ignored, as in a shell's background job, stays so.
    """
    heard: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
