"""One guided ancestral step: learned variance, a classifier's gradient, x0 bounded, noise drawn."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.diffusion import PEERS, SCHEDULE, STEPS, Eager, Inputs, assert_images_near, batches, noise_drawn
from benchmarks.harness import Bench
from benchmarks.ways import compiled, copy_of
from gdui import ops
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Step
from gdui.kernels.tables import SAMPLING

DEVICES = ("cpu", "cuda")

QUANTILE = 0.995


def run(bench: Bench) -> None:
    for data in batches(bench):
        fixed(bench, data)
        thresholded(bench, data)


def fixed(bench: Bench, data: Inputs) -> None:
    """x0 held within one, as guided-diffusion does; diffusers' step is without guidance, all images at one t."""
    ways = ways_of(bench, data, True) | {"guided-diffusion": lambda: Eager().step(data, torch.randn_like(data.x))}
    if peer := diffusers_step(data.x, data.output):
        ways["diffusers"] = peer
    bench.compare(data.size, ways, agree=partial(agree, bench, data), peers=PEERS, limits=["copies"])


def thresholded(bench: Bench, data: Inputs) -> None:
    """Dynamic thresholding: x0 held within a quantile of its own size, and divided by it."""
    table = SCHEDULE.table(data.x.device, torch.float64)

    def agree(results: Mapping[str, Any]) -> None:
        drawn = noise_drawn(bench, data, SAMPLING)
        for name in ("gdui", "compiled"):
            truth = reference.guided_step(step_of(exact(data), table, drawn[name].double(), "quantile"))
            assert_images_near(name, results[name], truth)

    size = f"{data.size}, dynamic threshold"
    bench.compare(size, ways_of(bench, data, QUANTILE), agree=agree, peers=PEERS, limits=["copies"])


def ways_of(bench: Bench, data: Inputs, clip: bool | float) -> dict[str, Callable[[], Any]]:
    """Ours, the plain formula compiled, and a copy of as many bytes as a step reads and writes."""
    x, output, gradient, t, how = data.x, data.output, data.gradient, data.t, "one" if clip is True else "quantile"

    def plain(data: Inputs, table: Tensor) -> Tensor:
        return reference.guided_step(step_of(data, table, torch.randn_like(data.x), how))

    return {
        "gdui": partial(ops.guided_step, x, output, t, SCHEDULE, gradient=gradient, seed=data.seed, clip=clip),
        "compiled": partial(compiled(plain, bench.device), data, SCHEDULE.table(x.device)),
        "copies": copy_of(3 * x.numel() + output.numel(), bench.device),
    }


def step_of(data: Inputs, table: Tensor, noise: Tensor, clip: str) -> Step:
    options = ("ancestral", 0.0, "learned_range", clip, QUANTILE, "eps", None, 1.0)
    return Step(data.x, data.output, data.t, table, data.gradient, 1.0, noise, None, *options)


def diffusers_step(x: Tensor, output: Tensor) -> Callable[[], Any] | None:
    try:
        from diffusers import DDPMScheduler
    except ImportError:
        return None
    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    return lambda: scheduler.step(output, STEPS // 2, x)


def agree(bench: Bench, data: Inputs, results: Mapping[str, Any]) -> None:
    """Each way's step is guided-diffusion's in float64 with the noise that it drew."""
    midway = data._replace(t=torch.full_like(data.t, STEPS // 2), gradient=torch.zeros_like(data.gradient))
    for name, noise in noise_drawn(bench, data, SAMPLING).items():
        if name in results:
            truth = Eager().step(exact(midway if name == "diffusers" else data), noise.double())
            assert_images_near(name, getattr(results[name], "prev_sample", results[name]), truth)


def exact(data: Inputs) -> Inputs:
    """The same in float64."""
    return Inputs(*(value.double() if value.is_floating_point() else value for value in data))
