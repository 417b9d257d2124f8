"""How well labels or clusters agree with the truth, and how well their confidence tells right from wrong.

`truth` and `predicted` are vectors of N integers, from 0 on; a prediction of -1 abstains. All scores of agreement
follow from one contingency table, so ten million images cost one pass.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from gdui import checks

__all__ = [
    "Agreement",
    "Calibration",
    "RiskCoverage",
    "accuracy",
    "agreement",
    "ari",
    "best_mapping",
    "calibration",
    "confusion",
    "mapped_accuracy",
    "nmi",
    "risk_coverage",
]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
BLOCK = 1 << 20
MOST_CELLS = 1 << 27


@dataclass(frozen=True)
class Agreement:
    """All scores of one prediction.

    accuracy: the share of all images that is right as it stands; an abstained image is not right.
    mapped_accuracy: the same after the one-to-one renaming of predicted values that makes it largest.
    nmi, ari: as `nmi` and `ari` say.
    coverage: the share of images not abstained on; kept_accuracy: the accuracy among them, NaN if there are none.
    per_class: the share of each true class that is right; NaN for a class without images.
    confusion: [true, predicted] counts of the images not abstained on.
    """

    accuracy: float
    mapped_accuracy: float
    nmi: float
    ari: float
    coverage: float
    kept_accuracy: float
    per_class: Floats
    confusion: Counts


@dataclass(frozen=True)
class RiskCoverage:
    """Image by image from the surest on: the share labelled so far, the share of errors among them, and the confidence
    of the last. Images of equal confidence come together. `area` lies under the curve: 0 is best."""

    coverage: Floats
    risk: Floats
    confidence: Floats
    area: float


@dataclass(frozen=True)
class Calibration:
    """Per bin of confidence its mean, the accuracy (NaN if empty) and the count; `error` is the ECE, the mean gap."""

    confidence: Floats
    accuracy: Floats
    count: Counts
    error: float


def agreement(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Agreement:
    """Every score of `predicted` (N,) against `truth` (N,)."""
    table = _table(truth, predicted)
    kept, sizes = table[:, 1:], table.sum(1)
    right = _right(kept, len(sizes))
    return Agreement(
        accuracy=_ratio(right.sum(), table.sum()),
        mapped_accuracy=_mapped(table),
        nmi=_nmi(table),
        ari=_ari(table),
        coverage=_ratio(kept.sum(), table.sum()),
        kept_accuracy=_ratio(right.sum(), kept.sum()),
        per_class=np.divide(right, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0),
        confusion=kept,
    )


def accuracy(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """The share of images whose prediction is the truth; an abstained one is not."""
    table = _table(truth, predicted)
    return _ratio(_right(table[:, 1:], len(table)).sum(), table.sum())


def mapped_accuracy(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """The accuracy under `best_mapping`: what a clustering can be worth."""
    return _mapped(_table(truth, predicted))


def best_mapping(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Counts:
    """For every predicted value the true one it stands for, one to one, most images right; -1 if none is left."""
    kept = _table(truth, predicted)[:, 1:]
    rows, columns = linear_sum_assignment(kept, maximize=True)
    mapping = np.full(kept.shape[1], -1, np.int64)
    mapping[columns] = rows
    return mapping


def confusion(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Counts:
    """[true, predicted] counts of the images not abstained on."""
    return _table(truth, predicted)[:, 1:]


def nmi(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Mutual information over the mean of both entropies; abstained images count as one more cluster."""
    return _nmi(_table(truth, predicted))


