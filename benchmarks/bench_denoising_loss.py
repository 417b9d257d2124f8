"""Noising and the denoising loss, as a training step meets them: the noise drawn, the loss, and its gradient.

On a CPU ours makes the gradient along with the loss, so the way back has no row of its own there.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.diffusion import PEERS, SCHEDULE, Eager, Inputs, batches
from benchmarks.harness import Bench
from benchmarks.ways import compiled, copy_of
from gdui import ops
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Denoising
from gdui.kernels.tables import TRAINING

DEVICES = ("cpu", "cuda")

Loss = Callable[[Tensor], Tensor]


def run(bench: Bench) -> None:
    for data in batches(bench):
        for kind in ("simple", "hybrid"):
            said = data.output if kind == "hybrid" else data.output[:, : data.x0.shape[1]].contiguous()
            losses = losses_of(data, kind)
            for mode, way, moved in (("forward", value, said.numel()), ("training", trained, 2 * said.numel())):
                ways = {name: partial(way, loss, said) for name, loss in losses.items()}
                ways["copies"] = copy_of(2 * data.x0.numel() + moved, bench.device)
                compare(bench, f"{data.size}, {kind}, {mode}", ways, partial(agree, data, said, kind))
            if bench.device != "cpu":
                ways = {name: backward(loss, said) for name, loss in losses.items()}
                ways["copies"] = copy_of(2 * said.numel(), bench.device)
                compare(bench, f"{data.size}, {kind}, backward", ways, partial(agree_backward, data, said, kind))


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
    """The way back alone, as often as one likes."""
    said = said.detach().requires_grad_()
    total = loss(said).sum()
    return lambda: torch.autograd.grad(total, said, retain_graph=True)[0]


def exact(data: Inputs, said: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Loss and gradient by guided-diffusion's arithmetic with the noise of our seeds."""
    noise = reference.standard_normal(data.seed, torch.zeros_like(data.t), TRAINING, data.x0.shape).float()
    eager = Eager()
    return trained(lambda s: eager.loss(kind, s, data.x0, eager.noisy(data.x0, data.t, noise), data.t, noise), said)


def agree(data: Inputs, said: Tensor, kind: str, results: Mapping[str, Any]) -> None:
    """Ours has guided-diffusion's numbers; the peers, with other noise, nearly the same loss."""
    expected = exact(data, said, kind)
    ours = results["gdui"]
    for got, wanted in zip(ours if isinstance(ours, tuple) else (ours,), expected, strict=False):
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=1e-4 * wanted.abs().max().item())
    for name in ("guided-diffusion", "compiled"):
        found = results[name][0] if isinstance(results[name], tuple) else results[name]
        torch.testing.assert_close(found, expected[0], rtol=0.2, atol=0)


def agree_backward(data: Inputs, said: Tensor, kind: str, results: Mapping[str, Any]) -> None:
    wanted = exact(data, said, kind)[1]
    torch.testing.assert_close(results["gdui"], wanted, rtol=2e-3, atol=1e-4 * wanted.abs().max().item())
