"""Group normalisation, a gain and an offset for each channel, and SiLU, in one kernel for channels-last images."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import launch_on

__all__ = ["group_norm", "group_norm_backward"]

CHANNELS = 32  # channels of a tile, where a group has no more than that
TILE = 4096


@triton.jit
def _over_group(value, channel, GROUP_SIZE: tl.constexpr, ONE_GROUP: tl.constexpr):
    """For each channel of the tile, the sum of `value` over its group."""
    if ONE_GROUP:
        total = tl.zeros_like(value) + tl.sum(value, 0)
    else:
        group = channel // GROUP_SIZE
        total = tl.sum(tl.where(group[:, None] == group[None, :], value[None, :], 0.0), 1)
    return total


@triton.jit
def _group_norm_forward(
    x_ptr,  # [batch, pixels, channels]
    gain_ptr,  # [batch, channels]
    offset_ptr,  # [batch, channels]
    y_ptr,  # [batch, pixels, channels]
    mean_ptr,  # [batch, channels]: that of the channel's group
    rstd_ptr,  # [batch, channels]
    pixels,
    channels,
    eps,
    WIDTH: tl.constexpr,  # channels of a tile: whole groups
    GROUP_SIZE: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y = f(gain (x - mean) rstd + offset), f SiLU or nothing, for one tile's groups of one image; sums in float32.

    Sums are of distances to the first pixels' mean, so that neither a large mean nor one pixel far off cancels much.
    """
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * WIDTH + tl.arange(0, BLOCK_C)
    here = (tl.arange(0, BLOCK_C) < WIDTH) & (c < channels)
    start = image * pixels * channels
    p = tl.arange(0, BLOCK_P).to(tl.int64)
    mask = (p < pixels)[:, None] & here[None, :]
    x = tl.load(x_ptr + start + p[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    origin = tl.sum(x, 0) / tl.minimum(BLOCK_P, pixels)
    total = tl.zeros([BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, pixels, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P).to(tl.int64)
        mask = (p < pixels)[:, None] & here[None, :]
        x = tl.load(x_ptr + start + p[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        distance = tl.where(mask, x - origin[None, :], 0.0)
        total += tl.sum(distance, 0)
        square += tl.sum(distance * distance, 0)
    shift = total / pixels
    ONE_GROUP: tl.constexpr = WIDTH == GROUP_SIZE
    mean = _over_group(tl.where(here, origin + shift, 0.0), c, GROUP_SIZE, ONE_GROUP) / GROUP_SIZE
    away = origin + shift - mean
    spread = tl.where(here, tl.maximum(square / pixels - shift * shift, 0.0) + away * away, 0.0)
    rstd = tl.rsqrt(_over_group(spread, c, GROUP_SIZE, ONE_GROUP) / GROUP_SIZE + eps)
    at = image * channels + c
    tl.store(mean_ptr + at, mean, mask=here)
    tl.store(rstd_ptr + at, rstd, mask=here)
    factor = tl.load(gain_ptr + at, mask=here, other=0.0) * rstd
    offset = tl.load(offset_ptr + at, mask=here, other=0.0)
    for first in range(0, pixels, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P).to(tl.int64)
        mask = (p < pixels)[:, None] & here[None, :]
        where = start + p[:, None] * channels + c[None, :]
        x = tl.load(x_ptr + where, mask=mask, other=0.0).to(tl.float32)
        z = (x - mean[None, :]) * factor[None, :] + offset[None, :]
        if SILU:
            z = z * tl.sigmoid(z)
        tl.store(y_ptr + where, z, mask=mask)


@triton.jit
def _gradients(x_ptr, dy_ptr, where, mask, mean, rstd, gain, offset, SILU: tl.constexpr):
    """x normalised, and the gradient to what went into SiLU."""
    norm = (tl.load(x_ptr + where, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * rstd[None, :]
    dz = tl.load(dy_ptr + where, mask=mask, other=0.0).to(tl.float32)
    if SILU:
        z = norm * gain[None, :] + offset[None, :]
        s = tl.sigmoid(z)
        dz = dz * s * (1 + z * (1 - s))
    return norm, dz


@triton.jit
def _group_norm_backward(
    x_ptr,  # [batch, pixels, channels]
    dy_ptr,  # [batch, pixels, channels]
    gain_ptr,  # [batch, channels]
    offset_ptr,  # [batch, channels]
    mean_ptr,  # [batch, channels]
    rstd_ptr,  # [batch, channels]
    dx_ptr,  # [batch, pixels, channels]
    dgain_ptr,  # [batch, channels]
    doffset_ptr,  # [batch, channels]
    pixels,
    channels,
    WIDTH: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dx = rstd (gain dz - mean(gain dz) - norm mean(gain dz norm)), dgain = Σ dz norm, doffset = Σ dz, in float32."""
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * WIDTH + tl.arange(0, BLOCK_C)
    here = (tl.arange(0, BLOCK_C) < WIDTH) & (c < channels)
    at = image * channels + c
    gain = tl.load(gain_ptr + at, mask=here, other=0.0)
    offset = tl.load(offset_ptr + at, mask=here, other=0.0)
    mean = tl.load(mean_ptr + at, mask=here, other=0.0)
    rstd = tl.load(rstd_ptr + at, mask=here, other=0.0)
    start = image * pixels * channels
    dgain = tl.zeros([BLOCK_C], tl.float32)
    doffset = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, pixels, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P).to(tl.int64)
        mask = (p < pixels)[:, None] & here[None, :]
        where = start + p[:, None] * channels + c[None, :]
        norm, dz = _gradients(x_ptr, dy_ptr, where, mask, mean, rstd, gain, offset, SILU)
        dgain += tl.sum(dz * norm, 0)
        doffset += tl.sum(dz, 0)
    tl.store(dgain_ptr + at, dgain, mask=here)
    tl.store(doffset_ptr + at, doffset, mask=here)
    ONE_GROUP: tl.constexpr = WIDTH == GROUP_SIZE
    count = 1.0 * pixels * GROUP_SIZE
    pull = _over_group(gain * dgain, c, GROUP_SIZE, ONE_GROUP) / count
    level = _over_group(gain * doffset, c, GROUP_SIZE, ONE_GROUP) / count
    for first in range(0, pixels, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P).to(tl.int64)
        mask = (p < pixels)[:, None] & here[None, :]
        where = start + p[:, None] * channels + c[None, :]
        norm, dz = _gradients(x_ptr, dy_ptr, where, mask, mean, rstd, gain, offset, SILU)
        dx = rstd[None, :] * (gain[None, :] * dz - level[None, :] - norm * pull[None, :])
        tl.store(dx_ptr + where, dx, mask=mask)


def group_norm(
    x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, P, C] of x [B, P, C], and for the way back the mean and 1/deviation of each channel's group [B, C]."""
    y, mean, rstd = torch.empty_like(x), torch.empty_like(gain), torch.empty_like(gain)
    if x.numel():
        grid, blocks = tiles(x.shape, groups)
        with launch_on(x):
            _group_norm_forward[grid](x, gain, offset, y, mean, rstd, *x.shape[1:], eps, SILU=silu, **blocks)
    return y, mean, rstd


def group_norm_backward(
    dy: Tensor, x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, rstd: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients to x [B, P, C], gain and offset [B, C]."""
    dx, dgain, doffset = torch.empty_like(x), torch.empty_like(gain), torch.empty_like(gain)
    if x.numel():
        grid, blocks = tiles(x.shape, groups)
        with launch_on(x):
            _group_norm_backward[grid](
                x, dy, gain, offset, mean, rstd, dx, dgain, doffset, *x.shape[1:], SILU=silu, **blocks
            )
    return dx, dgain, doffset


def tiles(shape: torch.Size, groups: int) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid, and how it is cut: an image and some whole groups a program, some TILE elements at a time."""
    batch, pixels, channels = shape
    group_size = channels // groups
    width = group_size * max(1, CHANNELS // group_size)
    block_c = triton.next_power_of_2(width)
    block_p = min(max(1, TILE // block_c), triton.next_power_of_2(pixels))
    blocks = {"WIDTH": width, "GROUP_SIZE": group_size, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 8}
    return (batch, triton.cdiv(channels, width)), blocks
