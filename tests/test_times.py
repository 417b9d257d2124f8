"""Time steps by loss keep the expected gradient; balanced gradients oppose nobody; averages follow the weights."""

import numpy as np
import pytest
import torch
from trainings import pictures

from gdui.diffusion.averages import follow, wearing
from gdui.diffusion.balance import balanced
from gdui.diffusion.recipe import Recipe, draw
from gdui.diffusion.times import REMEMBERED, TimeSampler


def learned(sizes: np.ndarray) -> TimeSampler:
    times = TimeSampler("loss_aware", len(sizes))
    for _ in range(REMEMBERED):
        times.learn(np.arange(len(sizes)), sizes)
    return times


def test_loss_aware_steps_are_drawn_by_loss_and_weighed_back() -> None:
    sizes = np.array([1.0, 0.0, 3.0, 4.0])
    quantiles = (np.arange(80_000) + 0.5) / 80_000
    t, weights = learned(sizes).pick(quantiles)
    shares = np.bincount(t, minlength=4) / len(t)
    np.testing.assert_allclose(shares, 0.999 * sizes / sizes.sum() + 0.001 / 4, atol=1e-4)
    values = np.array([5.0, -2.0, 7.0, 1.0])
    assert (weights * values[t]).mean() == pytest.approx(values.mean(), rel=1e-3)


def test_before_every_step_is_known_they_are_drawn_evenly() -> None:
    times = learned(np.ones(4))
    times.counts[2] = REMEMBERED - 1
    t, weights = times.pick(np.array([0.0, 0.3, 0.99]))
    assert t.tolist() == [0, 1, 3]
    assert weights.tolist() == [1, 1, 1]


def test_what_was_learned_survives_a_checkpoint() -> None:
    times, again = learned(np.array([1.0, 2.0])), TimeSampler("loss_aware", 2)
    again.restore(times.tensors())
    quantiles = np.linspace(0, 0.99, 7)
    assert all((a == b).all() for a, b in zip(times.pick(quantiles), again.pick(quantiles), strict=True))


def test_balanced_gradients_as_by_hand() -> None:
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # g1 - (g1.g2/|g2|^2) g2 = (1,0) + 0.5 (-1,1) = (.5,.5);  g2 - (g2.g1/|g1|^2) g1 = (0,1)
    (joined,) = balanced([[one], [two]], (0, 1))
    torch.testing.assert_close(joined, torch.tensor([0.5, 1.5]))


def test_gradients_that_agree_are_added() -> None:
    tasks = [[torch.rand(3, 2), torch.rand(4)] for _ in range(3)]
    joined = balanced(tasks, (0, 1))
    for i in range(2):
        torch.testing.assert_close(joined[i], sum(task[i] for task in tasks))
    for gradients in tasks:
        assert sum((a * b).sum() for a, b in zip(joined, gradients, strict=True)) > 0


def test_every_interval_takes_part_in_every_step() -> None:
    recipe = Recipe(batch=8, intervals=4)
    for step in range(5):
        quantiles = draw(step, pictures(), recipe).quantiles
        assert (quantiles * 4).astype(int).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"times": "often"}, "times must be one of 'uniform'"),
        ({"intervals": 4, "times": "loss_aware"}, "leave times at 'uniform'"),
        ({"batch": 9, "intervals": 2}, "1 ranks x 2 intervals x 1 parts, and 9 is not"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**wrong)


def test_an_average_forgets_the_beginning() -> None:
    averages, weights = {0.999: [torch.zeros(1)]}, [torch.ones(1)]
    expected = 0.0
    for step in range(1, 50):
        follow(averages, weights, step)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay)
    assert averages[0.999][0].item() == pytest.approx(expected, rel=1e-5)
    assert averages[0.999][0].item() > 0.99


def test_a_network_wears_other_weights_and_takes_its_own_back() -> None:
    network = torch.nn.Linear(2, 1).train()
    own = [p.detach().clone() for p in network.parameters()]
    with wearing(network, [torch.zeros(1, 2), torch.ones(1)]) as worn:
        assert not worn.training
        assert worn(torch.ones(1, 2)).item() == 1
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(own, network.parameters(), strict=True))
