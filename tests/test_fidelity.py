"""Every score against its formula in float64."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui import _core
from gdui.evaluation import fidelity as public
from gdui.evaluation.fidelity import neighbours
from gdui.evaluation.fidelity.frechet import between, frechet_distance, frechet_to_infinity, gaussian, of_moments
from gdui.evaluation.fidelity.inception import inception_score
from gdui.evaluation.fidelity.kernel import kernel_distance
from gdui.evaluation.fidelity.neighbours import precision_recall
from gdui.evaluation.fidelity.networks import digits_network, inception_network, load_network
from gdui.evaluation.fidelity.statistics import Stream, merged, moments


def cloud(rng: np.random.Generator, n: int, d: int, *, spread: float = 1.0) -> np.ndarray:
    return (spread * rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)).astype(
        np.float32
    )


def test_moments_are_those_of_numpy(rng: np.random.Generator) -> None:
    rows = cloud(rng, 3000, 7) + 100
    found = moments(rows)
    assert found.count == 3000
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 1500), min_size=1, max_size=6), st.integers(0, 100))
def test_moments_are_the_same_bytes_however_the_stream_is_cut(cuts: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((sum(cuts), 3))
    stream, start = Stream(), 0
    for cut in cuts:
        stream.add(rows[start : start + cut])
        start += cut
    found, whole = stream.finish(), moments(rows)
    assert found.mean.tobytes() == whole.mean.tobytes()
    assert found.scatter.tobytes() == whole.scatter.tobytes()


def test_merged_moments_are_those_of_all(rng: np.random.Generator) -> None:
    rows = cloud(rng, 500, 5)
    found, whole = merged([moments(rows[:1]), moments(rows[1:200]), moments(rows[200:])]), moments(rows)
    assert found is not None
    assert found.count == 500
    np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-12)


def slow_frechet(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize("d", [2, 17, 200])
def test_frechet_distance_is_scipys(rng: np.random.Generator, d: int) -> None:
    a, b = cloud(rng, 600, d), cloud(rng, 500, d, spread=1.3)
    assert frechet_distance(a, b) == pytest.approx(slow_frechet(a, b), rel=1e-6)


def test_frechet_distance_of_gaussians_along_axes_is_the_closed_form(rng: np.random.Generator) -> None:
    """Columns that are orthogonal by construction: the distance is a sum over axes of (s1 - s2)^2."""
    basis = np.linalg.qr(rng.standard_normal((64, 9)) - 0)[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    first, second = 10.0 ** np.arange(0, -9, -1), 3 * 10.0 ** np.arange(0, -9, -1)
    expected = float(((first - second) ** 2).sum() / 63)
    assert frechet_distance(basis * first, basis * second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (60, 70), (60, 300)])
def test_singular_covariances_are_compared_too(rng: np.random.Generator, n: int, m: int) -> None:
    """The oracle: tr (S1 S2)^(1/2) is the sum of the singular values of the product of the centred samples."""
    a, b = rng.standard_normal((n, 80)), rng.standard_normal((m, 80)) * 2 + 1
    centred_a, centred_b = (a - a.mean(0)) / math.sqrt(n - 1), (b - b.mean(0)) / math.sqrt(m - 1)
    trace = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (centred_a**2).sum() + (centred_b**2).sum() - 2 * trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert between(of_moments(moments(a)), of_moments(moments(b))) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself(rng: np.random.Generator) -> None:
    rows = cloud(rng, 300, 50)
    assert frechet_distance(rows, rows) < 1e-9 * float(np.cov(rows, rowvar=False).trace())


def test_the_extrapolated_distance_has_less_bias(rng: np.random.Generator) -> None:
    """Both sets come from one distribution, so the true distance is 0 but for the reference's own bias."""
    d = 40
    reference = gaussian(rng.standard_normal((100_000, d)))
    sample = rng.standard_normal((1000, d))
    plain, endless = between(gaussian(sample), reference), frechet_to_infinity(sample, reference)
    assert abs(endless) < plain / 4


def slow_share(points: np.ndarray, rows: np.ndarray, k: int) -> float:
    points, rows = points.astype(np.float64), rows.astype(np.float64)

    def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    radii = np.sort(squared(rows, rows), axis=1)[:, k]
    return float((squared(points, rows) <= radii).any(axis=1).mean())


@pytest.mark.parametrize(("n", "m", "d", "shift"), [(300, 250, 7, 0.0), (130, 310, 70, 0.1), (257, 129, 33, 50.0)])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_precision_and_recall_are_brute_forces(
    rng: np.random.Generator, n: int, m: int, d: int, shift: float, k: int
) -> None:
    a = (rng.standard_normal((n, d)) * 1.2 + shift).astype(np.float32)
    b = (rng.standard_normal((m, d)) + shift).astype(np.float32)
    assert precision_recall(a, b, k) == (slow_share(a, b, k), slow_share(b, a, k))


