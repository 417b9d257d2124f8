"""Noising images (q_sample), the noise drawn on the way: each peer draws its own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.diffusion import (
    PEERS,
    SCHEDULE,
    STEPS,
    Eager,
    Inputs,
    assert_images_near,
    assert_standard,
    batches,
    noise_drawn,
)
from benchmarks.harness import Bench
from benchmarks.ways import compiled, copy_of
from gdui import ops
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.tables import TRAINING

DEVICES = ("cpu", "cuda")


def run(bench: Bench) -> None:
    for data in batches(bench):
        x0, t, eager = data.x0, data.t, Eager()
        ways: dict[str, Callable[[], Any]] = {
            "gdui": partial(ops.noise_images, x0, t, SCHEDULE, seed=data.seed),
            "guided-diffusion": lambda: eager.noisy(x0, t, torch.randn_like(x0)),  # noqa: B023
            "compiled": partial(compiled(plain, bench.device), x0, t, SCHEDULE.table(x0.device)),
            "one copy": copy_of(2 * x0.numel(), bench.device),
        }
        if peer := diffusers_noising(x0, t):
            ways["diffusers"] = peer
        bench.compare(data.size, ways, agree=partial(agree, bench, data), peers=PEERS, limits=["one copy"])
        noise_alone(bench, data)


def noise_alone(bench: Bench, data: Inputs) -> None:
    """The generator beside PyTorch's: the noise on images that are black, with all of the signal gone."""
    black, last = torch.zeros_like(data.x0), torch.full_like(data.t, STEPS - 1)
    ways = {
        "gdui": partial(ops.noise_images, black, last, SCHEDULE, seed=data.seed),
        "torch.randn": partial(torch.randn_like, black),
    }
    bench.compare(f"{data.size}, noise alone", ways, agree=assert_standard, peers=["torch.randn"])


def plain(x0: Tensor, t: Tensor, table: Tensor) -> Tensor:
    return reference.noise_images(x0, t, table, torch.randn_like(x0))


def diffusers_noising(x0: Tensor, t: Tensor) -> Callable[[], Tensor] | None:
    """What diffusers' training scripts do."""
    try:
        from diffusers import DDPMScheduler
    except ImportError:
        return None
    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2")
    return lambda: scheduler.add_noise(x0, torch.randn_like(x0), t)  # type: ignore[no-any-return]


def agree(bench: Bench, data: Inputs, results: Mapping[str, Any]) -> None:
    """Each way's images are guided-diffusion's in float64 with the noise that it drew."""
    for name, noise in noise_drawn(bench, data, TRAINING).items():
        if name in results:
            assert_images_near(name, results[name], Eager().noisy(data.x0.double(), data.t, noise.double()))
