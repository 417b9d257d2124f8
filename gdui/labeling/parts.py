"""Labels of any number of images in little memory: part by part, each a function of its rows, and each kept whole.

What was learned is small, and labels rows in blocks, on every core. In a run folder the parts lie in `parts/` until all
of them are there and are joined, so that a killed run goes on at the part where it died.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui.labeling.inputs import Images
from gdui.labeling.learned import RULE, Learned
from gdui.labeling.ordered import one_thread_each
from gdui.labeling.outcome import Known, Table
from gdui.labeling.rows import choose
from gdui.labels import Labels, Totals
from gdui.labels.files import write_parquet
from gdui.labels.words import Diff
from gdui.places import remove
from gdui.runs import atomic_path

__all__ = ["PART_ROWS", "Kept", "Parts", "label_rows", "parts"]

Indices = npt.NDArray[np.integer]

PART_ROWS = 1 << 20
BLOCK_CELLS = 1 << 20  # of a block's largest matrix: what is made of it next finds it in a near cache
NARROWEST = 64  # cells a row is counted as, so that there are blocks for every thread
BLOCKS_AT_ONCE = 64
STAMP = "stamp.json"


def parts(n: int) -> Iterator[npt.NDArray[np.int64]]:
    """The rows 0 to n in pieces that depend on n alone; at least one, be it empty."""
    return (np.arange(at, min(at + PART_ROWS, n)) for at in range(0, max(n, 1), PART_ROWS))


def label_rows(
    learned: Learned,
    images: Images,
    rows: Indices,
    known: Known | None = None,
    *,
    reject: float | None = None,
    tell: Callable[[int], None] | None = None,
) -> Table:
    """The table of the images `rows`, ascending; those among them that are `known` stay as they came out.

    reject: below this surety an image gets no label. tell: hears how many are done.
    """
    table, new = Table.blank(len(rows)), np.arange(len(rows))
    whole = known is None
    if known is not None:
        at = np.searchsorted(known.rows, rows)
        found = known.rows[np.minimum(at, len(known.rows) - 1)] == rows
        table.take(np.flatnonzero(found), known.table, at[found])
        new = np.flatnonzero(~found)

    columns = learned.columns()
    texts = images.narrow(columns) if columns else None

    def label(where: Indices) -> None:
        if texts is None:
            unit, opinion = images.units(rows[where], learned.center)
            said = choose(opinion)
            found, decided = learned.decide(unit, opinion, said)
        else:
            products, opinion = images.products(rows[where], learned.center, columns, texts)
            said = choose(opinion)
            found, decided = learned.decide_by(products, opinion, said)
        to = slice(where[0], where[-1] + 1) if whole else where  # a slice is filled without looking up each row
        table.put(to, found, decided, said)
        table.surety[to] = (learned.surety[found.cluster] + table.first_confidence[to]) / 2

    widest = max(learned.clusters.k, images.opinion.classes, images.features.dim if texts is None else NARROWEST)
    step = max(1, BLOCK_CELLS // widest)
    with one_thread_each() as each:
        for start in range(0, len(new), BLOCKS_AT_ONCE * step):
            some = new[start : start + BLOCKS_AT_ONCE * step]
            each(label, [some[at : at + step] for at in range(0, len(some), step)])
            if tell is not None:
                tell(len(rows) - len(new) + start + len(some))
    if reject is not None:
        unsure = (table.surety < reject) & (table.rule != RULE["pinned"])
        table.label[unsure], table.rule[unsure] = -1, RULE["rejected"]
    return table


@dataclass(frozen=True)
class Kept:
    """Labels that stay while others are added: `at` is each image's row in them, -1 for a new one [N]."""

    labels: Labels
    at: npt.NDArray[np.int64]

    @classmethod
    def among(cls, images: Images, labels: Labels) -> Self:
        """The labels of those images that have one."""
        found = pc.index_in(images.ids.cast(pa.large_string()), labels.ids.combine_chunks())
        return cls(labels, np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64))

    def completed(self, rows: Indices, label: Callable[[Indices], Labels]) -> Labels:
        """The labels of the images `rows`, those made by `label` that are new."""
        at = self.at[rows]
        old = self.labels.take(at[at >= 0])
        if (at >= 0).all():
            return old
        order = np.argsort(np.concatenate([np.flatnonzero(at >= 0), np.flatnonzero(at < 0)]))
        return Labels.joined([old, label(rows[at < 0])], old.facts, old.quarantine).take(order)

    def diff(self) -> Diff:
        """What becomes of the old labels: all of them are kept, but for those of images that are gone."""
        kept = int((self.at >= 0).sum())
        return Diff.without_changes(kept, added=len(self.at) - kept, removed=len(self.labels) - kept)


class Parts:
    """The folder of what is underway: what was learned from, and the labels of each part that is done.

    They belong to one `stamp`; what stands there under another is taken away.
    """

    def __init__(self, folder: Path, stamp: Mapping[str, Any]) -> None:
        self.folder, self._text = folder, json.dumps(dict(stamp), sort_keys=True)

    @property
    def begun(self) -> bool:
        """Whether they are underway."""
        about = self.folder / STAMP
        return about.exists() and about.read_text(encoding="utf-8") == self._text

    def begin(self) -> None:
        """Makes the folder, unless they are underway."""
        if not self.begun:
            self.remove()
            self.folder.mkdir(parents=True)
            with atomic_path(self.folder / STAMP) as path:
                path.write_text(self._text, encoding="utf-8")

    @property
    def learned(self) -> Path:
        """Where the outcome of what was learned from is kept; it is written after the labeler itself."""
        return self.folder / "learned.parquet"

    def path(self, part: int) -> Path:
        """Of a part's labels."""
        return self.folder / f"{part:06d}.parquet"

    def join(self, count: int, path: Path) -> Totals:
        """Writes the first `count` parts into one file, and sums it up; one is in memory at a time."""
        first = self._read(0)
        totals = Totals.none(first.classes, first.facts)
        tables = (self._read(part).table for part in range(count))
        write_parquet(totals.counting(tables), first.table.schema, first.classes, first.facts, path)
        return totals

    def _read(self, part: int) -> Labels:
        try:
            return Labels.from_parquet(self.path(part))
        except ValueError as error:
            raise ValueError(f"{error}: delete it and run the same command again") from None

    def remove(self) -> None:
        """Takes all of it away."""
        remove(self.folder)
