"""From diffused votes to one class an image: how large the classes are, and every class brought to its size.

A biased opinion gives some classes too many votes everywhere. So a class's votes are scaled until it gets its share of
the images. What the shares are is not known: equal ones stand unless unequal ones explain the two witnesses, the
opinion and the neighbours, clearly better. A class that its own images hardly vote for has none.
N is the number of images, k of neighbours, C of classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gdui.labeling.ordered import one_thread_each

__all__ = [
    "Consensus",
    "Doubt",
    "absent",
    "balance",
    "balanced_labels",
    "doubted",
    "estimated_shares",
    "information",
    "settle",
]

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)  # how far the shares follow their estimate: 0 is equal shares, 1 the estimate
FLOOR = 1e-9
ROUNDS = 50  # of bringing classes to their shares
BLOCK_CELLS = 1 << 18
COLUMNS = 16  # of the field, sorted by a thread in its turn
RARELY = 0.02  # as often as for the class they name most
NEARBY = 5
CHANCE = 3  # standard deviations that it does not reach
UNSURE = 0.5
BORNE_OUT = 0.8
FEW = 8  # images a class: of fewer, most neighbours are of another class


@dataclass(frozen=True)
class Consensus:
    """What the witnesses agree on.

    field: how likely each class is for each image, rows summing to 1 [N, C].
    shares: the share of the images each class was brought to [C].
    """

    field: Matrix
    shares: Vector


def settle(
    field: Matrix, votes: npt.NDArray[np.integer], neighbors: npt.NDArray[np.integer], *, gain: float = 0.01
) -> Consensus:
    """The consensus on a field of diffused votes [N, C], judged by the opinion's votes [N] and the neighbours [N, k].

    gain: by what part unequal shares must be more informative than equal ones to be believed.
    """
    classes, estimate = field.shape[1], estimated_shares(field)
    shares, scales, labels = _tried(field, estimate)
    gone = absent(labels[0], votes, classes)
    if gone.any():
        estimate[gone] = 0
        shares, scales, labels = _tried(field, estimate)
    informed = []
    for label in labels:
        own = np.repeat(label, neighbors.shape[1])
        informed.append(information(own, label[neighbors.ravel()], classes) + information(label, votes, classes))
    best = 1 + int(np.argmax(informed[1:]))
    if informed[best] <= (1 + gain) * informed[0]:
        best = 0
    return Consensus(_scaled(field, scales[best]), shares[best])


def _tried(field: Matrix, estimate: Vector) -> tuple[list[Vector], Matrix, npt.NDArray[np.int64]]:
    """For each `TRUST` in the estimate the shares, what brings the classes to them, and the labels then."""
    shares = [_tempered(estimate, trust) for trust in TRUST]
    scales = _scales(field, shares)
    return shares, scales, _labels(field, scales)


class Doubt(NamedTuple):
    """Why the consensus is not to be believed; and what the opinion's probabilities are to be multiplied by then."""

    reason: str
    trust: float


def doubted(
    label: npt.NDArray[np.integer],
    opinion: Matrix,
    neighbors: npt.NDArray[np.integer],
    *,
    least: float,
    vouched: bool = False,
) -> Doubt | None:
    """What speaks against labels [N] that neighbours [N, k] and the opinion [N, C] agreed on, None if nothing does.

    A consensus wipes out mistakes that are scattered, and makes those that are shared complete. So it needs features
    that tell images apart, and votes that have to do with them. And where many classes are not what their own images
    mostly vote for, their names are guesses: then the opinion must at least be sure of what it says.

    least: the share of images that must have their nearest neighbour's label.
    vouched: that a person has named some of the images, which says more of names than the opinion can.
    """
    votes, sure = opinion.argmax(axis=1), float(opinion.max(axis=1).mean())
    chance = 1 / (opinion.shape[1] * sure)
    if len(votes) < FEW * opinion.shape[1] and not vouched:
        return Doubt(f"there are fewer than {FEW} images for each class", 1.0)
    if (label == label[neighbors[:, 0]]).mean() < least:
        return Doubt("neighbours hardly agree on any label, so the features tell little", 1.0)
    if vouched:
        return None
    if not _echoed(votes, neighbors[:, :NEARBY], opinion.shape[1]):
        return Doubt("neighbours vote alike no more often than by chance", chance)
    if sure < UNSURE and _borne_out(label, votes, opinion.shape[1]) < BORNE_OUT:
        return Doubt("the opinion is unsure, and many classes are not what most of their own images vote for", chance)
    return None


def _echoed(votes: npt.NDArray[np.integer], neighbors: npt.NDArray[np.integer], classes: int) -> bool:
    """Whether neighbours [N, k] vote alike more often than if votes [N] had nothing to do with them."""
    alike = (votes[neighbors] == votes[:, None]).mean()
    chance = np.square(np.bincount(votes, minlength=classes) / len(votes)).sum()
    pairs = neighbors.size / 2  # most are neighbours of each other
    return bool(alike > chance + CHANCE * np.sqrt(chance * (1 - chance) / pairs))


