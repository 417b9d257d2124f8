"""The denoising loss: every image's sum in one pass, the prediction's gradient in another, nothing kept in between."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import BLOCK, WARPS, all_flat, block_offsets, blocks_of, given_of, launch_on, read, strided
from gdui.kernels.likelihood import surprise
from gdui.kernels.philox import standard_normal
from gdui.kernels.reference_diffusion import Denoising, halves
from gdui.kernels.tables import TRAINING, WIDTH, Column

__all__ = ["denoising_loss", "denoising_loss_backward"]

SIGNAL, NOISE = tl.constexpr(Column.SIGNAL.value), tl.constexpr(Column.NOISE.value)
NOISE_RATIO, POSTERIOR_X0 = tl.constexpr(Column.NOISE_RATIO.value), tl.constexpr(Column.POSTERIOR_X0.value)
SMALL, LOG_BETA = tl.constexpr(Column.SMALL_LOG_VARIANCE.value), tl.constexpr(Column.LOG_BETA.value)
SNR = tl.constexpr(Column.SNR.value)
TABLE_WIDTH, STREAM = tl.constexpr(WIDTH), tl.constexpr(TRAINING)


@triton.jit
def weight_of(snr, TARGET: tl.constexpr, WEIGHTING: tl.constexpr):
    """min-SNR-5 or P2 for the target."""
    of_x0 = tl.minimum(snr, 5.0) if WEIGHTING == "min_snr" else snr / (1.0 + snr)
    if WEIGHTING == "none":
        of_x0 = 1.0
    elif TARGET == "eps":
        of_x0 = of_x0 / snr
    elif TARGET == "v":
        of_x0 = of_x0 / (snr + 1.0)
    return of_x0


@triton.jit
def slope_of(row, valid, TARGET: tl.constexpr):
    """How far apart the true and the predicted posterior mean are for an error of one."""
    slope = tl.load(row + POSTERIOR_X0, valid, float("nan"))
    if TARGET == "eps":
        slope = slope * tl.load(row + NOISE_RATIO, valid, float("nan"))
    elif TARGET == "v":
        slope = slope * tl.load(row + NOISE, valid, float("nan"))
    else:
        slope = -slope
    return slope


@triton.jit
def excess(r):
    """e^r - 1 - r; near zero, where that cancels, its series."""
    series = r * r * (0.5 + r * (0.16666667 + r * (0.041666668 + r * 0.008333334)))
    return tl.where(tl.abs(r) < 0.1, series, tl.exp(r) - 1.0 - r)


@triton.jit
def errors(
    predicted, predicted_strides, x0, x0_strides, noise, noise_strides, row, valid, image, start, count, positions,
    TARGET: tl.constexpr, DRAWN: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """predicted - truth, zero outside the image, NaN for a step that is not in the table."""
    i = start + tl.arange(0, BLOCK)
    inside = i < count
    if TARGET == "x0":
        truth = read(x0, x0_strides, image, i, inside, positions, FLAT)
    else:
        if DRAWN:
            truth = standard_normal(tl.load(noise + image), STREAM, image * 0, start, BLOCK)
        else:
            truth = read(noise, noise_strides, image, i, inside, positions, FLAT)
        if TARGET == "v":
            clean = read(x0, x0_strides, image, i, inside, positions, FLAT)
            signal, spread = tl.load(row + SIGNAL, valid, float("nan")), tl.load(row + NOISE, valid, float("nan"))
            truth = signal * truth - spread * clean
    error = read(predicted, predicted_strides, image, i, inside, positions, FLAT) - truth
    return tl.where(inside, tl.where(valid, error, float("nan")), 0.0)


@triton.jit
def denoising_loss_kernel(
    predicted, predicted_strides, values, values_strides, x0, x0_strides, noise, noise_strides,
    t, table, steps, sums, bound_scale, count, positions,
    KIND: tl.constexpr, TARGET: tl.constexpr, WEIGHTING: tl.constexpr,
    DRAWN: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sums[image, block] = Σ (weight error² + bound_scale bound) / count, in float32; the bound is improved DDPM's.

    bound = ½(e^r - 1 - r + slope² error² / variance), r the log of true over predicted variance; at step 0 the
    surprise.
    """
    blocks = tl.cdiv(count, BLOCK)
    image = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    error = errors(predicted, predicted_strides, x0, x0_strides, noise, noise_strides, row, valid, image, start, count,
                   positions, TARGET, DRAWN, FLAT, BLOCK)  # fmt: skip
    total = tl.zeros([BLOCK], tl.float32)
    if KIND != "vlb":
        total += weight_of(tl.load(row + SNR, valid, float("nan")), TARGET, WEIGHTING) * error * error
    if KIND != "simple":
        i = start + tl.arange(0, BLOCK)
        inside = i < count
        small = tl.load(row + SMALL, valid, float("nan"))
        span = tl.load(row + LOG_BETA, valid, float("nan")) - small
        share = 0.5 * (read(values, values_strides, image, i, inside, positions, FLAT) + 1.0)
        away = slope_of(row, valid, TARGET) * error
        if step == 0:
            clean = read(x0, x0_strides, image, i, inside, positions, FLAT)
            bound, _, _ = surprise(clean, away, small + share * span)
        else:
            apart = away * away * tl.exp(-small - share * span)
            bound = 0.5 * (excess(-share * span) + apart)
        total += tl.where(inside, bound_scale * bound, 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0) / (1.0 * count))


