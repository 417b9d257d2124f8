"""What the diffusion kernels mean, in plain PyTorch: the specification, the fallback and the test oracle.

Arithmetic is in the type of the table, a schedule's, whose columns are `tables.Column`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gdui.kernels.tables import SAMPLING, TRAINING, Column

__all__ = [
    "Denoising",
    "Step",
    "at",
    "denoising_loss",
    "denoising_loss_backward",
    "guided_step",
    "halves",
    "noise_images",
    "philox",
    "standard_normal",
]

MASK = 0xFFFFFFFF


class Denoising(NamedTuple):
    """What a denoising loss is made of, in the order of the op's arguments."""

    prediction: Tensor
    x0: Tensor
    t: Tensor
    table: Tensor
    noise: Tensor | None
    seed: Tensor | None
    kind: str
    target: str
    weighting: str


class Step(NamedTuple):
    """What a sampling step is made of, in the order of the op's arguments."""

    x: Tensor
    prediction: Tensor
    t: Tensor
    table: Tensor
    gradient: Tensor | None
    scale: float
    noise: Tensor | None
    seed: Tensor | None
    method: str
    eta: float
    variance: str
    clip: str  # "none", "one", or "quantile" of the image's own size
    quantile: float
    target: str
    unconditional: Tensor | None
    guidance: float

    def rank(self) -> int:
        """Which of an image's numbers, by size, is the quantile; the smallest is the first."""
        return max(1, math.ceil(self.quantile * math.prod(self.x.shape[1:])))


def halves(prediction: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """What is predicted of images of so many channels and, if there are twice as many, the values of its variance."""
    if prediction.shape[1] == channels:
        return prediction, None
    return prediction[:, :channels], prediction[:, channels:]


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor], rounds: int = 10) -> tuple[Tensor, ...]:
    """Philox4x32: four words of 32 random bits for each counter of four words, all held in int64."""
    a, b, c, d = counter
    low, high = key
    for _ in range(rounds):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32 & MASK) ^ b ^ low, right & MASK, (left >> 32 & MASK) ^ d ^ high, left & MASK
        low, high = (low + 0x9E3779B9) & MASK, (high + 0xBB67AE85) & MASK
    return a, b, c, d


