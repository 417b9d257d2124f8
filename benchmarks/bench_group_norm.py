"""GroupNorm, scale and shift, SiLU, forward and backward, as a UNet meets them: channels_last, in two types."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Bench
from benchmarks.ways import compiled, copy_of
from gdui import ops

DEVICES = ("cpu", "cuda")

SIZES = [(32, 128, 32), (32, 256, 16), (32, 256, 8), (8, 128, 64)]
QUICK = [(8, 128, 16)]
GROUPS = 32


def parts(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    out = F.group_norm(x, GROUPS, weight, bias)
    return F.silu(out * (1 + scale[:, :, None, None]) + shift[:, :, None, None])


def fused(x: Tensor, *values: Tensor) -> Tensor:
    return ops.group_norm_silu(x, GROUPS, *values)


def trained(function: Callable[..., Tensor], *values: Tensor, upstream: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    def way() -> tuple[Tensor, ...]:
        out = function(*values)
        return out.detach(), *torch.autograd.grad(out, values, upstream.to(out.dtype))

    return way


def sampled(function: Callable[..., Tensor], *values: Tensor) -> Callable[[], Tensor]:
    @torch.no_grad()
    def way() -> Tensor:
        return function(*values)

    return way


def agree(exact: Callable[[], Any], results: Mapping[str, Any]) -> None:
    """Ours is no further from the result in float64 than twice what eager PyTorch is, give or take eight roundings.

    The compiled sums over pixels run in one long chain: they lose more.
    """
    plain, truth = several(results["eager"]), several(exact())
    for name, roundings in (("compiled", 128), ("gdui", 8)):
        for found, usual, wanted in zip(several(results[name]), plain, truth, strict=True):
            off, allowed = (float((value.double() - wanted).abs().max()) for value in (found, usual))
            rounding = torch.finfo(found.dtype).eps * float(wanted.abs().max())
            assert off <= 2 * allowed + roundings * rounding, (
                f"{name}: off by {off:.3g}, eager PyTorch by {allowed:.3g}"
            )


def several(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    for batch, channels, side in QUICK if bench.quick else SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            shapes = [(batch, channels, side, side), (channels,), (channels,), (batch, channels), (batch, channels)]
            drawn = [torch.randn(shape, device=bench.device).to(dtype) for shape in shapes]
            drawn[0] = drawn[0].contiguous(memory_format=torch.channels_last)
            upstream = torch.randn_like(drawn[0])
            values = [value.requires_grad_() for value in drawn]
            size = f"{batch} x {channels} x {side} x {side} {str(dtype).removeprefix('torch.')}"
            for mode, moved in (("sampling", 2), ("training", 5)):  # images read and written
                ways = {"eager": parts, "compiled": compiled(parts, bench.device), "gdui": fused}
                prepare = sampled if mode == "sampling" else partial(trained, upstream=upstream)
                timed = {name: prepare(way, *values) for name, way in ways.items()}
                exact = prepare(parts, *(value.detach().double().requires_grad_() for value in values))
                bench.compare(
                    f"{size}, {mode}",
                    timed | {"copies": copy_of(moved * drawn[0].numel(), bench.device, dtype)},
                    agree=partial(agree, exact),
                    peers=("eager", "compiled"),
                    limits=("copies",),
                    work=float(moved * drawn[0].nbytes),
                    unit="B/s",
                )
