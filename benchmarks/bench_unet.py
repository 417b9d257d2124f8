"""Steps of a whole network: training, sampling, guided sampling.

Everybody's network has the same widths, depth and attention. A step is all that happens between two batches: noising,
network, loss, gradients, AdamW and a running average, or network and the sampler's arithmetic. Beside them, how long
training waits for pictures by its own ledger, and how long the demo's network takes to compile where nothing is cached.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax, mse_loss

from benchmarks.diffusion import SCHEDULE, STEPS, Eager, Inputs
from benchmarks.harness import Bench
from benchmarks.limits import convolutions, operations
from benchmarks.unet_peers import Plain, diffusers_unet
from gdui import ops
from gdui.diffusion.averages import follow
from gdui.diffusion.classifier import Classifier, ClassifierConfig, guidance_gradient
from gdui.diffusion.curves import ledger
from gdui.diffusion.losses import denoiser_loss
from gdui.diffusion.pictures import Batch, Pictures, store_pixels
from gdui.diffusion.recipe import Recipe
from gdui.diffusion.train import train_network
from gdui.diffusion.unet import UNet, preset
from gdui.training.precision import autocast, for_inference

DEVICES = ("cpu",)

CLASSES, BATCH, DECAY, RATE = 10, 32, 0.9999, 1e-4
PEERS = ("guided-diffusion", "guided-diffusion, channels_last", "diffusers", "diffusers, channels_last, bf16")
FASTER = {
    "training step": {"guided-diffusion": 1.6, "diffusers": 1.3},
    "sampling step": {"guided-diffusion": 2.0, "diffusers": 1.5},
    "guided sampling step": {"guided-diffusion": 2.0},
}
LONGEST_WAIT = 0.02  # of a training step
BFLOAT16 = torch.bfloat16
Way = Callable[[], Tensor]
Network = TypeVar("Network", bound=nn.Module)


def unet() -> UNet:
    """9.9 million parameters for pictures of 32 x 32."""
    return filled(UNet(preset("small", resblock_resample=False, classes=CLASSES)))


def filled(network: Network) -> Network:
    """The network without its zeroed layers: a new one would predict nothing, whatever it computed."""
    for value in network.parameters():
        if value.ndim > 1 and not value.any():
            nn.init.normal_(value, std=0.02)
    return network


def channels_last(network: Network) -> Network:
    return network.to(memory_format=torch.channels_last)


def inputs(edge: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, time steps, classes, seeds."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, edge, edge, generator=drawn).clamp(-1, 1)
    t = torch.randint(1, STEPS, (BATCH,), generator=drawn)
    classes = torch.randint(0, CLASSES, (BATCH,), generator=drawn)
    return x.contiguous(memory_format=torch.channels_last), t, classes, torch.arange(BATCH)


def error(fast: Tensor, exact: Tensor) -> float:
    return float((fast - exact).norm() / exact.norm())


def beside_limits(
    bench: Bench, what: str, ways: dict[str, Way], count: float, agree: Callable[[Mapping[str, Tensor]], None]
) -> None:
    """Rows of `ways`, and of convolutions of as many operations as ours has: images a second of a core."""
    limits = {
        "bf16 convolutions": convolutions(count, BFLOAT16),
        "float32 convolutions": convolutions(count, torch.float32),
    }
    times = bench.compare(
        f"{BATCH} x 32 x 32, {what}",
        ways | limits,
        agree=agree,
        peers=PEERS,
        limits=limits,
        work=BATCH / bench.threads,
        unit="images/CPU s",
    )
    for peer, wanted in FASTER[what].items():
        found = min(times[name] for name in ways if name.startswith(peer)) / times["gdui"]
        assert bench.quick or found >= wanted, f"{what}: {found:.2f} times as fast as {peer}, not {wanted}"


def trained(network: nn.Module, loss: Callable[[], Tensor], *, clip: bool = False, fused: bool | None = None) -> Way:
    """A training step; returns the loss."""
    parameters = list(network.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=RATE, fused=fused)
    average = [value.detach().clone() for value in parameters]

    def way() -> Tensor:
        value = loss().mean()
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if fused:
            follow({DECAY: average}, [p.detach() for p in parameters], 1)
        else:
            for mean, parameter in zip(average, parameters, strict=True):
                mean.mul_(DECAY).add_(parameter.detach(), alpha=1 - DECAY)
        return value.detach()

    return way


def our_training(network: UNet, forward: Callable[..., Tensor]) -> Way:
    x0, t, classes, seed = inputs()
    each = denoiser_loss(SCHEDULE, Recipe(batch=BATCH), classes=CLASSES)

    def loss() -> Tensor:
        with autocast("cpu"):
            return each(forward, Batch(x0, classes, torch.ones(BATCH)), t, seed)

    return trained(network, loss, clip=True, fused=True)


def plain_training(network: UNet) -> Way:
    x0, t, classes, _ = inputs()
    arithmetic, forward = Eager(), Plain(network)

    def loss() -> Tensor:
        noise = torch.randn_like(x0)
        x = arithmetic.noisy(x0, t, noise)
        return arithmetic.hybrid(forward(x, t, classes), x0, x, t, noise)

    return trained(network, loss)


def diffusers_training(network: nn.Module, bfloat16: bool) -> Way:
    from diffusers import DDPMScheduler

    x0, t, classes, _ = inputs()
    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2")

    def loss() -> Tensor:
        noise = torch.randn_like(x0)
        x = scheduler.add_noise(x0, noise, t)
        with torch.autocast("cpu", BFLOAT16, enabled=bfloat16):
            out = network(x, t, classes)
        return mse_loss(out.float()[:, :3], noise)

    return trained(network, loss)


def check_gradients() -> None:
    """Our gradients in mixed precision point where guided-diffusion's point in float32."""
    x, t, classes, _ = inputs()
    found = []
    for fast in (True, False):
        torch.manual_seed(0)
        network = unet()
        with autocast("cpu", fast):
            out = (channels_last(network) if fast else Plain(network))(x, t, classes)
        out.float().square().mean().backward()
        found.append(torch.cat([value.grad.flatten() for value in network.parameters() if value.grad is not None]))
    ours, plain = found
    assert cosine_similarity(ours, plain, dim=0) > 0.99