def _borne_out(label: npt.NDArray[np.integer], votes: npt.NDArray[np.integer], classes: int) -> float:
    """The share of the labels' classes that their images vote for more often than for any other."""
    table = np.bincount(label.astype(np.int64) * classes + votes, minlength=classes**2).reshape(classes, classes)
    present = table.sum(axis=1) > 0
    return float((table.argmax(axis=1) == np.arange(classes))[present].mean())


def balance(field: Matrix, shares: Vector) -> Matrix:
    """The field with every class scaled so that its mean over the images is its share, rows summing to 1 [N, C]."""
    return _scaled(field, _scales(field, [shares])[0])


def balanced_labels(field: Matrix, shares: Vector) -> npt.NDArray[np.int64]:
    """The class that `balance` makes the largest of each image's [N]."""
    return np.asarray(_labels(field, _scales(field, [shares]))[0], np.int64)


def _scaled(field: Matrix, scale: Matrix) -> Matrix:
    out = np.empty(field.shape, np.float32)

    def fill(rows: slice) -> None:
        scaled = (field[rows] + np.float32(FLOOR)) * scale
        np.divide(scaled, scaled.sum(axis=1, keepdims=True), out=out[rows])

    with one_thread_each() as each:
        each(fill, _near(field))
    return out


def _labels(field: Matrix, scales: Matrix) -> npt.NDArray[np.int64]:
    """The largest class of each image's under each of the scales [V, N]."""

    def label(rows: slice) -> npt.NDArray[np.int64]:
        positive = field[rows] + np.float32(FLOOR)
        return np.stack([(positive * scale).argmax(axis=1) for scale in scales])

    with one_thread_each() as each:
        return np.concatenate(each(label, _near(field)), axis=1)


def _scales(field: Matrix, shares: Sequence[Vector]) -> Matrix:
    """What brings the classes to these shares [V, C]: found for all of them at once, as every round reads the field."""
    wanted, rows = np.stack(shares), _near(field)
    scale: Vector = np.ones(wanted.shape)
    with one_thread_each() as each:
        for _ in range(ROUNDS):
            narrow = scale.astype(np.float32)

            def weighed(part: slice, narrow: Matrix = narrow) -> Vector:
                positive = field[part] + np.float32(FLOOR)
                return np.asarray((1 / (positive @ narrow.T)).T @ positive, np.float64)

            scale = wanted / np.maximum(sum(each(weighed, rows)) / len(field), FLOOR)
            scale /= scale.max(axis=1, keepdims=True)
    return np.asarray(scale, np.float32)


def _near(field: Matrix) -> list[slice]:
    """Rows in blocks that a near cache holds."""
    step = max(1, BLOCK_CELLS // field.shape[1])
    return [slice(at, at + step) for at in range(0, len(field), step)]


def estimated_shares(field: Matrix) -> Vector:
    """The share of images whose votes for a class come nearest to that class's own summit [C].

    The summit is the mean of a class's votes over the N / 4C images that have most of them, so neither a class that the
    opinion seldom names nor a small one is overlooked.
    """
    n, classes = field.shape
    top = max(1, n // (4 * classes))

    def summits(columns: slice) -> Matrix:
        part = np.partition(np.ascontiguousarray(field[:, columns].T), n - top, axis=1)
        return np.asarray(part[:, n - top :].mean(axis=1), np.float32)

    with one_thread_each() as each:
        found = each(summits, [slice(at, at + COLUMNS) for at in range(0, classes, COLUMNS)])
        summit = np.maximum(np.concatenate(found), 1e-6)
        nearest = np.concatenate(each(lambda rows: (field[rows] / summit).argmax(axis=1), _near(field)))
    counts = np.bincount(nearest, minlength=classes) + 1.0
    return np.asarray(counts / counts.sum(), np.float64)


def absent(label: npt.NDArray[np.integer], votes: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.bool_]:
    """Classes that no image seems to belong to: those given the label [N] vote for it `RARELY` at best [C].

    Where that holds for all of them the votes are no measure, and none is absent.
    """
    table = np.bincount(label.astype(np.int64) * classes + votes, minlength=classes**2).reshape(classes, classes)
    rare = np.diag(table) <= RARELY * table.max(axis=1)
    return np.asarray(rare & ~rare.all(), np.bool_)


def information(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer], classes: int) -> float:
    """The mutual information of two labellings of the same images, in nats."""
    joint = np.bincount(one.astype(np.int64) * classes + other, minlength=classes**2).reshape(classes, classes)
    joint = joint / max(joint.sum(), 1)
    expected = joint.sum(axis=1)[:, None] * joint.sum(axis=0)[None, :]
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / expected[seen])).sum())


def _tempered(shares: Vector, trust: float) -> Vector:
    powered = np.where(shares > 0, shares, 1) ** trust * (shares > 0)
    return np.asarray(powered / powered.sum(), np.float64)
