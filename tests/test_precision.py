"""The fast networks compute what the exact ones do, give or take a few roundings of bfloat16."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from weights import fill, inputs

from gdui.diffusion.classifier import Classifier, ClassifierConfig, guidance_gradient
from gdui.diffusion.unet import UNet, preset
from gdui.training import precision

ROUNDING = torch.finfo(torch.bfloat16).eps


@pytest.fixture(autouse=True)
def _in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GDUI_PRECISION", raising=False)
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)


def unet() -> UNet:
    network = UNet(preset("tiny", width=32, head_width=16, classes=4))
    fill(network)
    return network


def classifier() -> Classifier:
    network = Classifier(ClassifierConfig(8, 32, depth=1, multipliers=(1, 2), attention_at=(4,), classes=4))
    fill(network)
    return network


def off(fast: Tensor, exact: Tensor) -> float:
    """The root mean square of the error, in that of the truth."""
    return float((fast.double() - exact.double()).norm() / exact.double().norm())


def weight_gradients(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    x, t, classes = inputs(8, 4)
    with precision.autocast("cpu") if dtype == torch.bfloat16 else torch.autocast("cpu", enabled=False):
        out = network(x.to(torch.float64) if dtype == torch.float64 else x, t, classes)
    out.double().square().mean().backward()
    return {name: parameter.grad.double() for name, parameter in network.named_parameters()}


def test_gradients_of_every_weight_equal_those_in_float64() -> None:
    exact = weight_gradients(unet().double(), torch.float64)
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    single = weight_gradients(unet(), torch.float32)
    assert single.keys() == exact.keys()
    for name, gradient in single.items():
        torch.testing.assert_close(gradient, exact[name], rtol=1e-4, atol=1e-5 * largest)


def test_gradients_in_mixed_precision_point_the_same_way() -> None:
    exact, mixed = weight_gradients(unet().double(), torch.float64), weight_gradients(unet(), torch.bfloat16)
    assert exact.keys() == mixed.keys()
    together = [torch.cat([value.flatten() for value in gradients.values()]) for gradients in (mixed, exact)]
    assert cosine_similarity(*together, dim=0) > 0.998


def test_a_network_for_inference_is_near_the_exact_one_and_leaves_it_alone() -> None:
    network, (x, t, classes) = unet().train(), inputs(8, 4)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        exact, fast = network(x, t, classes), precision.for_inference(network, compile=False)(x, t, classes)
    assert fast.dtype == torch.float32
    assert off(fast, exact) < 8 * ROUNDING
    assert network.training
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert value.equal(before[name])


def test_without_bfloat16_a_network_for_inference_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    network, (x, t, classes) = unet(), inputs(8, 4)
    torch.testing.assert_close(precision.for_inference(network, compile=False)(x, t, classes), network(x, t, classes))


def test_a_classifier_for_inference_steers_the_same_way() -> None:
    network, (x, t, classes) = classifier(), inputs(8, 4)
    assert classes is not None
    fast = guidance_gradient(precision.for_inference(network, compile=False), x, t, classes)
    exact = guidance_gradient(network.double(), x.double(), t, classes)
    assert fast.dtype == torch.float32
    assert cosine_similarity(fast.flatten(1), exact.flatten(1)).min() > 0.99
    assert all(parameter.grad is None for parameter in network.parameters())


def test_neighbours_in_a_batch_change_no_bit() -> None:
    network, (x, t, classes) = precision.for_inference(unet(), compile=False), inputs(8, 4)
    assert classes is not None
    with torch.no_grad():
        together = network(x, t, classes)
        others = network(torch.stack([x[0], -x[1], 2 * x[2]]), torch.stack([t[0], t[2], t[1]]), classes)
    assert together[0].equal(others[0])


def test_a_network_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setenv("GDUI_COMPILE", "1")
    network, (x, t, classes) = unet(), inputs(8, 4)

    def out_and_gradients(forward: Callable[..., Tensor]) -> list[Tensor]:
        with precision.autocast("cpu"):
            out = forward(x, t, classes).float()
        return [out.detach(), *torch.autograd.grad(out.square().mean(), list(network.parameters()))]

    whole = precision.compiled(network)
    assert whole is not network
    together = (torch.cat([value.flatten() for value in out_and_gradients(way)]) for way in (whole, network))
    assert off(*together) < ROUNDING
    with torch.no_grad():
        fast, plain = (precision.for_inference(network, compile=wanted)(x, t, classes) for wanted in (True, False))
    assert off(fast, plain) < ROUNDING


@pytest.mark.parametrize(("switch", "expected"), [("0", False), ("1", True), (None, False)])
def test_networks_are_compiled_where_it_pays(
    switch: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GDUI_COMPILE", raising=False)
    if switch is not None:
        monkeypatch.setenv("GDUI_COMPILE", switch)
    network = nn.Linear(2, 2)
    assert (precision.compiled(network) is not network) == expected
    assert precision.compiled(network, enabled=False) is network


def test_on_a_gpu_a_network_that_draws_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str | None] = []
    monkeypatch.delenv("GDUI_COMPILE", raising=False)
    monkeypatch.setattr(torch, "compile", lambda *_, **how: modes.append(how["mode"]))
    with torch.device("meta"):
        network = nn.Linear(2, 2)
    for replayed in (False, True):
        precision.compiled(network, replayed=replayed)
    assert modes == [None, "reduce-overhead"]


@pytest.mark.parametrize("precise", ["float32", "bfloat16"])
def test_a_recorded_call_overwrites_no_earlier_answer(precise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", precise)
    memory = torch.empty(2, 2, dtype=getattr(torch, precise))
    monkeypatch.setattr(precision, "compiled", lambda *_, **__: memory.copy_)
    recorded = precision.for_inference(nn.Linear(2, 2))
    first = recorded(torch.ones(2, 2))
    recorded(torch.zeros(2, 2))
    assert first.equal(torch.ones(2, 2))
