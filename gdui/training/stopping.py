"""A training loop that is asked to end: the first Ctrl-C or SIGTERM lets the step underway finish, the next doesn't."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import torch

from gdui.training.history import History, Saved
from gdui.training.ranks import on_any_rank, place

__all__ = ["StoppedError", "asked_to_stop", "keep"]


class StoppedError(KeyboardInterrupt):
    """A training was asked to end, and its checkpoint is written."""


class Underway(Protocol):
    """A training after so many steps, and all there is to go on with."""

    step: int

    def saved(self, facts: dict[str, Any]) -> Saved: ...


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
    if heard:  # since the last answer, while the last checkpoint was written
        raise KeyboardInterrupt


def keep(
    state: Underway,
    history: History,
    facts: dict[str, Any],
    *,
    steps: int,
    every: int,
    asked: bool,
    device: torch.device,
) -> None:
    """Writes a checkpoint of a finished step where one is due; raises StoppedError if this or another rank was `asked`.

    Args:
        facts: of the run, as `History.resume` compares them.
        steps, every: of the whole training, and between two checkpoints.
        device: by which the ranks hear of each other.
    """
    stop = on_any_rank(asked, device)
    if place()[0] == 0 and (stop or state.step == steps or state.step % every == 0):
        history.save(state.saved(facts))
    if stop:
        raise StoppedError(
            f"stopped after step {state.step} of {steps}, which is kept in {history.folder}; "
            "run the same command again to continue"
        )