def check_losses(results: Mapping[str, Tensor]) -> None:
    assert all(value.isfinite().all() for value in results.values()), results


def training(bench: Bench) -> None:
    check_gradients()
    ours = channels_last(unet())
    count = operations(our_training(ours, ours))
    beside_limits(
        bench,
        "training step",
        {
            "gdui": our_training(ours, ours),
            "guided-diffusion": plain_training(unet()),
            "guided-diffusion, channels_last": plain_training(channels_last(unet())),
            "diffusers": diffusers_training(diffusers_unet(ours.config), False),
            "diffusers, channels_last, bf16": diffusers_training(channels_last(diffusers_unet(ours.config)), True),
        },
        count,
        check_losses,
    )


def sampled(network: Callable[..., Tensor], arithmetic: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Way:
    """An ancestral step: one evaluation, and `arithmetic` on x, prediction and t; returns the prediction."""
    x, t, classes, _ = inputs()

    @torch.no_grad()
    def way() -> Tensor:
        prediction = network(x, t, classes).float()
        arithmetic(x, prediction, t)
        return prediction

    return way


def our_step(x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
    return ops.guided_step(x, prediction, t, SCHEDULE, seed=torch.arange(BATCH))


def plain_step(arithmetic: Eager, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
    return arithmetic.step(Inputs(x, x, prediction, torch.zeros_like(x), t, t), torch.randn_like(x))


def diffusers_sampled(network: nn.Module, bfloat16: bool) -> Way:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2", variance_type="learned_range")

    def forward(*given: Tensor) -> Tensor:
        with torch.autocast("cpu", BFLOAT16, enabled=bfloat16):
            return network(*given)  # type: ignore[no-any-return]

    return sampled(forward, lambda x, prediction, _: scheduler.step(prediction, STEPS // 2, x).prev_sample)


def check_outputs(results: Mapping[str, Tensor]) -> None:
    """bfloat16 within 3% of guided-diffusion's arithmetic in float32; diffusers has weights of its own."""
    assert error(results["gdui"], results["guided-diffusion"]) < 0.03


def sampling(bench: Bench) -> None:
    network = unet().eval()
    x, t, classes, _ = inputs()
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, classes), Plain(network)(x, t, classes), atol=1e-4, rtol=1e-4)
    plain = Plain(network)
    last = Plain(channels_last(unet()).eval())
    last.load_state_dict(plain.state_dict())
    ours = sampled(for_inference(network, compile=False), our_step)
    count = operations(ours)
    beside_limits(
        bench,
        "sampling step",
        {
            "gdui": ours,
            "guided-diffusion": sampled(plain, partial(plain_step, Eager())),
            "guided-diffusion, channels_last": sampled(last, partial(plain_step, Eager())),
            "diffusers": diffusers_sampled(diffusers_unet(network.config).eval(), False),
            "diffusers, channels_last, bf16": diffusers_sampled(
                channels_last(diffusers_unet(network.config).eval()), True
            ),
        },
        count,
        check_outputs,
    )


def our_guided(network: Callable[..., Tensor], classifier: Callable[..., Tensor]) -> Way:
    x, t, classes, seed = inputs()

    @torch.no_grad()
    def way() -> Tensor:
        prediction = network(x, t, classes)
        gradient = guidance_gradient(classifier, x, t, classes)
        ops.guided_step(x, prediction, t, SCHEDULE, gradient=gradient, scale=2.0, seed=seed)
        return gradient

    return way


def plain_guided(network: nn.Module, classifier: nn.Module) -> Way:
    x, t, classes, _ = inputs()
    arithmetic = Eager()

    @torch.no_grad()
    def way() -> Tensor:
        prediction = network(x, t, classes)
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            chosen = log_softmax(classifier(given, t), dim=-1)[range(BATCH), classes]
            gradient = torch.autograd.grad(chosen.sum(), given)[0]
        arithmetic.step(Inputs(x, x, prediction, 2.0 * gradient, t, t), torch.randn_like(x))
        return gradient

    return way


def guided(bench: Bench) -> None:
    network = unet().eval()
    fields = {"image_size": 32, "width": 64, "multipliers": (1, 2, 2, 2), "head_width": 32, "classes": CLASSES}
    classifier = filled(Classifier(ClassifierConfig(**fields)).eval())  # type: ignore[arg-type]
    fast = [for_inference(each, compile=False) for each in (network, classifier)]
    count = operations(our_guided(*fast))

    def agree(results: Mapping[str, Tensor]) -> None:
        ours, plain = (results[name].flatten(1) for name in ("gdui", "guided-diffusion"))
        assert cosine_similarity(ours, plain).min() > 0.98

    beside_limits(
        bench,
        "guided sampling step",
        {
            "gdui": our_guided(*fast),
            "guided-diffusion": plain_guided(Plain(network), Plain(classifier)),
        },
        count,
        agree,
    )


def pictures(bench: Bench) -> None:
    """Trains from a store on disk; the ledger says how much of a step went by without pictures."""
    steps, generator = 3 if bench.quick else 15, np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8)
    recipe = Recipe(steps=steps, batch=BATCH, forget=0.1, mirror=True, save_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        store = store_pixels(Path(folder) / "pictures.npy", len(pixels), pixels.shape[1:], [(np.arange(4096), pixels)])
        shown = Pictures(store, generator.integers(0, CLASSES, len(pixels)), tuple(map(str, range(CLASSES))))
        network = channels_last(UNet(unet().config, null_class=True))
        train_network(network, denoiser_loss(SCHEDULE, recipe, classes=CLASSES), shown, STEPS, recipe, folder)
        told = ledger(Path(folder) / "losses.csv")
    size, waited = f"{BATCH} x 32 x 32, training from a store", told["waited"] / told["seconds"]
    bench.record(size, "gdui, a step", "time", "s", [told["seconds"] / steps])
    bench.record(size, "gdui, waiting for its pictures", "time", "s", [told["waited"] / steps], "mark")
    assert bench.quick or waited < LONGEST_WAIT, f"training waits for pictures {100 * waited:.1f}% of its time"


FIRST_CALL = """
import time, torch
from gdui.demo.drawn import SETTINGS
from gdui.diffusion.plan import Plan
from gdui.diffusion.unet import UNet
from gdui.training.precision import compiled, for_inference

network = UNet(Plan.named("tiny", 10, changes=SETTINGS).network, null_class=True)
x, t, classes = torch.randn({images}, 1, 8, 8), torch.zeros({images}), torch.zeros({images}, dtype=torch.long)
start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""
CALLS = {
    "drawing": (64, "with torch.no_grad(): for_inference(network, mixed=False)(x, t, classes)", 60.0),
    "training": (128, "compiled(network)(x, t, classes).square().mean().backward()", 60.0),
}


def first_calls(bench: Bench) -> None:
    """The first call of the demo's network, compiled in a new process without any cache, as nobody need on a CPU."""
    for what, (images, call, longest) in CALLS.items():
        with tempfile.TemporaryDirectory() as cache:
            there = {"GDUI_COMPILE": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
            script = FIRST_CALL.format(images=images, call=call)
            told = subprocess.run(
                [sys.executable, "-P", "-c", script], env=os.environ | there, check=True, capture_output=True, text=True
            )
        seconds = float(told.stdout)
        bench.record(f"demo's network, first call compiled, {what}", "gdui", "time", "s", [seconds])
        assert bench.quick or seconds < longest, f"{what}: the first call took {seconds:.0f} s"


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    for part in (sampling, guided, training, pictures):
        part(bench)
    if bench.threads == 1:  # compilers take every core in any case
        first_calls(bench)
