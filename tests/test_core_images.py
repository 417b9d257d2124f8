"""The core's image ops on bare arrays, as the sanitizers watch them: all is written, and threads change no byte."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gdui import _core

Floats = npt.NDArray[np.float32]
STEPS = 12
SHAPES = [(0, 3, 4), (1, 1, 1), (2, 3, 5), (5, 4, 33), (3, 32, 257)]  # batch, channels, positions
THREADS = (1, 3)


def table() -> Floats:
    """The coefficients of a linear schedule, in the columns that csrc/diffusion.hpp names."""
    beta = np.linspace(1e-3, 0.3, STEPS)
    left = np.cumprod(1 - beta)
    before = np.append(1, left[:-1])
    small = beta * (1 - before) / (1 - left)
    filled = np.append(small[1], small[1:])
    large = np.append(small[1], beta[1:])
    columns = [
        left**0.5, (1 - left) ** 0.5, left**-0.5, (1 / left - 1) ** 0.5, beta * before**0.5 / (1 - left),
        (1 - beta) ** 0.5 * (1 - before) / (1 - left), small, np.log(filled), large, np.log(large), np.log(beta),
        ((1 - before) / (1 - left) * (1 - left / before)) ** 0.5, before**0.5, 1 - before, left / (1 - left),
        np.arange(STEPS),
    ]  # fmt: skip
    return np.stack(columns, 1).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def unwritten(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


def steps_and_seeds(batch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return np.arange(batch, dtype=np.int64) % STEPS, np.arange(batch, dtype=np.int64) * 7 - 3


def same_for_all_threads(run: Callable[[int], tuple[Floats, ...]]) -> tuple[Floats, ...]:
    """What `run` makes: whole, and the same whoever computes it."""
    first, *others = (run(threads) for threads in THREADS)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(value).all() for value in first)
    return first


def laid_out(images: Floats, last: bool) -> Floats:
    """The same values, channels last in memory where asked."""
    return images.transpose(0, 2, 1).copy().transpose(0, 2, 1) if last else images


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_drawn_by_seed_and_given_noise_is_taken(shape: tuple[int, ...], channels_last: bool) -> None:
    x0, given, (t, seed) = laid_out(normal(*shape), channels_last), normal(*shape, seed=1), steps_and_seeds(shape[0])

    def run(threads: int) -> tuple[Floats, ...]:
        drawn, taken = unwritten(*shape), unwritten(*shape)
        _core.noise_images(x0, t, table(), None, seed, drawn, threads)
        _core.noise_images(x0, t, table(), given, None, taken, threads)
        return drawn, taken

    _, taken = same_for_all_threads(run)
    share = table()[t, :2, None, None]
    np.testing.assert_allclose(taken, share[:, 0] * x0 + share[:, 1] * given, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["simple", "hybrid", "vlb"])
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_fills_its_gradient(shape: tuple[int, ...], target: str, kind: str) -> None:
    x0, predicted, (t, seed) = np.tanh(normal(*shape)), normal(*shape, seed=2), steps_and_seeds(shape[0])
    values = None if kind == "simple" else np.tanh(normal(*shape, seed=3))

    def run(threads: int) -> tuple[Floats, ...]:
        losses, dpredicted = unwritten(shape[0]), unwritten(*shape)
        dvalues = None if values is None else unwritten(*shape)
        _core.denoising_loss(
            predicted, values, x0, t, table(), None, seed, kind, target, "min_snr", 1.0, normal(shape[0], seed=4),
            dpredicted, dvalues, losses, threads,
        )  # fmt: skip
        return losses, dpredicted, *(() if dvalues is None else (dvalues,))

    losses = same_for_all_threads(run)[0]
    assert kind != "simple" or (losses >= 0).all()


@pytest.mark.parametrize("clip", ["none", "one", "quantile"])
@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_fills_its_images(shape: tuple[int, ...], method: str, clip: str) -> None:
    x, predicted, weak, gradient, values = (normal(*shape, seed=seed) for seed in range(5))
    t, seed = steps_and_seeds(shape[0])
    rank = max(1, shape[1] * shape[2] - 1)

    def run(threads: int) -> tuple[Floats, ...]:
        out = unwritten(*shape)
        _core.guided_step(
            x, predicted, np.tanh(values), t, table(), gradient, 2.0, None, seed, method, 0.5, "learned_range", clip,
            rank, "eps", weak, 1.5, out, threads,
        )  # fmt: skip
        return (out,)

    same_for_all_threads(run)


@pytest.mark.parametrize(("rows", "clusters"), [(0, 3), (1, 1), (7, 10), (65, 33), (300, 1000)])
def test_the_heads_loss_and_its_gradient(rows: int, clusters: int) -> None:
    logits, above = 3 * normal(rows, clusters), normal(rows, seed=1)
    targets = np.arange(rows, dtype=np.int64) % clusters

    def run(threads: int) -> tuple[Floats, ...]:
        losses, dlogits = unwritten(rows), unwritten(rows, clusters)
        _core.double_softmax_loss(logits, targets, losses, threads)
        _core.double_softmax_loss_backward(logits, targets, above, dlogits, threads)
        return losses, dlogits

    losses, _ = same_for_all_threads(run)
    share = np.exp(logits - logits.max(1, keepdims=True, initial=0).astype(np.float64))
    share /= share.sum(1, keepdims=True)
    wanted = np.log(np.exp(share).sum(1)) - share[np.arange(rows), targets]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize(
    ("batch", "pixels", "channels", "groups"), [(0, 4, 8, 2), (1, 1, 2, 1), (2, 9, 12, 4), (3, 65, 64, 32)]
)
def test_group_norm_there_and_back(batch: int, pixels: int, channels: int, groups: int, dtype: Any) -> None:
    x, dy = (as_type(normal(batch, pixels, channels, seed=seed), dtype) for seed in (0, 1))
    gain, offset = normal(batch, channels, seed=2), normal(batch, channels, seed=3)

    def run(threads: int) -> tuple[Floats, ...]:
        y, dx = (as_type(unwritten(*x.shape), dtype) for _ in range(2))
        mean, rstd, dgain, doffset = (unwritten(batch, channels) for _ in range(4))
        _core.group_norm(x, gain, offset, groups, 1e-5, True, y, mean, rstd, threads)
        _core.group_norm_backward(dy, x, gain, offset, mean, rstd, groups, True, dx, dgain, doffset, threads)
        return as_floats(y), as_floats(dx), mean, rstd, dgain, doffset

    y, _, mean, rstd, *_ = same_for_all_threads(run)
    z = (as_floats(x) - mean[:, None]) * rstd[:, None] * gain[:, None] + offset[:, None]
    np.testing.assert_allclose(y, z / (1 + np.exp(-z)), rtol=2**-7, atol=2**-7)


def as_type(values: Floats, dtype: Any) -> npt.NDArray[Any]:
    """float32, or the upper half of its bits: bfloat16, cut off."""
    return values if dtype == np.float32 else (values.view(np.uint32) >> 16).astype(np.uint16)


def as_floats(values: npt.NDArray[Any]) -> Floats:
    return values if values.dtype == np.float32 else (values.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512", "amx"])
@pytest.mark.parametrize(("points", "rows"), [(1, 4), (37, 130), (300, 259)])
def test_balls_hold_what_brute_force_says(points: int, rows: int, instructions: str) -> None:
    looking, centres = normal(points, 64) / 40, normal(rows, 64, seed=1) / 40

    def run(threads: int) -> tuple[Any, ...]:
        squares = _core.radii(centres, k=3, threads=threads, instructions=instructions)
        found = _core.inside(looking, centres, squares, threads=threads, instructions=instructions)
        return squares, found

    squares, found = same_for_all_threads(run)
    apart = ((centres[:, None].astype(np.float64) - centres[None]) ** 2).sum(2)
    np.testing.assert_allclose(squares, np.sort(apart, 1)[:, 2], rtol=1e-6)
    away = ((looking[:, None].astype(np.float64) - centres[None]) ** 2).sum(2)
    np.testing.assert_array_equal(found, (away <= squares).any(1))
