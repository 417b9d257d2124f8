"""In which order a training loop sees its rows: a function of the seed and the step alone, so a resume can't differ."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["rows_of"]


def rows_of(step: int, count: int, batch: int, seed: int) -> npt.NDArray[np.int64]:
    """The batch of `step` from an endless row of shuffled epochs, every one of `count` rows once in each."""
    places = np.arange(step * batch, (step + 1) * batch)
    rows = np.empty(batch, np.int64)
    for epoch in np.unique(places // count):
        here = places // count == epoch
        rows[here] = _order(seed, int(epoch), count)[places[here] % count]
    return rows


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
