"""The arithmetic around a diffusion network: noising, the loss with its gradient, and the guided step, noise drawn.

Peers: guided-diffusion's sequence of operations, written anew; diffusers' DDPM scheduler; the plain formulas, compiled.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Bench
from gdui import ops
from gdui.diffusion.schedule import Schedule
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.tables import Column

DEVICES = ("cpu", "cuda")

STEPS = 1000
CPU_SHAPES = [(64, 3, 32, 32), (64, 3, 64, 64), (64, 3, 128, 128)]
CUDA_SHAPES = [(64, 3, 32, 32), (256, 3, 64, 64), (256, 3, 256, 256)]
PEERS = ("guided-diffusion", "diffusers", "compiled")


class Eager:
    """guided-diffusion's arithmetic: coefficients in float64 on the host, moved and gathered at each use."""

    def __init__(self, schedule: Schedule) -> None:
        columns = schedule.table("cpu", torch.float64).T.numpy()
        self.columns = {column: columns[column] for column in Column}

    def at(self, column: Column, t: Tensor, like: Tensor) -> Tensor:
        values = torch.from_numpy(self.columns[column]).to(t.device)[t].float()
        return values.view(-1, 1, 1, 1).expand(like.shape)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.at(Column.SIGNAL, t, x0) * x0 + self.at(Column.NOISE, t, x0) * noise

    def posterior(self, x0: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.at(Column.POSTERIOR_X0, t, x) * x0 + self.at(Column.POSTERIOR_XT, t, x) * x
        return mean, self.at(Column.SMALL_VARIANCE, t, x), self.at(Column.SMALL_LOG_VARIANCE, t, x)

    def predicted(self, x: Tensor, output: Tensor, t: Tensor, clip: bool) -> tuple[Tensor, Tensor, Tensor]:
        eps, values = torch.split(output, x.shape[1], dim=1)
        low, high = self.at(Column.SMALL_LOG_VARIANCE, t, x), self.at(Column.LOG_BETA, t, x)
        share = (values + 1) / 2
        log_variance = share * high + (1 - share) * low
        x0 = self.at(Column.INVERSE_SIGNAL, t, x) * x - self.at(Column.NOISE_RATIO, t, x) * eps
        x0 = x0.clamp(-1, 1) if clip else x0
        return self.posterior(x0, x, t)[0], torch.exp(log_variance), log_variance

    def step(self, x: Tensor, output: Tensor, t: Tensor, gradient: Tensor) -> Tensor:
        mean, variance, log_variance = self.predicted(x, output, t, True)
        noise = torch.randn_like(x)
        mask = (t != 0).float().view(-1, 1, 1, 1)
        mean = mean.float() + variance * gradient.float()
        return mean + mask * torch.exp(0.5 * log_variance) * noise

    def simple(self, output: Tensor, noise: Tensor) -> Tensor:
        return ((noise - output) ** 2).mean(dim=(1, 2, 3))

    def hybrid(self, output: Tensor, x0: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        eps, values = torch.split(output, x.shape[1], dim=1)
        frozen = torch.cat([eps.detach(), values], dim=1)
        true_mean, _, true_log = self.posterior(x0, x, t)
        mean, _, log_variance = self.predicted(x, frozen, t, False)
        kl = 0.5 * (-1 + log_variance - true_log + torch.exp(true_log - log_variance))
        kl = kl + 0.5 * (true_mean - mean) ** 2 * torch.exp(-log_variance)
        bound = torch.where(t == 0, self.nll(x0, mean, 0.5 * log_variance), kl.mean(dim=(1, 2, 3)) / math.log(2))
        return self.simple(eps, noise) + bound

    def nll(self, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        def cdf(z: Tensor) -> Tensor:
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * torch.pow(z, 3))))

        centred, inverse = x - mean, torch.exp(-log_scale)
        above, below = cdf(inverse * (centred + 1 / 255)), cdf(inverse * (centred - 1 / 255))
        low, high = torch.log(above.clamp(min=1e-12)), torch.log((1 - below).clamp(min=1e-12))
        inner = torch.log((above - below).clamp(min=1e-12))
        return -torch.where(x < -0.999, low, torch.where(x > 0.999, high, inner)).mean(dim=(1, 2, 3)) / math.log(2)


def run(bench: Bench) -> None:
    """Rows of the step, of noising with the simple loss and with the hybrid one, by size; each draws its own noise."""
    schedule = Schedule.from_name("cosine", STEPS)
    shapes = CPU_SHAPES if bench.device == "cpu" else CUDA_SHAPES
    for shape in shapes[: 2 if bench.quick else 3]:
        data = inputs(shape, bench.device)
        step(bench, schedule, data)
        training(bench, schedule, data, "simple")
        training(bench, schedule, data, "hybrid")


