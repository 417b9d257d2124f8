"""What every kernel means, in plain PyTorch: the specification, the fallback and the test oracle.

Arithmetic is in float32, or in float64 for float64 input; the table is a schedule's, its columns are `tables.Column`.
"""

import math

import torch
from torch import Tensor

from gdui.kernels.tables import TRAINING, Column

__all__ = ["noise_images", "philox", "standard_normal"]

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
