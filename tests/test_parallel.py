"""The core's pool of threads: many callers at once, forked children, and a caller that nobody helps."""

import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gdui import _core

TASKS = Path("/proc/self/task")
IMAGES = np.random.default_rng(0).standard_normal((16, 3, 700), dtype=np.float32)
TABLE, STEPS, SEEDS = np.ones((2, 16), np.float32), np.zeros(16, np.int64), np.arange(16)


def noisy(threads: int, times: int = 1) -> npt.NDArray[np.float32]:
    out = np.empty_like(IMAGES)
    for _ in range(times):
        out.fill(np.nan)
        _core.noise_images(IMAGES, STEPS, TABLE, None, SEEDS, out, threads)
    return out


def test_callers_at_once_each_get_their_own() -> None:
    truth, found = noisy(1), {}

    def call(number: int) -> None:
        found[number] = noisy(1 + number % 4, times=30)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == len(callers)
    assert all(np.array_equal(truth, one) for one in found.values())


def test_a_forked_child_has_threads_of_its_own() -> None:
    """Forked while others are at work, for then the pool's lock may be held for ever in the child."""
    truth, stop = noisy(3), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            noisy(3)

    others = [threading.Thread(target=busy) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.array_equal(truth, noisy(3, times=3)) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        for other in others:
            other.join()


@pytest.mark.skipif(not TASKS.exists(), reason="this system does not list a process's threads")
def test_the_pool_has_a_thread_for_each_core_at_most() -> None:
    images, table, rows = np.ones((4096, 1, 8192), np.float32), TABLE, np.arange(4096)
    before = len(list(TASKS.iterdir()))
    _core.noise_images(images, np.zeros_like(rows), table, None, rows, images, 65536)
    assert len(list(TASKS.iterdir())) - before <= (os.cpu_count() or 1)


def test_more_threads_than_there_is_work_for_or_room() -> None:
    assert np.array_equal(noisy(1), noisy(500))
