"""What can be said of labels without their rows: how many images each class got, and how sure they are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdui.labels import files
from gdui.labels.facts import Facts

__all__ = ["Totals", "no_quarantine"]


def no_quarantine() -> pa.Table:
    """That every image could be read."""
    return pa.table({"id": pa.array([], pa.string()), "reason": pa.array([], pa.string())})


@dataclass(frozen=True)
class Totals:
    """Labels of any number of images, summed up.

    counts, sums: images and their confidences, first of those without a label, then of each class [C + 1].
    """

    classes: list[str]
    facts: Facts
    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    quarantine: pa.Table = field(default_factory=no_quarantine)

    @classmethod
    def none(cls, classes: list[str], facts: Facts) -> Self:
        """Of no images so far."""
        return cls(classes, facts, np.zeros(len(classes) + 1, np.int64), np.zeros(len(classes) + 1))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those of a file, of which no more than a part is in memory at once."""
        totals = cls.none(*files.read_about(path))
        for _ in totals.counting(files.read_batches(path, ["label_index", "confidence"])):
            pass
        return totals

    def counting(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables, counted as they pass."""
        for table in tables:
            index = np.asarray(table["label_index"]) + 1
            self.counts[:] += np.bincount(index, minlength=len(self.counts))
            self.sums[:] += np.bincount(index, np.nan_to_num(np.asarray(table["confidence"])), len(self.sums))
            yield table

    @property
    def images(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    @property
    def nameless(self) -> list[str]:
        """The classes that no cluster is named after."""
        named = {cluster.matched for cluster in self.facts.clusters}
        return [name for at, name in enumerate(self.classes) if named and at not in named]
