"""What becomes of images on their way to a table of labels, and the time that it takes."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui.labeling.cluster import Assignment
from gdui.labeling.learned import Decision
from gdui.labeling.rows import Choice
from gdui.labels import Facts, Labels
from gdui.places import readable
from gdui.runs import atomic_path

__all__ = ["Clock", "Known", "Progress", "Table"]

Matrix = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

log = logging.getLogger(__name__)


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

    def put(self, where: Any, found: Assignment, decided: Decision, said: Choice) -> None:
        """Fills the rows `where`; the opinion of them `said` which class they are."""
        self.label[where], self.confidence[where], self.rule[where] = decided
        self.cluster[where], self.cluster_confidence[where] = found.cluster, found.confidence
        self.first[where], self.second[where] = said.first, said.second
        self.first_confidence[where] = said.most

    def labels(self, ids: pa.ChunkedArray, classes: list[str], names: npt.NDArray[np.int64], facts: Facts) -> Labels:
        """The labels of the images `ids`, whose clusters have these `names`."""
        return Labels.from_arrays(
            ids,
            classes,
            label_index=self.label,
            confidence=self.confidence,
            matched_index=names[self.cluster],
            cluster=self.cluster,
            cluster_confidence=self.cluster_confidence,
            consistency=self.consistency,
            clip_index=self.first,
            clip_confidence=self.first_confidence,
            clip_second_index=self.second,
            rule=self.rule,
            facts=facts,
        )

    def take(self, where: npt.NDArray[np.integer], other: Self, rows: npt.NDArray[np.integer]) -> None:
        """Fills the rows `where` with those `rows` of another table."""
        for field in fields(self):
            getattr(self, field.name)[where] = getattr(other, field.name)[rows]


@dataclass(frozen=True)
class Known:
    """What became of the images that were learned from; `rows` says which of all they are, ascending."""

    rows: npt.NDArray[np.int64]
    table: Table

    def save(self, path: Path) -> None:
        """Writes one file with checksums, whole or not at all."""
        columns = {"rows": self.rows} | {field.name: getattr(self.table, field.name) for field in fields(Table)}
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(columns), temporary, write_page_checksum=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        try:
            table = pq.read_table(readable(path), page_checksum_verification=True)
            columns = {name: table[name].to_numpy() for name in table.column_names}
            return cls(columns.pop("rows"), Table(**columns))
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} can't be read: delete it and run the same command again ({error})") from None


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

    def predicting(self, images: int, known: Known | None) -> AbstractContextManager[None]:
        """The stage in which images are labelled by what was learned; there is none where all of them are `known`."""
        self.total = images
        return nullcontext() if known is not None and len(known.rows) == images else self.stage("predict")

    def predicted(self, before: int, done: int) -> None:
        """Hears of a part of them: how many images came before it, and how many of its own are done."""
        self.report("predict", before + done)
