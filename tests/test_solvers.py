"""The solvers follow the flow of a Gaussian, which is known in closed form, and better the more steps they take."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gdui.diffusion.schedule import Schedule
from gdui.diffusion.solvers import Instant, Spacing, dpm_solver, heun, instants

LINEAR, COSINE = Schedule.from_name("linear", 1000), Schedule.from_name("cosine", 1000)
MEAN, SPREAD = 0.3, 0.5


def clean_of_gaussian(x: Tensor, at: Instant) -> Tensor:
    """E[x0 | x] where x0 is normal."""
    gain = at.alpha * SPREAD**2 / (at.alpha**2 * SPREAD**2 + at.sigma**2)
    return MEAN + gain * (x - at.alpha * MEAN)


def flowed(x: Tensor, start: Instant, end: Instant) -> Tensor:
    """The flow keeps every point's place in the (normal) distribution of its moment."""
    deviation = [math.sqrt(at.alpha**2 * SPREAD**2 + at.sigma**2) for at in (start, end)]
    return end.alpha * MEAN + (x - start.alpha * MEAN) * deviation[1] / deviation[0]


def error(solver: Callable[..., Any], steps: int, spacing: Spacing) -> float:
    way = instants(LINEAR, steps, spacing)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    *_, before_last, _ = solver(clean_of_gaussian, x, way)
    return float((before_last - flowed(x, way[0], way[-1])).abs().max())


@pytest.mark.parametrize("spacing", ["karras", "uniform"])
@pytest.mark.parametrize("solver", [dpm_solver, heun])
def test_the_solvers_are_of_second_order(solver: Callable[..., Any], spacing: Spacing) -> None:
    coarse, fine = error(solver, 80, spacing), error(solver, 160, spacing)
    assert fine < 6e-3
    assert 3.5 < coarse / fine < 4.6, "halving the step must divide the error by about four"


@pytest.mark.parametrize("spacing", ["karras", "uniform"])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_the_way_runs_from_noise_to_the_cleanest_moment(schedule: Schedule, spacing: Spacing) -> None:
    way = instants(schedule, 20, spacing)
    assert 900 < way[0].timestep <= 999
    assert way[0].sigma / way[0].alpha <= 80.0001
    assert way[-1].timestep == pytest.approx(0, abs=1e-9)
    assert all(a.sigma > b.sigma for a, b in pairwise(way))
    for at in way:
        assert at.alpha**2 + at.sigma**2 == pytest.approx(1)
    inner, table = way[7], np.sqrt(np.cumprod(1 - schedule.betas))
    assert table[math.ceil(inner.timestep)] <= inner.alpha <= table[math.floor(inner.timestep)]


def test_karras_sigmas_are_evenly_spaced_by_their_seventh_root() -> None:
    roots = [(at.sigma / at.alpha) ** (1 / 7) for at in instants(LINEAR, 9)]
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_keeps_the_distribution(eta: float) -> None:
    """Whatever is replaced of the noise, a Gaussian's moments at the end are those of its flow."""
    way = instants(LINEAR, 100)
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(50_000, generator=random, dtype=torch.float64)
    deviations = [math.sqrt(at.alpha**2 * SPREAD**2 + at.sigma**2) for at in (way[0], way[-1])]
    x = way[0].alpha * MEAN + deviations[0] * normal
    *_, before_last, _ = dpm_solver(
        clean_of_gaussian, x, way, noise=lambda _: torch.randn(x.shape, generator=random, dtype=x.dtype), eta=eta
    )
    assert float(before_last.mean()) == pytest.approx(way[-1].alpha * MEAN, abs=0.01)
    assert float(before_last.std()) == pytest.approx(deviations[1], rel=0.01)
    begun = float(torch.corrcoef(torch.stack([normal, before_last]))[0, 1])
    assert abs(begun) < (0.05 if eta == 1 else 0.5), "the noise of the beginning must be gone"


def test_without_eta_noise_is_not_asked_for() -> None:
    x = torch.linspace(-2, 2, 5)
    way = instants(COSINE, 5)

    def never(_: int) -> Tensor:
        raise AssertionError

    plain, offered = (list(dpm_solver(clean_of_gaussian, x, way, noise=noise)) for noise in (None, never))
    assert all(torch.equal(a, b) for a, b in zip(plain, offered, strict=True))
