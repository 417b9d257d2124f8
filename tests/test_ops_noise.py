"""The counter-based noise: published bits, normal moments and tails, independence, and the same numbers everywhere."""

import math

import numpy as np
import pytest
import torch
from backends import device_of, runnable
from scipy import stats
from torch import Tensor

from gdui import ops
from gdui.diffusion.schedule import Schedule
from gdui.kernels import reference_diffusion as reference

BACKENDS = runnable(native=True)
# Known answers of Philox4x32-10 from Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


class OnlyNoise:
    """A schedule that leaves nothing of the image."""

    def table(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        table = torch.zeros(1, 16, dtype=dtype, device=device)
        table[0, 1] = 1
        return table


def draw(seed: Tensor, shape: tuple[int, ...], backend: str = "auto") -> Tensor:
    device = device_of(backend)
    images = torch.zeros(len(seed), *shape, device=device)
    t = torch.zeros(len(seed), dtype=torch.int64, device=device)
    return ops.noise_images(images, t, OnlyNoise(), seed=seed.to(device), backend=backend).cpu()  # type: ignore[arg-type]


def philox_numpy(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """The generator in Python's unbounded integers."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ low, right & 0xFFFFFFFF, (left >> 32) ^ d ^ high, left & 0xFFFFFFFF
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert philox_numpy(counter, key) == words
    as_tensors = tuple(torch.tensor([value]) for value in counter), tuple(torch.tensor([value]) for value in key)
    assert tuple(int(word) for word in reference.philox(*as_tensors)) == words  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_noise_is_box_muller_of_these_bits(backend: str) -> None:
    seeds = [0, 1, -1, 2**63 - 1, -(2**62) + 12345]
    drawn = draw(torch.tensor(seeds), (3, 3), backend).flatten(1)
    for row, seed in zip(drawn, seeds, strict=True):
        expected = []
        for group in range(3):
            bits = philox_numpy((group, 0, 0, 0), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
            for length, angle in (bits[:2], bits[2:]):
                radius = math.sqrt(-2 * math.log(float(np.float32(length)) / 2**32 + 2.0**-33))
                turn = 2 * math.pi * angle / 2**32
                expected += [radius * math.cos(turn), radius * math.sin(turn)]
        torch.testing.assert_close(row, torch.tensor(expected[:9]), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_draw_the_same(backend: str) -> None:
    for shape in [(3, 33, 31), (2, 64, 64), (1, 1, 1)]:
        seed = torch.tensor([7, -8, 2**40])
        torch.testing.assert_close(
            draw(seed, shape, backend), reference.standard_normal(seed, seed * 0, 0, torch.Size((3, *shape))).float(),
            rtol=3e-6, atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_knows_nothing_of_batch_or_layout(backend: str) -> None:
    device, seed = device_of(backend), torch.tensor([3, 4, 5])
    together = draw(seed, (3, 7, 5), backend)
    apart = torch.cat([draw(one, (3, 7, 5), backend) for one in seed.split(1)])
    assert torch.equal(together, apart)
    images = torch.zeros(3, 3, 7, 5, device=device).contiguous(memory_format=torch.channels_last)
    t = torch.zeros(3, dtype=torch.int64, device=device)
    laid = ops.noise_images(images, t, OnlyNoise(), seed=seed.to(device), backend=backend)  # type: ignore[arg-type]
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(laid.cpu(), together)


def test_noise_is_normal() -> None:
    values = draw(torch.arange(64), (4, 64, 64)).flatten().double().numpy()
    n = len(values)
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs(stats.skew(values)) < 5 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(values)) < 5 * math.sqrt(24 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    for bound in (2, 3, 4):
        expected = n * 2 * stats.norm.sf(bound)
        assert abs((np.abs(values) > bound).sum() - expected) < 5 * math.sqrt(expected)


def test_the_tails_reach_where_few_bits_would_end() -> None:
    """24 bits end at 5.77 deviations; the shortest of 32 bits lies beyond 6.6."""
    values = draw(torch.arange(512), (4, 128, 128)).abs()
    expected = values.numel() * 2 * stats.norm.sf(5)
    assert abs(int((values > 5).sum()) - expected) < 5 * math.sqrt(expected)
    assert values.max() < 7


def test_images_steps_and_streams_are_independent() -> None:
    shape = torch.Size((2, 3, 64, 64))
    seeds, steps = torch.tensor([10, 11]), torch.tensor([5, 5])
    drawn = [
        reference.standard_normal(seeds, steps, 1, shape),
        reference.standard_normal(seeds, steps + 1, 1, shape),
        reference.standard_normal(seeds, steps, 0, shape),
        reference.standard_normal(seeds + 2**32, steps, 1, shape),
    ]
    rows = torch.cat([noise.flatten(1) for noise in drawn]).numpy()
    correlations = np.corrcoef(
        np.concatenate([rows, rows[:, ::-1], np.roll(rows, 1, axis=1), np.roll(rows, 4, axis=1)])
    )
    away = correlations - np.eye(len(correlations))
    assert np.abs(away).max() < 5 / math.sqrt(rows.shape[1])
    squares = np.corrcoef(rows**2) - np.eye(len(rows))
    assert np.abs(squares).max() < 5 / math.sqrt(rows.shape[1])


def test_sampling_draws_anew_at_each_step() -> None:
    schedule, x = Schedule.from_name("linear", 50), torch.zeros(2, 1, 64, 64)
    seed = torch.tensor([1, 1])
    options = {"variance": "fixed_large", "target": "x0", "seed": seed}
    out = ops.guided_step(x, x, torch.tensor([20, 21]), schedule, **options)  # type: ignore[arg-type]
    first, second = out.flatten(1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 64


def test_threads_change_nothing() -> None:
    seed, threads = torch.arange(40), torch.get_num_threads()
    drawn = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            drawn.append(draw(seed, (3, 40, 40)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
