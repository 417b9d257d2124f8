"""InfoNCE against a queue, forward and backward: MoCo's way writes every logit; ours never does."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Bench
from benchmarks.ways import compiled
from gdui import ops

DEVICES = ("cpu", "cuda")

SIZES = [(256, 65536, 128), (256, 16384, 128), (64, 65536, 128)]
QUICK = [(64, 8192, 128)]
MOCO = 256 * 65536
TEMPERATURE = 0.2
BLOCK = 1024  # rows of the queue


def cross_entropy(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device), reduction="none")


def trained(loss: Callable[..., Tensor], q: Tensor, k: Tensor, queue: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    def way() -> tuple[Tensor, Tensor]:
        value = loss(q, k, queue)
        return value.detach(), torch.autograd.grad(value.mean(), q)[0]

    return way


def products(q: Tensor, queue: Tensor) -> Callable[[], Tensor]:
    """What no way can leave out, by itself: the logits' product and their softmax's, on blocks that stay in a cache."""
    logits, mean = torch.rand(len(q), BLOCK, device=q.device), torch.zeros_like(q)

    def way() -> Tensor:
        for x in torch.split(queue, BLOCK):
            torch.mm(q, x.T, out=logits)
            mean.addmm_(logits, x)
        return mean

    return way


def agree(results: Mapping[str, Any]) -> None:
    loss, gradient = results["eager"]
    for name in ("compiled", "gdui"):
        torch.testing.assert_close(results[name][0], loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(results[name][1], gradient, rtol=1e-4, atol=1e-6)


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    for rows, entries, width in QUICK if bench.quick else SIZES:
        drawn = (torch.randn(n, width, device=bench.device) for n in (rows, rows, entries))
        q, k, queue = (F.normalize(value, dim=1) for value in drawn)
        bench.compare(
            f"{rows} x {entries} x {width}",
            {
                "eager": trained(cross_entropy, q.requires_grad_(), k, queue),
                "compiled": trained(compiled(cross_entropy, bench.device), q, k, queue),
                "gdui": trained(partial(ops.info_nce, temperature=TEMPERATURE), q, k, queue),
                "two products": products(q.detach(), queue),
            },
            agree=agree,
            # A tenth of MoCo's logits; blocks are of one size, so of fewer logits they are a larger share.
            most_memory={"gdui": 0.1 * 4 * rows * entries} if rows * entries >= MOCO else {},
            peers=("eager", "compiled"),
            limits=("two products",),
            work=4.0 * rows * entries * width,
            unit="FLOP/s",
        )