def standard_normal(seed: Tensor, step: Tensor, stream: int, shape: torch.Size) -> Tensor:
    """Normal noise [B, ...] in float64 that depends on each image's seed [B], its step [B] and the element alone.

    Elements 4g to 4g + 3 of an image, in the order of a contiguous tensor, come from the counter (g, step, stream, 0)
    by Box-Muller; the uniform numbers are rounded to float32 as the kernels have them.
    """
    count = math.prod(shape[1:])
    group = torch.arange((count + 3) // 4, device=seed.device).expand(len(seed), -1)
    zero = torch.zeros_like(group)
    key = ((seed & MASK)[:, None], (seed >> 32 & MASK)[:, None])
    bits = philox((group, zero + step[:, None], zero + stream, zero), key)
    normals = []
    for first, second in (bits[:2], bits[2:]):
        uniform = first.float() * 2.0**-32 + 2.0**-33
        radius = torch.sqrt(-2 * torch.log(uniform.double()))
        angle = second.double() * (2 * math.pi / 2**32)
        normals += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(normals, -1).flatten(1)[:, :count].reshape(shape)


def noise_images(
    x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None = None, seed: Tensor | None = None
) -> Tensor:
    """√ᾱ x0 + √(1-ᾱ) noise, with ᾱ at each image's t; the noise is given, or drawn from each image's seed."""
    clean = x0.to(table.dtype)
    drawn = training_noise(clean, noise, seed)
    return (at(table, t, Column.SIGNAL, x0) * clean + at(table, t, Column.NOISE, x0) * drawn).to(x0.dtype)


def denoising_loss(given: Denoising) -> Tensor:
    """Each image's loss [B]: the mean square of the error, the variational bound in bits for each number, or their sum.

    The formulas are those of improved DDPM (Nichol & Dhariwal 2021); min-SNR and P2 weigh the mean square alone.
    """
    prediction, x0, t, table, noise, seed, kind, target, weighting = given
    clean = x0.to(table.dtype)
    noise = training_noise(clean, noise, seed)
    channels = x0.shape[1]
    predicted = prediction[:, :channels].to(table.dtype)
    x_t = at(table, t, Column.SIGNAL, x0) * clean + at(table, t, Column.NOISE, x0) * noise
    truth = truth_of(clean, noise, t, table, target)
    error = mean_of_images((predicted - truth) ** 2) * loss_weight(table[t, int(Column.SNR)], target, weighting)
    if kind == "simple":
        return error
    log_variance = learned_log_variance(prediction[:, channels:].to(table.dtype), t, table)
    seen = predicted if kind == "vlb" else predicted.detach()
    bound = variational_bound(predicted_x0(seen, x_t, t, table, target), log_variance, clean, x_t, t, table)
    if kind == "vlb":
        return bound
    return error + bound * (len(table) / 1000 if kind == "rescaled_hybrid" else 1.0)


def denoising_loss_backward(dloss: Tensor, given: Denoising) -> Tensor:
    """The gradient of `denoising_loss` by the prediction.

    With error = prediction - truth, the two posterior means are slope error apart, whatever the target.
    """
    prediction, x0, t, table, noise, seed, kind, target, weighting = given
    channels, clean = x0.shape[1], x0.to(table.dtype)
    error = prediction[:, :channels].to(table.dtype) - truth_of(
        clean, training_noise(clean, noise, seed), t, table, target
    )
    above = (dloss.to(table.dtype) / max(1, math.prod(x0.shape[1:]))).view(-1, *(1,) * (x0.ndim - 1))
    weight = loss_weight(table[t, int(Column.SNR)], target, weighting).view(above.shape)
    by_predicted = 2 * above * weight * error
    if kind == "simple":
        rest = torch.zeros_like(prediction[:, channels:], dtype=table.dtype)
        return torch.cat([by_predicted, rest], 1).to(prediction.dtype)
    log_variance = learned_log_variance(prediction[:, channels:].to(table.dtype), t, table)
    slope = at(table, t, Column.POSTERIOR_X0, x0) * {
        "eps": at(table, t, Column.NOISE_RATIO, x0), "x0": -1.0, "v": at(table, t, Column.NOISE, x0)
    }[target]  # fmt: skip
    apart = slope * error * torch.exp(-log_variance)
    ratio = torch.exp(at(table, t, Column.SMALL_LOG_VARIANCE, x0) - log_variance)
    by_away, by_log_variance = surprise_slopes(clean, slope * error, log_variance)
    first = (t == 0).view(above.shape)
    bound = above / math.log(2) * (len(table) / 1000 if kind == "rescaled_hybrid" else 1.0)
    range_ = at(table, t, Column.LOG_BETA, x0) - at(table, t, Column.SMALL_LOG_VARIANCE, x0)
    by_values = bound * range_ / 2 * torch.where(first, by_log_variance, 0.5 * (1 - ratio - apart * slope * error))
    if kind == "vlb":
        by_predicted = bound * slope * torch.where(first, by_away, apart)
    return torch.cat([by_predicted, by_values], 1).to(prediction.dtype)


def surprise_slopes(x: Tensor, away: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of -`discretised_log_likelihood` by x - mean and by the log variance."""
    mirrored = torch.where((x < -0.999) | ((x <= 0.999) & (away < 0)), 1.0, -1.0)
    inverse = torch.exp(-0.5 * log_variance)
    upper_z, lower_z = inverse * (mirrored * away + 1 / 255), inverse * (mirrored * away - 1 / 255)
    inside = (x.abs() <= 0.999).to(x.dtype)
    upper, lower = normal_cdf(upper_z), inside * normal_cdf(lower_z)
    upper_density, lower_density = normal_density(upper_z), inside * normal_density(lower_z)
    mass = upper - lower
    share = torch.where(mass < 1e-12, 0.0, 1 / mass.clamp(min=1e-12))
    by_away = -mirrored * inverse * (upper_density - lower_density) * share
    return by_away, 0.5 * (upper_z * upper_density - lower_z * lower_density) * share


def guided_step(step: Step) -> Tensor:
    """x one step earlier: a draw from p(x' | x) moved by the gradient (Dhariwal & Nichol 2021), or DDIM's step."""
    x, t, table, noise = step.x, step.t, step.table, step.noise
    x_t, channels = x.to(table.dtype), x.shape[1]
    x0 = bounded(step, clean_image(step))
    push = step.scale * step.gradient.to(table.dtype) if step.gradient is not None else torch.zeros_like(x_t)
    if noise is None and step.seed is not None:
        noise = standard_normal(step.seed, t, SAMPLING, x.shape)
    drawn = noise.to(table.dtype) if noise is not None else torch.zeros_like(x_t)
    drawn = torch.where((t == 0).view(-1, *(1,) * (x.ndim - 1)), 0.0, drawn)
    if step.method == "ancestral":
        values = step.prediction[:, channels:].to(table.dtype)
        log_variance, variances = step_variance(values, x, t, table, step.variance)
        mean = posterior_mean(x0, x_t, t, table) + variances * push
        return (mean + torch.exp(0.5 * log_variance) * drawn).to(x.dtype)
    spread = at(table, t, Column.NOISE, x)
    eps = (x_t - at(table, t, Column.SIGNAL, x) * x0) / spread - spread * push
    x0 = x0 + at(table, t, Column.NOISE_RATIO, x) * spread * push
    sigma = step.eta * at(table, t, Column.DDIM_SIGMA, x)
    # The direction's square is 1-ᾱ'-σ²; that difference would be lost in rounding where a stride is wide and η one.
    old = step.eta * at(table, t, Column.POSTERIOR_XT, x) * spread
    direction = torch.sqrt((1 - step.eta**2) * at(table, t, Column.PREVIOUS_NOISE_VARIANCE, x) + old**2)
    return (at(table, t, Column.PREVIOUS_SIGNAL, x) * x0 + direction * eps + sigma * drawn).to(x.dtype)


def clean_image(step: Step) -> Tensor:
    """The x0 that the step's prediction means; of two predictions, their mixture."""
    x, dtype = step.x, step.table.dtype
    predicted = mixed(step.prediction[:, : x.shape[1]], step.unconditional, step.guidance, dtype)
    return predicted_x0(predicted, x.to(dtype), step.t, step.table, step.target)


def bounded(step: Step, x0: Tensor) -> Tensor:
    """x0 held within one, or within a quantile of its size and divided by it (dynamic thresholding, Saharia 2022)."""
    if step.clip == "none" or not x0.numel():
        return x0
    if step.clip == "one":
        return x0.clamp(-1, 1)
    limit = torch.kthvalue(x0.abs().flatten(1), step.rank(), dim=1).values.clamp(min=1.0)
    limit = limit.view(-1, *(1,) * (x0.ndim - 1))
    return torch.maximum(torch.minimum(x0, limit), -limit) / limit


def mixed(prediction: Tensor, unconditional: Tensor | None, guidance: float, dtype: torch.dtype) -> Tensor:
    """The prediction moved away from another, weaker one: classifier-free guidance and autoguidance."""
    if unconditional is None:
        return prediction.to(dtype)
    weak = unconditional[:, : prediction.shape[1]].to(dtype)
    return weak + guidance * (prediction.to(dtype) - weak)


def predicted_x0(predicted: Tensor, x_t: Tensor, t: Tensor, table: Tensor, target: str) -> Tensor:
    """The clean image that a prediction of noise, image or velocity means."""
    if target == "eps":
        return at(table, t, Column.INVERSE_SIGNAL, x_t) * x_t - at(table, t, Column.NOISE_RATIO, x_t) * predicted
    if target == "v":
        return at(table, t, Column.SIGNAL, x_t) * x_t - at(table, t, Column.NOISE, x_t) * predicted
    return predicted


def posterior_mean(x0: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """The mean of q(x' | x_t, x0)."""
    return at(table, t, Column.POSTERIOR_X0, x_t) * x0 + at(table, t, Column.POSTERIOR_XT, x_t) * x_t


def learned_log_variance(values: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """From values in [-1, 1]: between the posterior's log variance and log β."""
    share = (values + 1) / 2
    return share * at(table, t, Column.LOG_BETA, values) + (1 - share) * at(table, t, Column.SMALL_LOG_VARIANCE, values)


def step_variance(values: Tensor, x: Tensor, t: Tensor, table: Tensor, variance: str) -> tuple[Tensor, Tensor]:
    """The log variance of a step and the variance itself, which the smaller fixed one has as zero at the first step."""
    if variance == "learned_range":
        learned = learned_log_variance(values, t, table)
        return learned, torch.exp(learned)
    if variance == "fixed_small":
        return at(table, t, Column.SMALL_LOG_VARIANCE, x), at(table, t, Column.SMALL_VARIANCE, x)
    return at(table, t, Column.LARGE_LOG_VARIANCE, x), at(table, t, Column.LARGE_VARIANCE, x)


def variational_bound(x0: Tensor, log_variance: Tensor, truth: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """KL(q(x' | x_t, truth) || p(x' | x_t)) in bits for each number; at the first step -log2 p(truth | x_t)."""
    true_log_variance = at(table, t, Column.SMALL_LOG_VARIANCE, truth)
    mean = posterior_mean(x0, x_t, t, table)
    apart = (posterior_mean(truth, x_t, t, table) - mean) ** 2 * torch.exp(-log_variance)
    ratio = true_log_variance - log_variance
    divergence = 0.5 * (-1 - ratio + torch.exp(ratio) + apart)
    surprise = -discretised_log_likelihood(truth, mean, log_variance)
    first = (t == 0).view(-1, *(1,) * (truth.ndim - 1))
    return mean_of_images(torch.where(first, surprise, divergence)) / math.log(2)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """ln of a Gaussian's mass within 1/255 of x, out to infinity beyond the outermost of the 256 levels.

    The left tail is taken for whichever side x is on, so that no two numbers near one are subtracted.
    """
    away = x - mean
    inner = -away.abs()
    side = torch.where(x < -0.999, away, torch.where(x > 0.999, -away, inner))
    inverse = torch.exp(-0.5 * log_variance)
    upper = normal_cdf(inverse * (side + 1 / 255))
    lower = torch.where(x.abs() > 0.999, 0.0, normal_cdf(inverse * (side - 1 / 255)))
    return torch.log((upper - lower).clamp(min=1e-12))


def normal_cdf(z: Tensor) -> Tensor:
    """The usual approximation (1 + tanh √(2/π)(z + 0.044715 z³)) / 2, precise near zero as well."""
    return torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


def normal_density(z: Tensor) -> Tensor:
    """The derivative of `normal_cdf`."""
    below = normal_cdf(z)
    return below * (1 - below) * 2 * math.sqrt(2 / math.pi) * (1 + 0.134145 * z**2)


def loss_weight(snr: Tensor, target: str, weighting: str) -> Tensor:
    """Of an image's squared error: min-SNR-5 (Hang et al. 2023) or P2 (Choi et al. 2022), as the target needs it."""
    if weighting == "none":
        return torch.ones_like(snr)
    of_x0 = snr.clamp(max=5.0) if weighting == "min_snr" else snr / (1 + snr)
    return of_x0 / {"eps": snr, "x0": 1.0, "v": snr + 1}[target]


def mean_of_images(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def truth_of(x0: Tensor, noise: Tensor, t: Tensor, table: Tensor, target: str) -> Tensor:
    """What a network should have predicted."""
    if target == "v":
        return at(table, t, Column.SIGNAL, x0) * noise - at(table, t, Column.NOISE, x0) * x0
    return noise if target == "eps" else x0


def training_noise(like: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor:
    """The noise as given, or drawn from the seeds."""
    if noise is None:
        noise = standard_normal(seed, torch.zeros_like(seed), TRAINING, like.shape)
    return noise.to(like.dtype)


def at(table: Tensor, t: Tensor, column: Column, like: Tensor) -> Tensor:
    """A column's entry for each image, shaped to meet images."""
    return table[t, int(column)].view(-1, *(1,) * (like.ndim - 1))
