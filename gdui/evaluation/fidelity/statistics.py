"""Mean and covariance of a stream of feature vectors, in float64 and the same to the bit however the stream was cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch

from gdui import checks

__all__ = ["Moments", "Stream", "merged", "moments"]

Floats = npt.NDArray[np.float64]
BLOCK = 1024


@dataclass(frozen=True)
class Moments:
    """How many vectors there were, their mean [d], and the sum of their deviations' outer products [d, d]."""

    count: int
    mean: Floats
    scatter: Floats

    @property
    def covariance(self) -> Floats:
        """The unbiased covariance [d, d]."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, not {self.count}")
        return self.scatter / (self.count - 1)

    def merge(self, other: "Moments") -> "Moments":
        """Of both streams together: n = n1 + n2, M = M1 + M2 + (m2 - m1)(m2 - m1)' n1 n2 / n."""
        if len(self.mean) != len(other.mean):
            raise ValueError(f"vectors of {len(self.mean)} and of {len(other.mean)} numbers can't be merged")
        if not (self.count and other.count):
            return self if self.count else other
        count, gap = self.count + other.count, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.count * other.count / count)
        return Moments(count, self.mean + gap * (other.count / count), scatter)


class Stream:
    """Takes vectors in batches of any size and adds them up in blocks of one size, in the order they came."""

    def __init__(self) -> None:
        self._total: Moments | None = None
        self._waiting: list[Floats] = []

    def add(self, features: npt.ArrayLike) -> None:
        """Takes the rows of `features` [B, d]."""
        rows = checks.array("features", features, 2).astype(np.float64)
        if self._waiting and rows.shape[1] != self._waiting[0].shape[1]:
            raise ValueError(f"features must have {self._waiting[0].shape[1]} columns as before, not {rows.shape[1]}")
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= BLOCK:
            rows = np.concatenate(self._waiting)
            whole = len(rows) // BLOCK * BLOCK
            for start in range(0, whole, BLOCK):
                self._include(rows[start : start + BLOCK])
            self._waiting = [rows[whole:]]

    def finish(self) -> Moments:
        """The moments of all that came."""
        rest = np.concatenate(self._waiting) if self._waiting else np.empty((0, 0))
        if len(rest):
            self._include(rest)
            self._waiting = [rest[:0]]
        if self._total is None:
            raise ValueError("features must hold at least one vector")
        return self._total

    def _include(self, rows: Floats) -> None:
        mean = rows.mean(axis=0)
        deviations = torch.from_numpy(rows - mean)
        block = Moments(len(rows), mean, (deviations.T @ deviations).numpy())
        self._total = block if self._total is None else self._total.merge(block)


def moments(features: npt.ArrayLike) -> Moments:
    """The moments of the rows of `features` [N, d]."""
    stream = Stream()
    stream.add(features)
    return stream.finish()


def merged(parts: Sequence[Moments]) -> Moments | None:
    """The moments of several streams together, merged in the order given; None for no stream at all."""
    return reduce(Moments.merge, parts) if parts else None
