"""The clustering heads' loss, forward and backward: SPICE's loop over the heads, and all heads at once."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Bench
from benchmarks.ways import compiled, copy_of
from gdui import ops

DEVICES = ("cpu", "cuda")

SIZES = [(10, 1000, 10), (10, 5000, 10), (10, 5000, 100), (10, 2000, 1000)]
QUICK = SIZES[:2]


def head_by_head(logits: Tensor, targets: Tensor) -> Tensor:
    pairs = zip(logits, targets, strict=True)
    return torch.stack([F.cross_entropy(F.softmax(z, 1), t, ignore_index=-1) for z, t in pairs])


def all_heads(logits: Tensor, targets: Tensor) -> Tensor:
    scores = F.softmax(logits, 2).flatten(0, 1)
    losses = F.cross_entropy(scores, targets.flatten(), ignore_index=-1, reduction="none").view(targets.shape)
    return losses.sum(1) / (targets >= 0).sum(1)


def trained(loss: Callable[..., Tensor], logits: Tensor, targets: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    def way() -> tuple[Tensor, Tensor]:
        value = loss(logits, targets)
        return value.detach(), torch.autograd.grad(value.sum(), logits)[0]

    return way


def agree(results: Mapping[str, Any]) -> None:
    for name in ("all heads, compiled", "gdui"):
        for one, other in zip(results[name], results["head by head"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    for heads, samples, clusters in QUICK if bench.quick else SIZES:
        logits = torch.randn(heads, samples, clusters, device=bench.device, requires_grad=True)
        targets = torch.randint(-1, clusters, (heads, samples), device=bench.device)
        bench.compare(
            f"{heads} x {samples} x {clusters}",
            {
                "head by head": trained(head_by_head, logits, targets),
                "all heads, compiled": trained(compiled(all_heads, bench.device), logits, targets),
                "gdui": trained(ops.cluster_loss, logits, targets),
                "one copy": copy_of(2 * logits.numel(), bench.device),
            },
            agree=agree,
            peers=("head by head", "all heads, compiled"),
            limits=("one copy",),
            work=float(heads * samples),
            unit="rows/s",
        )
