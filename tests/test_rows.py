"""Vectors of length one and what a softmax says, against the definitions in float64, on every processor and thread."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdui import _core
from gdui.labeling.rows import choose, first_not_finite, project, softmax, unit_rows, units

KINDS = (np.float16, np.float32, np.float64)


def drawn(n: int, d: int, kind: type = np.float32, seed: int = 0) -> npt.NDArray[np.floating]:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (3, 15), (300, 16), (700, 37), (20, 512)])
def test_rows_are_centred_and_of_length_one(n: int, d: int, kind: type) -> None:
    rows, center = drawn(n, d, kind), drawn(1, d, seed=1)[0]
    wanted = rows.astype(np.float32).astype(np.float64) - center
    length = np.linalg.norm(wanted, axis=1, keepdims=True)
    got = unit_rows(rows, center)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted / np.where(length > 0, length, 1), atol=2e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(0, 5), (3, 15), (700, 37)])
def test_rows_with_and_without_their_center_come_from_one_pass(n: int, d: int, kind: type) -> None:
    rows, center = drawn(n, d, kind), drawn(1, d, seed=1)[0]
    centred, plain, wrong = units(rows, center, plain=True)
    assert wrong is None
    np.testing.assert_array_equal(centred, unit_rows(rows, center))
    np.testing.assert_array_equal(plain, unit_rows(rows))
    assert not units(rows, center, plain=False).plain.size


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_names_the_first_row_that_is_not_finite(kind: type, plain: bool) -> None:
    rows, center = drawn(1000, 19, kind), drawn(1, 19, seed=1)[0]
    rows[700, 3] = rows[640, 18] = rows[999, 0] = np.nan
    rows[641, 0] = np.inf
    assert units(rows, center, plain=plain).wrong == 640
    rows[640, 18] = 0
    assert units(rows, center, plain=plain).wrong == 641


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "d", "counts", "plain"), [(0, 5, (1,), 2), (25, 37, (30, 10), 10), (990, 64, (3, 90), 9)]
)
def test_products_are_those_of_vectors_of_length_one(
    n: int, d: int, counts: tuple[int, ...], plain: int, kind: type
) -> None:
    rows, center = drawn(n, d, kind), drawn(1, d, seed=1)[0]
    rows[n // 2 :: 7] = 0
    sides, own = [drawn(count, d, seed=count) for count in counts], drawn(plain, d, seed=2)
    found = project(rows, center, sides, own)
    assert found.wrong is None
    unit = units(rows, center, plain=True)
    for got, side in zip(found.centred, sides, strict=True):
        np.testing.assert_allclose(got, unit.centred @ side.T, atol=5e-6)
    np.testing.assert_allclose(found.plain, unit.plain @ own.T, atol=5e-6)
    for some in (slice(3, 17), slice(n // 2, None)):
        part = project(rows[some], center, sides, own)
        np.testing.assert_array_equal(part.plain, found.plain[some])
        np.testing.assert_array_equal(part.centred[-1], found.centred[-1][some])


@pytest.mark.parametrize("size", [1e-42, 1e-36, 1e36])
def test_products_of_vectors_of_any_length(size: float) -> None:
    rows, columns = drawn(30, 20) * np.float32(size), drawn(4, 20, seed=1)
    found = project(rows, np.zeros(20, np.float32), [columns], columns)
    np.testing.assert_allclose(found.plain, unit_rows(rows) @ columns.T, atol=2e-6)
    np.testing.assert_array_equal(found.centred[0], found.plain)


def test_products_name_the_first_row_that_is_not_finite() -> None:
    rows = drawn(1000, 19)
    rows[700, 3] = rows[640, 18] = np.nan
    assert project(rows, np.zeros(19, np.float32), [], rows[:2]).wrong == 640


@pytest.mark.parametrize("kind", KINDS)
def test_any_layout_is_read_in_place(kind: type) -> None:
    whole = drawn(90, 80, kind)
    for view in (whole[::3, ::2], whole[:, ::-1], whole.T, np.asfortranarray(whole)):
        side = drawn(3, view.shape[1])
        got = (project(rows, side[0], [], side).plain for rows in (view, np.ascontiguousarray(view)))
        np.testing.assert_array_equal(*got)
        np.testing.assert_array_equal(unit_rows(view), unit_rows(np.ascontiguousarray(view)))
        assert first_not_finite(view) is None


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e19, 3e38])
def test_lengths_beyond_a_floats_square(size: float) -> None:
    rows = np.full((2, 20), size, np.float32)
    np.testing.assert_allclose(unit_rows(rows), 20**-0.5, rtol=1e-6)


def test_what_has_no_direction_stays_zero() -> None:
    center = drawn(1, 33)[0]
    assert not unit_rows(np.stack([center, center]), center).any()
    assert not unit_rows(np.zeros((2, 3), np.float16)).any()


def test_whole_numbers_are_rows_too() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3, 4], [0, 0]])), [[0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(kind: type, wrong: float) -> None:
    rows = drawn(1000, 19, kind)
    rows[700, 3] = rows[640, 18] = rows[999, 0] = wrong
    assert first_not_finite(rows) == 640
    assert first_not_finite(rows[:640]) is None


def test_numbers_that_no_float_holds_are_not_finite() -> None:
    assert first_not_finite(np.array([[1.0], [1e39]])) == 1


def plainly(scores: npt.NDArray[np.floating], scale: float) -> list[npt.NDArray[np.floating]]:
    """The definition, in float64."""
    exact = scores.astype(np.float64)
    order = np.argsort(-exact, axis=1, kind="stable")
    each = np.arange(len(exact))
    first, second = order[:, 0], order[:, min(1, exact.shape[1] - 1)]
    powers = np.exp(scale * (exact - exact[each, first][:, None]))
    return [first, second, 1 / powers.sum(axis=1), exact[each, first] - exact[each, second], powers]


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 40)), elements=st.integers(-3, 3).map(float)),
    st.sampled_from([0.1, 1.0, 20.0]),
)
def test_a_choice_is_what_the_softmax_says(scores: npt.NDArray[np.float32], scale: float) -> None:
    """Whole numbers: most rows have ties."""
    first, second, share, lead, powers = plainly(scores, scale)
    got = choose(scores, scale)
    np.testing.assert_array_equal(got.first, first)
    np.testing.assert_array_equal(got.second, second)
    np.testing.assert_array_equal(got.most, scores.max(axis=1))
    np.testing.assert_allclose(got.share, share, rtol=3e-6)
    np.testing.assert_allclose(got.lead, lead, rtol=1e-6)
    np.testing.assert_allclose(softmax(scores, scale), powers * share[:, None], rtol=5e-6, atol=1e-30)


def test_scores_of_many_classes_far_apart() -> None:
    scores = 30 * drawn(70, 3001)
    first, _, share, lead, _ = plainly(scores, 1.0)
    got = choose(scores)
    np.testing.assert_array_equal(got.first, first)
    np.testing.assert_allclose(got.share, share, rtol=1e-5)
    np.testing.assert_allclose(got.lead, lead, rtol=1e-5)


def test_one_class_leads_by_nothing() -> None:
    got = choose(drawn(20, 1))
    assert not got.first.any()
    assert not got.second.any()
    assert (got.share == 1).all()
    assert not got.lead.any()


def test_probabilities_take_the_place_of_the_scores() -> None:
    scores = drawn(500, 7)
    assert softmax(scores, 3.0) is scores
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_threads_change_nothing() -> None:
    rows, scores = drawn(5000, 100, np.float16), drawn(5000, 30)
    own, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            products = project(rows, scores[:100, 0].copy(), [drawn(30, 100)], drawn(10, 100))
            chosen = [*choose(scores, 2.0), softmax(scores.copy(), 2.0)]
            found.append([unit_rows(rows), *products.centred, products.plain, *chosen])
    finally:
        torch.set_num_threads(own)
    for other in found[1:]:
        for got, wanted in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_arrays_that_do_not_fit_are_refused() -> None:
    rows, one = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    whole = np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="center must have a number for each column"):
        _core.centred_rows(rows, one, np.empty_like(rows), None, 1)
    with pytest.raises(ValueError, match="plain must have the shape of unit"):
        _core.centred_rows(rows, one[:2], np.empty_like(rows), rows[:2], 1)
    with pytest.raises(ValueError, match="columns must be as long as the rows"):
        _core.project(rows, one[:2], [(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))], [], 1)
    with pytest.raises(ValueError, match="products must have a row for each row"):
        _core.project(rows, one[:2], [], [(rows[:2], rows[:2])], 1)
    with pytest.raises(ValueError, match="for each row of scores"):
        _core.choose(rows, 1.0, whole, whole, one[:2], one, one, None, 1)
    with pytest.raises(ValueError, match="scores must have 2 axes and a column"):
        _core.choose(np.zeros((3, 0), np.float32), 1.0, whole, whole, one, one, one, None, 1)
    with pytest.raises(ValueError, match="float16, float32 or float64"):
        _core.first_not_finite(whole[:, None], 1)
