"""Work whose bytes don't depend on the number of threads: fixed pieces, each on one thread, put together in order.

The libraries below split a product or a sum by the threads they have, and round accordingly.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from gdui import checks

__all__ = ["BLOCK", "blocks", "one_thread_each"]

BLOCK = 8192


def blocks(n: int) -> list[slice]:
    """Rows 0 to n in pieces that depend on n alone."""
    return [slice(at, min(at + BLOCK, n)) for at in range(0, n, BLOCK)]


@contextmanager
def one_thread_each(threads: int | None = None) -> Iterator[Callable[..., list[Any]]]:
    """A `map` that works on several pieces at once, each with one thread for itself; the caller has one meanwhile."""
    own = torch.get_num_threads()
    with (
        _libraries().limit(limits=1),
        ThreadPoolExecutor(checks.thread_count(threads), "gdui", torch.set_num_threads, (1,)) as pool,
    ):
        torch.set_num_threads(1)
        try:
            yield lambda work, *pieces: list(pool.map(work, *pieces))
        finally:
            torch.set_num_threads(own)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