def ari(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Rand's share of pairs treated alike, adjusted for chance; abstained images count as one more cluster."""
    return _ari(_table(truth, predicted))


def risk_coverage(truth: npt.ArrayLike, predicted: npt.ArrayLike, confidence: npt.ArrayLike) -> RiskCoverage:
    """What is lost by labelling more and more images, the surest first; abstained images are never labelled."""
    wrong, sure, total = _outcomes(truth, predicted, confidence)
    among_wrong, among_all = np.sort(sure[wrong]), np.sort(sure)
    first = np.flatnonzero(np.append(True, among_all[1:] > among_all[:-1])[: len(sure)])[::-1]
    levels, labelled = among_all[first], len(sure) - first
    errors = len(among_wrong) - np.searchsorted(among_wrong, levels)
    risk, coverage = errors / labelled, labelled / total
    area = float((risk * np.diff(coverage, prepend=0)).sum())
    return RiskCoverage(coverage, risk, levels, area)


def calibration(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, confidence: npt.ArrayLike, bins: int = 15
) -> Calibration:
    """How far confidence is from the share of right labels in `bins` parts of (0, 1]; abstained images are left out."""
    checks.in_range("bins", bins, 1, 1 << 20)
    wrong, sure, _ = _outcomes(truth, predicted, confidence)
    if len(sure):
        checks.in_range("the lowest confidence", float(sure.min()), 0, 1)
        checks.in_range("the highest confidence", float(sure.max()), 0, 1)
    at = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = np.bincount(at, sure, minlength=bins), np.bincount(at, ~wrong, minlength=bins)
    mean, right = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
    error = np.abs(sums[0] - sums[1]).sum() / max(len(sure), 1)
    return Calibration(mean, right, count, float(error))


def _outcomes(
    truth: npt.ArrayLike, predicted: npt.ArrayLike, confidence: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], Floats, int]:
    """Of the images not abstained on, which are wrong and how sure they are; and how many images there are in all."""
    true, found = _checked(truth, predicted)
    sure = checks.array("confidence", confidence, 1, finite=False, length=len(true)).astype(np.float64)
    kept = found >= 0
    if np.isnan(sure[kept]).any():
        raise ValueError("confidence must be known for every image that is not abstained on, but holds NaN")
    return (true != found)[kept], sure[kept], len(true)


def _checked(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    true, found = checks.indices("truth", truth), checks.indices("predicted", predicted, lowest=-1)
    if not checks.same_length(truth=true, predicted=found):
        raise ValueError("truth must hold at least one image")
    return true, found


def _table(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Counts:
    """[true, 1 + predicted] counts; the first column holds the abstained images."""
    true, found = _checked(truth, predicted)
    height, width = int(true.max()) + 1, int(found.max()) + 2
    if height * width > MOST_CELLS:
        raise ValueError(f"truth and predicted must be numbered from 0 on; {height} x {width} values are too many")
    counts = np.zeros(height * width, np.int64)
    for at in range(0, len(true), BLOCK):
        columns = found[at : at + BLOCK].astype(np.int64) + 1
        cells = true[at : at + BLOCK].astype(np.int64) * width + columns
        counts += np.bincount(cells, minlength=height * width)
    return counts.reshape(height, width)


def _right(kept: Counts, classes: int) -> Counts:
    right = np.zeros(classes, np.int64)
    diagonal = kept.diagonal()
    right[: len(diagonal)] = diagonal
    return right


def _mapped(table: Counts) -> float:
    kept = table[:, 1:]
    return _ratio(kept[linear_sum_assignment(kept, maximize=True)].sum(), table.sum())


def _nmi(table: Counts) -> float:
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    entropies = _entropy(rows) + _entropy(columns)
    if entropies == 0:
        return 1.0
    shared = entropies - _entropy(joint.ravel())
    return float(max(0.0, 2 * shared / entropies))


def _entropy(shares: Floats) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum()) if len(some) > 1 else 0.0


def _ari(table: Counts) -> float:
    """Counts of ordered pairs, as whole numbers: together or apart in the truth, in the prediction."""
    total = int(table.sum())
    both = int((table**2).sum()) - total
    true = int((table.sum(1) ** 2).sum()) - total
    found = int((table.sum(0) ** 2).sum()) - total
    pairs = total * (total - 1)
    if true == both == found:
        return 1.0
    expected = true * found / pairs
    return (both - expected) / ((true + found) / 2 - expected)


def _ratio(part: float | np.integer, whole: float | np.integer) -> float:
    return float(part / whole) if whole else float("nan")
