"""What teaches: a sample of the images, and of those that are copies of one the first alone.

M is the number of images in the sample, N of those among them that teach, C of classes.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gdui.config import Config
from gdui.labeling.cluster import Assignment
from gdui.labeling.copies import originals
from gdui.labeling.inputs import Images
from gdui.labeling.learned import Decision
from gdui.labeling.outcome import Known, Table
from gdui.labeling.pins import Pins
from gdui.labeling.rows import Choice, choose
from gdui.labels.words import counted

__all__ = ["Lesson", "lesson"]

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """The images that teach, and the sample that they speak for.

    features [N, d], opinion [N, C], pins: of those that teach.
    rows: which of all images the sample is, ascending [M].
    said: what the opinion says of each of the sample.
    copy_of: which of those that teach each of the sample is a copy of [M].
    """

    features: Matrix
    opinion: Matrix
    pins: Pins
    rows: Rows
    said: Choice
    copy_of: Rows

    def known(self, found: Assignment, decided: Decision, surety: Matrix, consistency: Matrix) -> Known:
        """What becomes of the sample, from what the stages said of those that taught."""
        of, table = self.copy_of, Table.blank(len(self.rows))
        copied = Assignment(found.cluster[of], found.confidence[of], found.margin[of])
        table.put(slice(None), copied, Decision(decided.label[of], decided.confidence[of], decided.rule[of]), self.said)
        table.surety[:], table.consistency[:] = surety[of], consistency[of]
        return Known(self.rows, table)


def lesson(images: Images, classes: list[str], config: Config, named: Mapping[str, str]) -> Lesson:
    """A sample of the images, with all that a person has `named`: id -> class."""
    unread = set(images.quarantine["id"].to_pylist())
    pins = Pins.of({id_: name for id_, name in named.items() if id_ not in unread}, images.ids, classes)
    if len(images) < len(classes):
        raise ValueError(f"{counted(len(images), 'image')} for {len(classes)} classes: there must be at least as many")
    rows = pins.joining(_sample(len(images), config.rows_to_fit(len(classes)), config.seed))
    features, opinion = images.rows(rows)
    whole = Lesson(features, opinion, pins.among(rows), rows, choose(opinion), np.arange(len(rows)))
    # Where no votes spread over a graph, copies harm nobody.
    return _without_copies(whole, len(classes)) if config.graph.enabled else whole


def _without_copies(whole: Lesson, least: int) -> Lesson:
    """Taught by one of all copies of an image, and by each that is pinned, if these are at the `least` so many."""
    kept, copy_of = originals(whole.features, whole.said.first, whole.pins.rows)
    if not least <= len(kept) < len(whole.rows):
        return whole
    copies = len(whole.rows) - len(kept)
    log.info("%d of %d images are copies of others, which teach for them", copies, len(whole.rows))
    features, opinion, pins = whole.features[kept], whole.opinion[kept], whole.pins.among(kept)
    return replace(whole, features=features, opinion=opinion, pins=pins, copy_of=copy_of)


def _sample(n: int, most: int, seed: int) -> Rows:
    """The images to learn from, in order."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
