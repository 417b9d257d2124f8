"""What the benchmarks of the diffusion ops share: inputs, guided-diffusion's sequence of operations, and agreement.

Every way draws its own noise. The harness seeds PyTorch before it first calls a way, so that `noise_drawn` can say what
noise that was, and all can be compared number for number.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Bench, reseed
from benchmarks.ways import compiled_beside
from gdui.diffusion.schedule import Schedule
from gdui.kernels.reference_diffusion import standard_normal
from gdui.kernels.tables import SAMPLING, Column

STEPS = 1000
SCHEDULE = Schedule.from_name("cosine", STEPS)
CPU_SHAPES = [(64, 3, 32, 32), (64, 3, 64, 64), (64, 3, 128, 128)]
CUDA_SHAPES = [(64, 3, 32, 32), (256, 3, 64, 64), (256, 3, 256, 256)]
ROUNDINGS = 64  # of an image's largest number that a way may be off by
PEERS = ("guided-diffusion", "diffusers", "compiled")


class Inputs(NamedTuple):
    """One batch: clean and noisy images, what a network says of them, a classifier's gradient, steps and seeds."""

    x0: Tensor
    x: Tensor
    output: Tensor
    gradient: Tensor
    t: Tensor
    seed: Tensor

    @property
    def size(self) -> str:
        return " x ".join(map(str, self.x.shape))


class Eager:
    """guided-diffusion's arithmetic: coefficients in float64 on the host, moved and gathered at each use."""

    def __init__(self) -> None:
        columns = SCHEDULE.table("cpu", torch.float64).T.numpy()
        self.columns = {column: columns[column] for column in Column}

    def at(self, column: Column, t: Tensor, like: Tensor) -> Tensor:
        values = torch.from_numpy(self.columns[column]).to(t.device)[t].to(like.dtype)
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

    def moments(self, data: Inputs) -> tuple[Tensor, Tensor]:
        """Of the distribution that a guided ancestral step draws from: mean and deviation."""
        mean, variance, log_variance = self.predicted(data.x, data.output, data.t, True)
        return mean + variance * data.gradient, torch.exp(0.5 * log_variance)

    def step(self, data: Inputs, noise: Tensor) -> Tensor:
        mean, deviation = self.moments(data)
        return mean + (data.t != 0).to(noise.dtype).view(-1, 1, 1, 1) * deviation * noise

    def loss(self, kind: str, output: Tensor, x0: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.hybrid(output, x0, x, t, noise) if kind == "hybrid" else self.simple(output, noise)

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


def batches(bench: Bench) -> list[Inputs]:
    """A batch of each size that this run times, smallest first."""
    shapes = CPU_SHAPES if bench.device == "cpu" else CUDA_SHAPES
    return [inputs(shape, bench.device) for shape in shapes[: 2 if bench.quick else 3]]


def inputs(shape: tuple[int, ...], device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    batch, channels, *rest = shape
    images = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    output = torch.randn(batch, 2 * channels, *rest, generator=generator).to(device)
    t = torch.randint(STEPS, (batch,), generator=generator)
    t[:2] = torch.tensor([0, STEPS - 1])
    x0, x, gradient = images
    return Inputs(x0.clamp(-1, 1), x, output, gradient, t.to(device), torch.arange(batch, device=device))


def noise_drawn(bench: Bench, data: Inputs, stream: int) -> dict[str, Tensor]:
    """The noise that each way drew when it was first called: ours from its seeds, the others from PyTorch's."""
    steps = data.t if stream == SAMPLING else torch.zeros_like(data.t)
    drawn = {"gdui": standard_normal(data.seed, steps, stream, data.x.shape).float()}
    for name, draw in (("compiled", compiled_beside(torch.randn_like, bench.device)), ("eager", torch.randn_like)):
        reseed()
        drawn[name] = draw(data.x)
    return drawn | dict.fromkeys(("guided-diffusion", "diffusers"), drawn.pop("eager"))


def assert_images_near(name: str, found: Tensor, truth: Tensor, roundings: Tensor | float = ROUNDINGS) -> None:
    """Raises unless each image of `found` is `truth` (float64) but for some roundings of the image's largest number."""
    largest = truth.abs().reshape(len(truth), -1).amax(1)
    off = (found.double() - truth).abs().reshape(len(truth), -1).amax(1) / largest / torch.finfo(torch.float32).eps
    wrong = ~(off <= roundings)
    assert not wrong.any(), f"{name}: images {wrong.nonzero().flatten().tolist()} are off by {off[wrong].tolist()}"


def assert_standard(residuals: Mapping[str, Tensor]) -> None:
    """Raises unless what each way added to its mean, in deviations, has the moments of normal noise."""
    for name, residual in residuals.items():
        bound = 6 / math.sqrt(residual.numel())
        assert abs(residual.mean().item()) < bound, f"{name}: mean {residual.mean().item():.3g}"
        assert abs(residual.var().item() - 1) < 2 * bound, f"{name}: variance {residual.var().item():.3g}"
