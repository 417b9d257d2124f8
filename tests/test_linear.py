"""The linear model where classes are many, and the sharpness of its odds."""

import numpy as np
import numpy.typing as npt
import pytest

from gdui.labeling import linear
from gdui.labeling.learned import calibrated, confidences


def overlapping(n: int = 6000, d: int = 64, classes: int = 20) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, n)
    rows = 1.2 * random.standard_normal((classes, d))[truth] + 3.5 * random.standard_normal((n, d))
    return (4 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("multiplies", [True, False])
def test_rounded_products_teach_the_same_model(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    rows, truth = overlapping()
    exact = linear.fit_linear(rows[::2], truth[::2], 20, decay=1e-3, rounds=30)(rows[1::2])
    monkeypatch.setattr(linear, "MANY", 20)
    if not multiplies:
        monkeypatch.setattr(linear, "has_bfloat16", lambda _: False)
    rounded = linear.fit_linear(rows[::2], truth[::2], 20, decay=1e-3, rounds=30)(rows[1::2])
    assert (rounded != exact).any()
    right, rounded_right = ((odds.argmax(axis=1) == truth[1::2]).mean() for odds in (exact, rounded))
    assert 0.6 < right < 0.95
    assert abs(rounded_right - right) < 0.005
    assert (rounded.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.98


def test_nothing_is_rounded_where_that_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = overlapping(n=600)
    exact = linear.fit_linear(rows, truth, 20, decay=1e-3, rounds=5)
    monkeypatch.setattr(linear, "MANY", 20)
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    same = linear.fit_linear(rows, truth, 20, decay=1e-3, rounds=5)
    np.testing.assert_array_equal(same.weight, exact.weight)


@pytest.mark.parametrize(("accuracy", "sharpness"), [(0.3, None), (0.8, None), (0.0, np.exp(-7)), (1.1, np.exp(7))])
def test_sharpness_makes_the_mean_confidence_the_accuracy(accuracy: float, sharpness: float | None) -> None:
    odds = np.random.default_rng(0).standard_normal((500, 12), np.float32)
    found = calibrated(odds, accuracy)
    if sharpness is None:
        assert confidences(odds, found).mean() == pytest.approx(accuracy, abs=1e-6)
    else:
        assert found == pytest.approx(sharpness)


def test_logarithms_are_taken_row_by_row() -> None:
    chances = np.random.default_rng(0).random((9000, 3), np.float32)
    np.testing.assert_allclose(linear.logarithms(chances, 1e-3), np.log(chances + 1e-3), rtol=1e-6)
