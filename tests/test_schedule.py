"""The schedule: betas and kept steps against published numbers, the table against its definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gdui.diffusion.schedule import Schedule
from gdui.kernels.tables import WIDTH, Column

# First, middle and last beta as OpenAI's guided-diffusion gives them.
PUBLISHED = {
    ("linear", 1000, ""): (1e-4, 0.01005996, 0.02),
    ("linear", 1000, "250"): (1e-4, 4.92979036e-02, 7.75193450e-02),
    ("linear", 1000, "ddim25"): (1e-4, 3.11098187e-01, 5.32601823e-01),
    ("linear", 300, "10,15,20"): (0.00033333, 0.25243556, 0.29006952),
    ("linear", 4000, "100"): (2.5e-05, 9.80242993e-02, 1.80881441e-01),
    ("cosine", 1000, ""): (4.12842248e-05, 3.15569144e-03, 9.99e-01),
    ("cosine", 1000, "250"): (4.12842248e-05, 1.56793403e-02, 9.99937499e-01),
    ("cosine", 4000, "100"): (9.86581881e-06, 3.18425182e-02, 9.99999375e-01),
}
KEPT = {
    (300, "10,15,20"): ([0, 11, 22, 33, 44], 45),
    (1000, "ddim25"): ([0, 40, 80, 120, 160], 25),
    (1000, "250"): ([0, 4, 8, 12, 16], 250),
    (10, "3"): ([0, 4, 9], 3),
    (7, "1,1"): ([0, 4], 2),
}


@pytest.mark.parametrize(("name", "steps", "respacing"), PUBLISHED)
def test_betas_are_the_published_ones(name: str, steps: int, respacing: str) -> None:
    betas = Schedule.from_name(name, steps, respacing).betas
    np.testing.assert_allclose(betas[[0, len(betas) // 2, -1]], PUBLISHED[name, steps, respacing], rtol=2e-5)


@pytest.mark.parametrize(("steps", "respacing"), KEPT)
def test_kept_steps_are_the_published_ones(steps: int, respacing: str) -> None:
    first, count = KEPT[steps, respacing]
    kept = Schedule.from_name("cosine", steps, respacing).timestep_map
    assert kept[: len(first)].tolist() == first
    assert len(kept) == count


@given(st.sampled_from(["linear", "cosine", "sigmoid"]), st.integers(1, 300), st.data())
def test_respacing_keeps_the_signal_at_the_kept_steps(name: str, steps: int, data: st.DataObject) -> None:
    assume(name != "linear" or steps > 20)
    count = data.draw(st.integers(1, steps))
    full, some = Schedule.from_name(name, steps), Schedule.from_name(name, steps, str(count))
    kept = some.timestep_map
    assert (np.diff(kept) > 0).all()
    assert len(some) == count
    np.testing.assert_allclose(np.cumprod(1 - some.betas), np.cumprod(1 - full.betas)[kept], rtol=1e-9, atol=1e-15)


def test_a_posterior_is_bayes_rule() -> None:
    """The product of the Gaussians q(x_t | x') and q(x' | x0), done by numbers on a grid."""
    schedule = Schedule.from_name("linear", 100)
    table = schedule.table(dtype=torch.float64)
    grid = np.linspace(-4, 4, 200_001)
    for t, x0, x_t in [(1, 0.3, 0.2), (50, -0.8, 0.1), (99, 0.5, -1.0)]:
        before, beta = np.prod(1 - schedule.betas[:t]), schedule.betas[t]
        log_density = -((grid - np.sqrt(before) * x0) ** 2) / (2 * (1 - before))
        log_density -= (x_t - np.sqrt(1 - beta) * grid) ** 2 / (2 * beta)
        density = np.exp(log_density - log_density.max())
        density /= density.sum()
        mean = (density * grid).sum()
        row = table[t]
        assert row[Column.POSTERIOR_X0] * x0 + row[Column.POSTERIOR_XT] * x_t == pytest.approx(mean, abs=1e-6)
        assert row[Column.SMALL_VARIANCE] == pytest.approx((density * (grid - mean) ** 2).sum(), rel=1e-4)


def test_the_table_has_a_row_a_step_and_is_made_once() -> None:
    schedule = Schedule.from_name("cosine", 50, "10")
    table = schedule.table("cpu")
    assert table.shape == (10, WIDTH)
    assert table.dtype == torch.float32
    assert table.isfinite().all()
    assert schedule.table("cpu") is table
    assert schedule.timesteps(torch.tensor([0, 9])).tolist() == [0, 49]


def test_a_table_made_in_inference_mode_can_be_trained_with() -> None:
    schedule = Schedule.from_name("cosine", 50)
    with torch.inference_mode():
        assert not schedule.table().is_inference()


def test_a_schedule_of_one_step_is_finite() -> None:
    assert Schedule.from_name("linear", 1).table().isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quadratic",), "schedule must be one of 'linear', 'cosine', 'sigmoid', not 'quadratic'"),
        (("linear", 20), "steps must be more than 20 for 'linear': with so few a beta reaches 1"),
        (("linear", 0), "steps must be at least 1, not 0"),
        (("linear", 100, "many"), "respacing must be like '250', '10,15,20' or 'ddim25', not 'many'"),
        (("linear", 100, "0"), "not '0'"),
        (("linear", 100, 25), "respacing must be like '250', '10,15,20' or 'ddim25', not 25"),
        (("linear", 100, "²"), "not '²'"),
        (("linear", 100, "ddim3,4"), "not 'ddim3,4'"),
        (("linear", 100, "ddim70"), "no whole stride takes 70 of 100 steps"),
        (("linear", 100, "60,10"), "respacing wants 60 steps of a section of 50"),
    ],
)
def test_mistakes_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Schedule.from_name(*arguments)
    assert message in str(error.value)


def test_betas_of_ones_own() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    own, known = Schedule(betas, np.arange(1000)), Schedule.from_name("linear")
    assert torch.equal(own.table(), known.table())
    assert torch.equal(Schedule(list(betas), list(range(1000))).table(), known.table())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("betas", "kept", "message"),
    [
        ([0.1, 1.0], [0, 1], "betas must be above 0 and below 1, but hold 1.0"),
        ([0.0, 0.1], [0, 1], "betas must be above 0 and below 1, but hold 0.0"),
        ([0.1, np.nan], [0, 1], "betas holds NaN or infinity"),
        ([[0.1]], [0], "betas must have 1 axis, not 2"),
        ([], [], "betas must hold at least one step"),
        ([0.1, 0.2], [0], "timestep_map must have 2 entries, not 1"),
        ([0.1], [-1], "timestep_map must be at least 0, but holds -1"),
    ],
)
def test_wrong_betas_are_named(betas: Any, kept: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(betas, kept)


@pytest.mark.parametrize("t", [3, np.arange(3), torch.ones(3), torch.ones(3, dtype=torch.uint8)], ids=str)
def test_steps_that_are_no_indices_are_named(t: Any) -> None:
    with pytest.raises(TypeError, match="t must be an int64 tensor, not "):
        Schedule.from_name("linear", 100).timesteps(t)


def test_half_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match="steps must be a whole number, not float"):
        Schedule.from_name("linear", 10.5)  # type: ignore[arg-type]
