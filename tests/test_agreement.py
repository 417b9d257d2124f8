"""Scores of agreement: scikit-learn's where it has them, brute force where not, and nothing that order could change."""

from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from gdui.evaluation import agreement as score

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 6)), min_size=1, max_size=60)
Ints = npt.NDArray[np.int64]


def columns(pairs: list[tuple[int, int]]) -> tuple[Ints, Ints]:
    truth, predicted = np.array(pairs).T
    return truth, predicted


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(PAIRS)
@settings(deadline=None)
def test_scores_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = columns(pairs)
    found = score.agreement(truth, predicted)
    assert found.nmi == pytest.approx(metrics.normalized_mutual_info_score(truth, predicted), abs=1e-9)
    assert found.ari == pytest.approx(metrics.adjusted_rand_score(truth, predicted), abs=1e-9)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    values = np.arange(max(truth.max(), predicted.max()) + 1)
    kept = predicted >= 0
    if kept.any():
        theirs = metrics.confusion_matrix(truth[kept], predicted[kept], labels=values)
        height, width = found.confusion.shape
        assert np.array_equal(found.confusion, theirs[:height, :width])
        assert theirs.sum() == found.confusion.sum()
        assert found.kept_accuracy == pytest.approx(metrics.accuracy_score(truth[kept], predicted[kept]))
    else:
        assert np.isnan(found.kept_accuracy)
    recall = metrics.recall_score(truth, predicted, labels=np.unique(truth), average=None, zero_division=0)
    np.testing.assert_allclose(found.per_class[np.unique(truth)], recall)
    assert np.isnan(np.delete(found.per_class, np.unique(truth))).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_best_mapping_is_the_best_of_all(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = columns(pairs)
    named = [*range(3), -2, -3, -4, -5]  # more values than classes: some stand for nothing
    best = max(np.mean(np.array([*names, -9])[predicted] == truth) for names in permutations(named, 4))
    assert score.mapped_accuracy(truth, predicted) == pytest.approx(best)
    mapping = score.best_mapping(truth, predicted)
    renamed = np.where(predicted >= 0, np.append(mapping, -1)[predicted], -1)
    assert np.mean(renamed == truth) == pytest.approx(best)
    used = mapping[mapping >= 0]
    assert len(set(used.tolist())) == len(used) == min(len(mapping), truth.max() + 1)


@given(PAIRS, st.randoms())
def test_order_changes_nothing(pairs: list[tuple[int, int]], random: Any) -> None:
    confidence = [random.choice([0.25, 0.5, 1.0]) for _ in pairs]
    order = list(range(len(pairs)))
    random.shuffle(order)
    (truth, predicted), sure = columns(pairs), np.array(confidence)
    for function in (score.risk_coverage, score.calibration):
        a = function(truth, predicted, sure)
        b = function(truth[order], predicted[order], sure[order])
        for name in vars(a):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name))


def test_values_worked_out_by_hand() -> None:
    found = score.agreement([0, 0, 1, 1], [1, 1, 0, -1])
    assert found.accuracy == 0
    assert found.mapped_accuracy == 0.75
    assert found.coverage == 0.75
    assert found.confusion.tolist() == [[0, 2], [1, 0]]
    assert score.best_mapping([0, 0, 1, 1], [1, 1, 0, -1]).tolist() == [1, 0]
    assert score.agreement([0, 1], [0, 1]).per_class.tolist() == [1, 1]
    assert score.confusion([0, 1], [-1, -1]).shape == (2, 0)
    assert score.mapped_accuracy([0, 1], [-1, -1]) == 0
    assert score.accuracy([2, 0], [2, 2]) == 0.5


def test_one_image_and_one_value_agree_wholly() -> None:
    for truth, predicted in (([0], [0]), ([3, 3, 3], [1, 1, 1])):
        assert score.nmi(truth, predicted) == 1
        assert score.ari(truth, predicted) == 1


def test_risk_coverage_by_hand() -> None:
    found = score.risk_coverage([0, 0, 0, 0, 0], [0, 1, 0, 1, -1], [0.9, 0.8, 0.8, 0.1, 1.0])
    assert found.confidence.tolist() == [0.9, 0.8, 0.1]
    np.testing.assert_allclose(found.coverage, [0.2, 0.6, 0.8])
    np.testing.assert_allclose(found.risk, [0, 1 / 3, 1 / 2])
    assert found.area == pytest.approx(0.4 / 3 + 0.2 / 2)


