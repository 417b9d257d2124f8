"""Noising and the denoising loss, as a training step meets them: the noise drawn, the loss, and its gradient.

On a CPU ours makes the gradient along with the loss, so the way back has no row of its own there.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.diffusion import PEERS, ROUNDINGS, SCHEDULE, Eager, Inputs, assert_images_near, batches, noise_drawn
from benchmarks.harness import Bench, reseed
from benchmarks.ways import compiled, copy_of
from gdui import ops
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Denoising
from gdui.kernels.tables import TRAINING

DEVICES = ("cpu", "cuda")

# At the first step a likelihood divides by a deviation of about a hundredth: a rounding counts a hundredfold.
FIRST_STEP = 256
Loss = Callable[[Tensor], Tensor]


def run(bench: Bench) -> None:
    for data in batches(bench):
        for kind in ("simple", "hybrid"):
            said = data.output if kind == "hybrid" else data.output[:, : data.x0.shape[1]].contiguous()
            losses = losses_of(data, kind)
            for mode, way, moved in (("forward", value, said.numel()), ("training", trained, 2 * said.numel())):
                ways = {name: partial(way, loss, said) for name, loss in losses.items()}
                ways["copies"] = copy_of(2 * data.x0.numel() + moved, bench.device)
                compare(bench, f"{data.size}, {kind}, {mode}", ways, partial(agree, bench, data, said, kind))
            if bench.device != "cpu":
                ways = {name: backward(loss, said) for name, loss in losses.items()}
                ways["copies"] = copy_of(2 * said.numel(), bench.device)
                compare(bench, f"{data.size}, {kind}, backward", ways, partial(agree_backward, bench, data, said, kind))


def compare(bench: Bench, size: str, ways: dict[str, Callable[[], Any]], agree: Callable[[Any], None]) -> None:
    bench.compare(size, ways, agree=agree, peers=PEERS, limits=["copies"])


def losses_of(data: Inputs, kind: str) -> dict[str, Loss]:
    """Each way from what a network said to its loss, the images' noise drawn anew."""
    x0, t, seed, eager, table = data.x0, data.t, data.seed, Eager(), SCHEDULE.table(data.x0.device)

    def ours(said: Tensor) -> Tensor:
        ops.noise_images(x0, t, SCHEDULE, seed=seed)
        return ops.denoising_loss(said, x0, t, SCHEDULE, seed=seed, kind=kind)  # type: ignore[arg-type]

    def guided_diffusion(said: Tensor) -> Tensor:
        noise = torch.randn_like(x0)
        return eager.loss(kind, said, x0, eager.noisy(x0, t, noise), t, noise)

    def plain(said: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(x0)
        x = reference.noise_images(x0, t, table, noise)
        return reference.denoising_loss(Denoising(said, x0, t, table, noise, None, kind, "eps", "none")), x

    fast = compiled(plain, x0.device.type)
    return {"gdui": ours, "guided-diffusion": guided_diffusion, "compiled": lambda said: fast(said)[0]}


@torch.no_grad()
def value(loss: Loss, said: Tensor) -> Tensor:
    return loss(said)


def trained(loss: Loss, said: Tensor) -> tuple[Tensor, Tensor]:
    said = said.detach().requires_grad_()
    found = loss(said)
    return found.detach(), torch.autograd.grad(found.sum(), said)[0]


def backward(loss: Loss, said: Tensor) -> Callable[[], Tensor]:
    """The way back alone, as often as one likes; of noise that `truths` draws again."""
    said = said.detach().requires_grad_()
    reseed()
    total = loss(said).sum()
    return lambda: torch.autograd.grad(total, said, retain_graph=True)[0]


def exact(data: Inputs, said: Tensor, kind: str, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient by guided-diffusion's arithmetic in float64."""
    eager, x0, noise = Eager(), data.x0.double(), noise.double()
    return trained(lambda s: eager.loss(kind, s, x0, eager.noisy(x0, data.t, noise), data.t, noise), said.double())


def agree(bench: Bench, data: Inputs, said: Tensor, kind: str, results: Mapping[str, Any]) -> None:
    """Each way's losses and gradients are those of its noise, number for number."""
    for name, truth in truths(bench, data, said, kind).items():
        found = results[name] if isinstance(results[name], tuple) else (results[name],)
        for got, wanted in zip(found, truth, strict=False):
            assert_images_near(name, got, wanted, roundings(name, data, kind))


def agree_backward(bench: Bench, data: Inputs, said: Tensor, kind: str, results: Mapping[str, Any]) -> None:
    for name, (_, gradient) in truths(bench, data, said, kind).items():
        assert_images_near(name, results[name], gradient, roundings(name, data, kind))


def truths(bench: Bench, data: Inputs, said: Tensor, kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    drawn = noise_drawn(bench, data, TRAINING)
    return {name: exact(data, said, kind, drawn[name]) for name in ("gdui", "guided-diffusion", "compiled")}


def roundings(name: str, data: Inputs, kind: str) -> Tensor:
    """How many each image may be off by.

    At the bound's first step guided-diffusion subtracts two numbers near one: its loss is off by 0.3%, its gradient by
    100%.
    """
    first = ROUNDINGS if kind == "simple" else math.inf if name == "guided-diffusion" else FIRST_STEP
    return torch.where(data.t == 0, float(first), float(ROUNDINGS))