def test_copies_lie_on_the_border_and_count(rng: np.random.Generator) -> None:
    """Radii of 0, and points exactly on a ball's border."""
    rows = np.repeat(rng.integers(0, 3, (40, 5)).astype(np.float32), 6, axis=0)
    assert precision_recall(rows, rows[rng.permutation(len(rows))]) == (1.0, 1.0)
    grid = np.arange(50, dtype=np.float32)[:, None]
    assert precision_recall(grid + 3, grid, 3) == (slow_share(grid + 3, grid, 3), slow_share(grid, grid + 3, 3))


def test_every_road_gives_the_same_balls(rng: np.random.Generator) -> None:
    a, b = neighbours._within_half(cloud(rng, 700, 50), cloud(rng, 400, 50))
    squares = _core.radii(b, k=4, threads=1, instructions="portable")
    covered = _core.inside(a, b, squares, threads=1, instructions="portable")
    assert 0 < covered.mean() < 1
    for threads, instructions in ((1, "amx"), (3, "amx"), (2, "portable"), (1, "avx2"), (1, "avx512")):
        assert _core.radii(b, k=4, threads=threads, instructions=instructions).tobytes() == squares.tobytes()
        assert (_core.inside(a, b, squares, threads=threads, instructions=instructions) == covered).all()


def test_a_lone_far_point_does_not_disturb(rng: np.random.Generator) -> None:
    a, b = cloud(rng, 1200, 3), cloud(rng, 500, 3)
    a[3] *= 1e4
    assert precision_recall(a, b) == (slow_share(a, b, 3), slow_share(b, a, 3))


def test_kernel_distance_is_the_unbiased_estimate(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((50, 4)), rng.standard_normal((50, 4)) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    pairs = [(i, j) for i in range(50) for j in range(50)]
    within = sum(kernel(s[i], s[j]) for s in (a, b) for i, j in pairs if i != j) / (50 * 49)
    between = sum(kernel(a[i], b[j]) for i, j in pairs) / 2500
    assert kernel_distance(a, b, subsets=1, size=50).mean == pytest.approx(within - 2 * between, rel=1e-10)


def test_inception_score_of_sure_and_even_answers_is_the_number_of_classes() -> None:
    logits = 1000 * np.eye(8)[np.arange(800) % 8]
    assert inception_score(logits, parts=1).mean == pytest.approx(8)
    assert inception_score(np.zeros((50, 8))).mean == pytest.approx(1)


def test_a_class_that_no_image_shows_leaves_the_inception_score_known() -> None:
    logits = 1000 * np.eye(8)[np.arange(700) % 7]
    assert inception_score(logits, parts=1).mean == pytest.approx(7)


def test_rows_of_one_table_must_be_made_alike(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    network = digits_network(device="cpu")
    with pytest.raises(ValueError, match="same samples, but one has 40, other has 30"):
        public.evaluate({"one": images, "other": images[:30]}, images, network)
    rows = public.evaluate({"one": images, "other": images[::-1]}, images, network, samples=30)
    assert rows["one"].samples == 30
    assert rows["one"].references == 40
    public.comparable(rows)
    with pytest.raises(ValueError, match="same samples"):
        public.comparable(rows | {"short": public.evaluate({"short": images[:20]}, images, network)["short"]})
    assert all(math.isfinite(value) for value in vars(rows["one"]).values() if isinstance(value, float))


def judged(count: int, **options: Any) -> Any:
    images = np.zeros((9, 8, 8), np.uint8)
    return public.evaluate({"few": images[:count]}, images, digits_network(device="cpu"), **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: frechet_distance(np.ones((5, 3)), np.ones((5, 4))), "same number of columns, not 3 and 4"),
        (lambda: frechet_distance(np.ones((1, 3)), np.ones((5, 3))), "at least 2 rows, not 1"),
        (lambda: frechet_distance([[np.nan, 1]], np.ones((5, 2))), "features holds NaN"),
        (lambda: precision_recall(np.ones((5, 3)), np.ones((3, 3))), "k must be below 3"),
        (lambda: kernel_distance(np.ones((5, 3)), np.ones((5, 3))), "size must be at most 5"),
        (lambda: load_network("digits", weights="x"), "weights are for network 'inception' only"),
        (lambda: inception_network("nowhere.pth"), "'nowhere.pth' is none"),
        (lambda: public.evaluate({}, np.zeros((3, 8, 8), np.uint8)), "at least one set"),
        (lambda: precision_recall(np.full((9, 3), 1e39), np.ones((9, 3))), "generated in float32 holds NaN or inf"),
        (lambda: judged(3), "at least 4 images each, not 3 and 9"),
        (lambda: judged(5, samples=0), "samples must be at least 1, not 0"),
        (lambda: judged(5, size=0), "size must be at least 1, not 0"),
    ],
)
def test_mistakes_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
