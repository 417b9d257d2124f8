"""Which images the page shows: it says everything about all of them in numbers, and shows those that tell most."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gdui.labels import RULES, Labels

__all__ = ["PINNED", "Choice", "choose", "extremes"]

Indices = npt.NDArray[np.int64]

OF_CLASS, LEAST_OF_CLASS, OF_CLUSTER = 12, 8, 6
STRIPS = 4000  # images in all strips together
STRIPS_OF_CLASS = 3
REVIEWED, MAPPED = 300, 2000
PINNED = list(RULES).index("pinned")


@dataclass(frozen=True)
class Choice:
    """Rows of the labels, each list in the order in which it is shown.

    surest, least, relabelled: of each class.   top, bottom: of each cluster.
    review: what a person should look at first.   mapped: a random sample.
    """

    surest: list[Indices]
    least: list[Indices]
    relabelled: list[Indices]
    top: list[Indices]
    bottom: list[Indices]
    review: Indices
    mapped: Indices

    @property
    def rows(self) -> Indices:
        """All of them, once each, ascending."""
        strips = [*self.surest, *self.least, *self.relabelled, *self.top, *self.bottom]
        return np.unique(np.concatenate([*strips, self.review, self.mapped]))


def choose(labels: Labels, seed: int = 0) -> Choice:
    """At most some thousand images, however many there are; of too many classes the largest have pictures."""
    label, cluster = labels.label_index, labels.numbers("cluster")
    classes, clusters = len(labels.classes), len(labels.facts.clusters)
    sure, belongs = _known(labels, "confidence"), _known(labels, "cluster_confidence")
    shown = min(classes, STRIPS // STRIPS_OF_CLASS)
    label = np.where(np.isin(label, _largest(label, classes, shown)), label, -1)
    wanted = shown * (2 * OF_CLASS + LEAST_OF_CLASS) + clusters * 2 * OF_CLUSTER
    share = min(1.0, STRIPS / max(wanted, 1))
    first, least = (max(1, int(share * count)) for count in (OF_CLASS, LEAST_OF_CLASS))
    few = int(share * OF_CLUSTER)
    surest, doubtful = extremes(label, sure, classes, first, least)
    top, bottom = extremes(cluster, belongs, clusters, few, few)
    matched = labels.indices("matched_label")
    moved = np.where((matched >= 0) & (matched != label), label, -1)
    relabelled, _ = extremes(moved, sure, classes, first, 0)
    n = len(labels)
    mapped = np.arange(n) if n <= MAPPED else np.sort(np.random.default_rng(seed).choice(n, MAPPED, replace=False))
    return Choice(surest, doubtful, relabelled, top, bottom, doubtful_first(labels)[:REVIEWED], mapped)


def _largest(label: npt.NDArray[np.integer], classes: int, most: int) -> Indices:
    sizes = np.bincount(label[label >= 0], minlength=classes)
    return np.argsort(-sizes, kind="stable")[:most]


def doubtful_first(labels: Labels) -> Indices:
    """The images that a person should look at: overruled opinions, images without a label, then the least sure.

    Those that a person has looked at are left out.
    """
    label, opinion, sure = labels.label_index, labels.indices("clip_label"), _known(labels, "confidence")
    overruled = (opinion >= 0) & (label >= 0) & (label != opinion)
    order = np.where(overruled, 0, np.where(label < 0, 1, 2))
    rows = np.lexsort((sure, order))
    unseen: npt.NDArray[np.bool_] = labels.indices("rule")[rows] != PINNED
    return rows[unseen]


def extremes(
    group: npt.NDArray[np.integer], key: npt.NDArray[np.floating], groups: int, first: int, last: int
) -> tuple[list[Indices], list[Indices]]:
    """Of each group the rows of the largest keys, from the largest on, and of the smallest; no row is in both."""
    order = np.lexsort((-key, group))
    bounds = np.searchsorted(group[order], np.arange(groups + 1))
    members = [order[start:stop] for start, stop in pairwise(bounds)]
    return [rows[:first] for rows in members], [rows[first:][::-1][:last] for rows in members]


def _known(labels: Labels, column: str) -> npt.NDArray[np.float32]:
    return np.nan_to_num(labels.numbers(column).astype(np.float32), nan=0.0)