def inputs(shape: tuple[int, ...], device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, channels, *rest = shape
    images = [torch.randn(shape, generator=generator).to(device) for _ in range(3)]
    output = torch.randn(batch, 2 * channels, *rest, generator=generator).to(device)
    t = torch.randint(1, STEPS, (batch,), generator=generator).to(device)
    seed = torch.arange(batch, device=device)
    return dict(zip(["x", "x0", "gradient"], images, strict=True)) | {"output": output, "t": t, "seed": seed}


def copy_of(values: int, device: str) -> Callable[[], Tensor]:
    """A copy that reads and writes as many float32 values as an operation must."""
    source, target = torch.zeros(2, values // 2, device=device)
    return partial(target.copy_, source)


def label(what: str, x: Tensor) -> str:
    return f"{what} {'x'.join(map(str, x.shape))}"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def step(bench: Bench, schedule: Schedule, data: dict[str, Tensor]) -> None:
    """The guided ancestral step: learned variance, a classifier's gradient, x0 clipped, noise drawn."""
    x, output, t, gradient, seed = (data[name] for name in ("x", "output", "t", "gradient", "seed"))
    table, eager, limit = schedule.table(x.device), Eager(schedule), torch.ones(len(x), device=x.device)

    def plain(x: Tensor, output: Tensor, t: Tensor, gradient: Tensor) -> Tensor:
        options = ("ancestral", 0.0, "learned_range", limit, "eps", None, 1.0)
        return reference.guided_step(x, output, t, table, gradient, 1.0, torch.randn_like(x), None, *options)

    fast = compiled(plain)
    ways: dict[str, Callable[[], Any]] = {
        "gdui": lambda: ops.guided_step(x, output, t, schedule, gradient=gradient, seed=seed),
        "guided-diffusion": lambda: eager.step(x, output, t, gradient),
        "compiled": lambda: fast(x, output, t, gradient),
        "limit": copy_of(5 * x.numel(), bench.device),
    }
    if scheduler := diffusers_step(x, output):
        ways["diffusers"] = scheduler

    def agree(results: Any) -> None:
        noise = reference.standard_normal(seed, t, 1, x.shape).float()
        exact = Eager(schedule)
        mean, variance, log_variance = exact.predicted(x, output, t, True)
        expected = mean + variance * gradient + torch.exp(0.5 * log_variance) * noise
        torch.testing.assert_close(results["gdui"], expected, rtol=1e-4, atol=1e-4)

    bench.compare(label("guided step", x), ways, agree=agree, peers=PEERS, limits=["limit"])


def diffusers_step(x: Tensor, output: Tensor) -> Callable[[], Any] | None:
    """One step of diffusers' DDPM scheduler with a learned variance, for all images at one t, without guidance."""
    try:
        from diffusers import DDPMScheduler
    except ImportError:
        return None
    scheduler = DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    return lambda: scheduler.step(output, STEPS // 2, x)


def training(bench: Bench, schedule: Schedule, data: dict[str, Tensor], kind: str) -> None:
    """Noising and the loss, forward and backward to the network's output; the network itself is left out."""
    x0, output, t, seed = (data[name] for name in ("x0", "output", "t", "seed"))
    output = output if kind == "hybrid" else output[:, : x0.shape[1]].contiguous()
    eager, table = Eager(schedule), schedule.table(x0.device)

    def ours(out: Tensor) -> Tensor:
        ops.noise_images(x0, t, schedule, seed=seed)
        return ops.denoising_loss(out, x0, t, schedule, seed=seed, kind=kind)  # type: ignore[arg-type]

    def guided_diffusion(out: Tensor, noise: Tensor | None = None) -> Tensor:
        noise = torch.randn_like(x0) if noise is None else noise
        x = eager.noisy(x0, t, noise)
        return eager.hybrid(out, x0, x, t, noise) if kind == "hybrid" else eager.simple(out, noise)

    def plain(out: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(x0)
        x = reference.noise_images(x0, t, table, noise, None)
        return reference.denoising_loss(out, x0, t, table, noise, None, kind, "eps", "none"), x

    def both_ways(loss: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
        out = output.detach().requires_grad_()
        value = loss(out)
        value = value[0] if isinstance(value, tuple) else value
        value.sum().backward()
        return value.detach(), out.grad  # type: ignore[return-value]

    fast = compiled(plain)

    def agree(results: Any) -> None:
        noise = reference.standard_normal(seed, torch.zeros_like(t), 0, x0.shape).float()
        expected = both_ways(partial(guided_diffusion, noise=noise))
        for got, wanted in zip(results["gdui"], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=2e-3, atol=1e-4 * wanted.abs().max().item())

    ways = {
        "gdui": partial(both_ways, ours),
        "guided-diffusion": partial(both_ways, guided_diffusion),
        "compiled": partial(both_ways, fast),
        "limit": copy_of(2 * x0.numel() + 3 * output.numel(), bench.device),
    }
    name = f"noising and {kind} loss, forward and backward"
    bench.compare(label(name, x0), ways, agree=agree, peers=PEERS, limits=["limit"])
