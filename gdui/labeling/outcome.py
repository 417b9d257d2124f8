"""What becomes of images on their way to a table of labels, and the time that it takes."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gdui.labeling.cluster import Assignment
from gdui.labeling.learned import Decision

__all__ = ["Clock", "Outcome", "Progress", "Table"]

Matrix = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of the images that were learned from; `rows` says which of all they are."""

    rows: npt.NDArray[np.int64]
    found: Assignment
    decided: Decision
    surety: Matrix
    consistency: Matrix


@dataclass(frozen=True)
class Table:
    """The columns of all images, filled in pieces."""

    label: npt.NDArray[np.int32]
    confidence: Matrix
    rule: npt.NDArray[np.uint8]
    cluster: npt.NDArray[np.int32]
    cluster_confidence: Matrix
    consistency: Matrix
    surety: Matrix
    first: npt.NDArray[np.int32]
    first_confidence: Matrix
    second: npt.NDArray[np.int32]

    @classmethod
    def blank(cls, n: int) -> Self:
        whole, real = np.int32, np.float32
        kinds: list[Any] = [whole, real, np.uint8, whole, real, real, real, whole, real, whole]
        return cls(*(np.full(n, np.nan if kind is real else 0, kind) for kind in kinds))

    def put(self, where: Any, found: Assignment, decided: Decision, opinion: Matrix) -> None:
        """Fills the rows `where`."""
        self.label[where], self.confidence[where], self.rule[where] = decided
        self.cluster[where], self.cluster_confidence[where] = found.cluster, found.confidence
        two = np.argpartition(-opinion, 1, axis=1)[:, :2]
        ahead = np.take_along_axis(opinion, two, 1)
        swap = (ahead[:, 1] > ahead[:, 0]) | ((ahead[:, 1] == ahead[:, 0]) & (two[:, 1] < two[:, 0]))
        self.first[where], self.second[where] = (
            np.where(swap, two[:, 1], two[:, 0]),
            np.where(swap, two[:, 0], two[:, 1]),
        )
        self.first_confidence[where] = ahead.max(axis=1)


class Clock:
    """Seconds and images of each stage, told to whoever asked."""

    def __init__(self, progress: Progress | None) -> None:
        self.ledger: dict[str, tuple[float, int]] = {}
        self.total = 0
        self._progress = progress

    def report(self, stage: str, done: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, self.total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.report(name, 0)
        start = time.perf_counter()
        yield
        self.ledger[name] = time.perf_counter() - start, self.total
        log.info("%s: %.2f s for %d images", name, self.ledger[name][0], self.total)
        self.report(name, self.total)