@triton.jit
def denoising_loss_backward_kernel(
    predicted, predicted_strides, values, values_strides, x0, x0_strides, noise, noise_strides,
    t, table, steps, dloss, dloss_strides, dpredicted, dpredicted_strides, dvalues, dvalues_strides,
    bound_scale, count, positions,
    KIND: tl.constexpr, TARGET: tl.constexpr, WEIGHTING: tl.constexpr, LEARNED: tl.constexpr,
    DRAWN: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The derivative of what `denoising_loss_kernel` sums, times dloss; drawn noise is drawn again.

    LEARNED says that there are values of the variance, whose derivative is zero where the loss has no bound.
    """
    blocks = tl.cdiv(count, BLOCK)
    image = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    i = start + tl.arange(0, BLOCK)
    inside = i < count
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    above = tl.load(dloss + image * dloss_strides[0]).to(tl.float32) / (1.0 * count)
    error = errors(predicted, predicted_strides, x0, x0_strides, noise, noise_strides, row, valid, image, start, count,
                   positions, TARGET, DRAWN, FLAT, BLOCK)  # fmt: skip
    by_predicted = tl.zeros([BLOCK], tl.float32)
    by_values = tl.zeros([BLOCK], tl.float32)
    if KIND != "vlb":
        weight = weight_of(tl.load(row + SNR, valid, float("nan")), TARGET, WEIGHTING)
        by_predicted += 2.0 * above * weight * error
    if KIND != "simple":
        small = tl.load(row + SMALL, valid, float("nan"))
        span = tl.load(row + LOG_BETA, valid, float("nan")) - small
        share = 0.5 * (read(values, values_strides, image, i, inside, positions, FLAT) + 1.0)
        slope = slope_of(row, valid, TARGET)
        if step == 0:
            clean = read(x0, x0_strides, image, i, inside, positions, FLAT)
            _, by_away, by_log_variance = surprise(clean, slope * error, small + share * span)
        else:
            by_away = slope * error * tl.exp(-small - share * span)
            by_log_variance = 0.5 * (share * span - excess(-share * span) - by_away * slope * error)
        if KIND == "vlb":
            by_predicted += above * bound_scale * slope * by_away
        by_values = above * bound_scale * 0.5 * span * by_log_variance
    if LEARNED:
        where = block_offsets(image, i, positions, dvalues_strides, FLAT)
        tl.store(dvalues + where, by_values.to(dvalues.dtype.element_ty), inside)
    where = block_offsets(image, i, positions, dpredicted_strides, FLAT)
    tl.store(dpredicted + where, by_predicted.to(dpredicted.dtype.element_ty), inside)


def denoising_loss(given: Denoising) -> Tensor:
    """Each image's loss [B]; images are [B, C, P]."""
    sums = torch.empty(len(given.x0), blocks_of(given.x0), dtype=torch.float32, device=given.x0.device)
    inputs, sizes, flags = launch_of(given)
    with launch_on(given.x0):
        denoising_loss_kernel[(sums.numel(),)](*inputs, sums, *sizes, **flags)
    return sums.sum(1)


def denoising_loss_backward(dloss: Tensor, given: Denoising, out: Tensor) -> None:
    """Fills the gradient [B, C or 2C, P] by the prediction."""
    inputs, sizes, flags = launch_of(given, out)
    dpredicted, dvalues = halves(out, given.x0.shape[1])
    outputs = strided(dloss, dpredicted, dpredicted if dvalues is None else dvalues)
    with launch_on(given.x0):
        denoising_loss_backward_kernel[(len(out) * blocks_of(given.x0),)](
            *inputs, *outputs, *sizes, LEARNED=dvalues is not None, **flags
        )


def launch_of(given: Denoising, *others: Tensor) -> tuple[list[Any], tuple[float, int, int], dict[str, Any]]:
    """What both kernels are handed: the tensors they read, numbers, and compile-time flags; `others` they write."""
    predicted, values = halves(given.prediction, given.x0.shape[1])
    images = strided(predicted, predicted if values is None else values, given.x0, given_of(given.noise, given.seed))
    flat = all_flat([predicted, values, given.x0, given.noise, *others])
    flags = {"KIND": given.kind, "TARGET": given.target, "WEIGHTING": given.weighting, "DRAWN": given.noise is None}
    sizes = bound_scale(given.kind, given.table), given.x0[0].numel(), given.x0.shape[2]
    steps = [given.t, given.table, len(given.table)]
    return [*images, *steps], sizes, flags | {"FLAT": flat, "BLOCK": BLOCK, "num_warps": WARPS}


def bound_scale(kind: str, table: Tensor) -> float:
    """The factor of the bound in nats: to bits, and down to the mean square's size where asked for."""
    return (len(table) / 1000 if kind == "rescaled_hybrid" else 1.0) / math.log(2)
