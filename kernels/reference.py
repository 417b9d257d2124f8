"""What every kernel means, in plain PyTorch: the specification, the fallback and the test oracle.

Arithmetic is in float32, or in float64 for float64 input; the table is a schedule's, its columns are `tables.Column`.
"""

import math

import torch
from torch import Tensor

from gdui.kernels.tables import TRAINING, Column

__all__ = [
    "double_softmax_loss",
    "double_softmax_loss_backward",
    "exact",
    "exact_type",
    "group_norm",
    "group_norm_backward",
    "info_nce",
    "noise_images",
    "philox",
    "standard_normal",
]

MASK = 0xFFFFFFFF


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
    exact = x0.to(table.dtype)
    drawn = training_noise(exact, noise, seed)
    return (at(table, t, Column.SIGNAL, x0) * exact + at(table, t, Column.NOISE, x0) * drawn).to(x0.dtype)


def training_noise(like: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor:
    """The noise as given, or drawn from the seeds."""
    if noise is None:
        noise = standard_normal(seed, torch.zeros_like(seed), TRAINING, like.shape)
    return noise.to(like.dtype)


def at(table: Tensor, t: Tensor, column: Column, like: Tensor) -> Tensor:
    """A column's entry for each image, shaped to meet images."""
    return table[t, int(column)].view(-1, *(1,) * (like.ndim - 1))


def exact_type(value: Tensor) -> torch.dtype:
    """The type to calculate in: float64 for float64, float32 for all others."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def exact(value: Tensor) -> Tensor:
    return value.to(exact_type(value))


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's -log softmax([q·k, q·queue] / T) at k [B], and what its gradients are made of.

    Those are Σ share (x - k) over the rows x of the queue [B, d], and Σ share [B], where share is the softmax.
    """
    q, k, queue = exact(q), exact(k), exact(queue)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
    share = torch.softmax(logits, 1)[:, 1:]
    rest = share.sum(1)
    return torch.logsumexp(logits, 1) - logits[:, 0], share @ queue - rest[:, None] * k, rest


def double_softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(softmax(logits)) at each row's target [R], 0 where that is -1."""
    scores = torch.log_softmax(torch.softmax(exact(logits), 1), 1)
    return torch.where(targets >= 0, -scores.gather(1, targets.clamp(min=0)[:, None])[:, 0], 0)


def double_softmax_loss_backward(logits: Tensor, targets: Tensor, dlosses: Tensor) -> Tensor:
    """dloss p (g - Σ p g) with p = softmax(logits) and g = softmax(p) - onehot(target), 0 where the target is -1."""
    p = torch.softmax(exact(logits), 1)
    g = torch.softmax(p, 1)
    g[torch.arange(len(g), device=g.device), targets.clamp(min=0)] -= 1
    chosen = torch.where(targets >= 0, dlosses, 0)[:, None]
    return (chosen * p * (g - (p * g).sum(1, keepdim=True))).to(logits.dtype)


def group_norm(
    x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """f(gain (x - mean) rstd + offset) for x [B, P, C], f SiLU or nothing; each channel's mean and rstd [B, C]."""
    grouped = x.double().unflatten(2, (groups, -1))
    centre = grouped.mean((1, 3), keepdim=True)
    variance = (grouped - centre).square().mean((1, 3), keepdim=True)
    each = (len(x), 1, groups, x.shape[2] // groups)
    mean, rstd = (value.expand(each).flatten(1).to(gain.dtype) for value in (centre, torch.rsqrt(variance + eps)))
    z = (exact(x) - mean[:, None]) * rstd[:, None] * gain[:, None] + offset[:, None]
    return (z * torch.sigmoid(z) if silu else z).to(x.dtype), mean, rstd


def group_norm_backward(
    dy: Tensor, x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, rstd: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """rstd (gain dz - mean(gain dz) - norm mean(gain dz norm)) with means over a group, Σ dz norm, and Σ dz."""
    norm, dz = (exact(x) - mean[:, None]) * rstd[:, None], exact(dy)
    if silu:
        z = norm * gain[:, None] + offset[:, None]
        s = torch.sigmoid(z)
        dz = dz * s * (1 + z * (1 - s))

    def group_mean(value: Tensor) -> Tensor:
        grouped = value.unflatten(2, (groups, -1))
        return grouped.mean((1, 3), keepdim=True).expand(grouped.shape).flatten(2)

    scaled = gain[:, None] * dz
    dx = rstd[:, None] * (scaled - group_mean(scaled) - norm * group_mean(scaled * norm))
    return dx.to(x.dtype), (dz * norm).sum(1), dz.sum(1)