def test_calibration_by_hand() -> None:
    found = score.calibration([0, 0, 0, 0], [0, 1, 0, -1], [1.0, 0.6, 0.0, 0.5], bins=2)
    assert found.count.tolist() == [1, 2]
    np.testing.assert_allclose(found.confidence, [0, 0.8])
    np.testing.assert_allclose(found.accuracy, [1, 0.5])
    assert found.error == pytest.approx((1 + 2 * 0.3) / 3)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=50), st.integers(1, 20))
def test_calibration_equals_the_definition(rows: list[tuple[bool, float]], bins: int) -> None:
    predicted, sure = np.array([int(right) for right, _ in rows]), np.array([p for _, p in rows])
    expected = 0.0
    for at in range(bins):
        inside = (np.ceil(sure * bins) == at + 1) | ((sure == 0) & (at == 0))
        if inside.any():
            expected += inside.mean() * abs(predicted[inside].mean() - sure[inside].mean())
    assert score.calibration(np.ones(len(rows), int), predicted, sure, bins).error == pytest.approx(expected, abs=1e-9)


def test_a_perfectly_calibrated_prediction_has_almost_no_error(rng: np.random.Generator) -> None:
    sure = rng.random(200_000)
    predicted = (rng.random(200_000) < sure).astype(int)
    assert score.calibration(np.ones(200_000, int), predicted, sure).error < 0.01


def test_endless_confidence_is_the_surest() -> None:
    found = score.risk_coverage([0, 0, 0], [0, 1, 0], [np.inf, np.inf, -np.inf])
    assert found.confidence.tolist() == [np.inf, -np.inf]
    np.testing.assert_allclose(found.risk, [1 / 2, 1 / 3])


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint64])
def test_every_type_of_whole_numbers_counts_alike(kind: type) -> None:
    truth, predicted = np.array([0, 2, 2, 120]), np.array([1, 2, 0, 120])
    assert np.array_equal(
        score.confusion(truth.astype(kind), predicted.astype(kind)), score.confusion(truth, predicted)
    )


def test_nobody_labelled_is_no_error() -> None:
    assert score.risk_coverage([0, 1], [-1, -1], [0.5, 0.5]).area == 0
    assert score.calibration([0, 1], [-1, -1], [np.nan, np.nan]).error == 0


def test_blocks_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predicted = rng.integers(0, 5, 1000), rng.integers(-1, 7, 1000)
    whole = score.confusion(truth, predicted)
    monkeypatch.setattr(score, "BLOCK", 7)
    assert np.array_equal(score.confusion(truth, predicted), whole)


def test_large_counts_stay_exact() -> None:
    truth = np.repeat(np.arange(2, dtype=np.int8), 4_000_000)
    predicted = truth.copy()
    predicted[0] = 1
    assert score.ari(truth, predicted) == pytest.approx(1 - 4 / 8e6, abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "predicted", "kind", "message"),
    [
        ([], [], ValueError, "at least one image"),
        ([0, 1], [0], ValueError, "truth has 2, predicted has 1"),
        ([-1], [0], ValueError, "truth must be at least 0"),
        ([0], [-2], ValueError, "predicted must be at least -1"),
        ([0.5], [0], TypeError, "truth must be integers"),
        ([10**6], [10**6], ValueError, "numbered from 0 on"),
    ],
)
def test_mistakes_are_named(truth: Any, predicted: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        score.agreement(truth, predicted)


def test_bad_confidence_is_named() -> None:
    with pytest.raises(ValueError, match="holds NaN"):
        score.risk_coverage([0], [0], [np.nan])
    with pytest.raises(ValueError, match=r"the lowest confidence must be between 0 and 1, not 1\.5"):
        score.calibration([0], [0], [1.5])
    with pytest.raises(ValueError, match="confidence must have 1 rows, not 2"):
        score.calibration([0], [0], [0.5, 0.5])
    with pytest.raises(ValueError, match="bins must be between 1"):
        score.calibration([0], [0], [0.5], bins=0)
