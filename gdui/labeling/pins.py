"""Labels that a person gave: they stand, and they speak for the images around them.

N is the number of images, m of pinned ones, C of classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui import checks
from gdui.images import Source
from gdui.labeling.learned import RULE, Decision

__all__ = ["Pins", "check_ids", "check_names"]

Matrix = npt.NDArray[np.float32]
Indices = npt.NDArray[np.integer]
NO_ROWS = np.empty(0, np.int64)
UNSAID = -2  # no class, and not that none fits either


@dataclass(frozen=True)
class Pins:
    """The pinned images' rows, ascending, and the class of each, -1 where a person said that none fits [m]."""

    rows: npt.NDArray[np.int64] = field(default_factory=NO_ROWS.copy)
    classes: npt.NDArray[np.int64] = field(default_factory=NO_ROWS.copy)

    @classmethod
    def of(cls, named: Mapping[str, str], ids: pa.ChunkedArray, classes: Sequence[str]) -> Self:
        """From id -> class name, "" for none; every id must be an image's and every name a class's."""
        check_names(named, classes)
        known = {name: at for at, name in enumerate(classes)} | {"": -1}
        rows = pc.index_in(pa.array(list(named), ids.type), pa.concat_arrays(ids.chunks)) if named else pa.array([])
        if rows.null_count:
            raise _nobodys(list(named)[pc.index(pc.is_null(rows), True).as_py()], ids[0].as_py() if len(ids) else None)
        order = np.argsort(np.asarray(rows), kind="stable")
        of_class = np.array([known[name] for name in named.values()], np.int64)
        return cls(np.asarray(rows, np.int64)[order], of_class[order])

    def joining(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """These rows and the pinned ones, ascending."""
        return np.union1d(rows, self.rows)

    def among(self, rows: npt.NDArray[np.int64]) -> "Pins":
        """The same images by their place in `rows`, which has them all."""
        return Pins(np.searchsorted(rows, self.rows), self.classes)

    def heard(self, opinion: Matrix) -> Matrix:
        """The opinion [N, C] with a person's certainty in place of it where there is one; no class is all alike."""
        if not len(self.rows):
            return opinion
        out, named = opinion.copy(), self.classes >= 0
        out[self.rows[named]] = np.eye(opinion.shape[1], dtype=np.float32)[self.classes[named]]
        out[self.rows[~named]] = 1 / opinion.shape[1]
        return out

    def weights(self, n: int, weight: float) -> npt.NDArray[np.float64]:
        """How much the vote of each of n images counts: a pinned one's `weight`, and nothing where no class fits."""
        out = np.ones(n)
        out[self.rows] = np.where(self.classes >= 0, weight, 0)
        return out

    def votes(self, pooled: Matrix, weight: float) -> Matrix:
        """Votes [N, C] in which a pinned image votes for its class alone, and as `weight` images do."""
        out, named = pooled.copy(), self.classes >= 0
        out[self.rows] = 0
        out[self.rows[named], self.classes[named]] = weight
        return out

    def decide(self, decided: Decision) -> Decision:
        """The decision in which the pins stand."""
        label, confidence, rule = decided.label.copy(), decided.confidence.copy(), decided.rule.copy()
        label[self.rows], confidence[self.rows], rule[self.rows] = self.classes, 1, RULE["pinned"]
        return Decision(label, confidence, rule)

    def estimate(self, label: Indices, votes: Indices, near: Indices, own: Indices) -> float:
        """How many labels are right, as far as it shows without any truth but the pins, which count as right.

        The opinion has mistakes of its own, so agreement with it is too low an estimate; a neighbour shares our
        mistakes, so agreement with it is too high a one. Their geometric mean stands between. A witness whom a person
        has proved wrong is not heard: a vote that was wrong nearby, a neighbour of no class.

        Args:
            votes: the opinion's, brought to the classes' sizes [N]; own: the same as they came [N].
            near: the nearest images of each [N, k].
        """
        others, nearest = self.others(len(label)), near[:, 0]
        if not others.any():
            return 1.0
        share, heard = others.mean(), others & ~self._refuted(own, near)
        opinion = _share(heard if heard.any() else others, label == votes)
        agreed = opinion * _share(others & (label[nearest] >= 0), label == label[nearest])
        return float((1 - share) + share * np.sqrt(agreed))

    def _refuted(self, own: Indices, near: Indices) -> npt.NDArray[np.bool_]:
        """Of which images a person called the same vote wrong at the nearest pinned image with that vote [N]."""
        said = np.full(len(own), UNSAID)
        said[self.rows] = self.classes
        alike = (said[near] != UNSAID) & (own[near] == own[:, None])
        first = near[np.arange(len(own)), alike.argmax(axis=1)]
        return np.asarray(alike.any(axis=1) & (said[first] != own))

    def unaided(self, label: Indices, votes: Indices, nearest: Indices, guessed: Indices) -> float:
        """How many labels would be right if nobody had said anything: what confidence in the others is measured by.

        Of the images that a person spoke of it shows in what is guessed by a model that has not heard it.
        """
        others = self.others(len(label))
        right = (guessed[self.rows] == self.classes).sum()
        agreed = _share(others, label == votes) * _share(others, label == label[nearest])
        return float((others.sum() * np.sqrt(agreed) + right) / len(label))

    def others(self, n: int) -> npt.NDArray[np.bool_]:
        """Those of n images of which no person said anything."""
        out = np.ones(n, np.bool_)
        out[self.rows] = False
        return out


def check_names(named: Mapping[str, str], classes: Sequence[str]) -> None:
    """Refuses pins, id -> class name, of other classes."""
    known = {"", *classes}
    for id_, name in named.items():
        if name not in known:
            meant = checks.did_you_mean(name, classes)
            raise ValueError(f"the label of {id_!r} is {name!r}, which is none of the classes{meant}")


def check_ids(named: Mapping[str, str], source: Source) -> None:
    """Refuses pins of images that the source does not hold, where that shows before any of them is read."""
    if lost := source.lacks(named):
        raise _nobodys(lost[0], source.example)


def _nobodys(id_: str, example: str | None) -> ValueError:
    like = "" if example is None else f"; their ids look like {example!r}"
    return ValueError(f"a label is given for the image {id_!r}, which is not among the images{like}")


def _share(rows: npt.NDArray[np.bool_], agreed: npt.NDArray[np.bool_]) -> float:
    return float(agreed[rows].mean()) if rows.any() else 0.0
