"""One guided sampling step: every operand is read once, the noise drawn on the way, the result written once.

Dynamic thresholding holds an image of up to HELD numbers as a whole, and so stays one pass. A larger one doesn't fit
into a block of threads, and no number can be written before the quantile of all is known: that is a pass before.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import BLOCK, WARPS, all_flat, block_offsets, launch_on, read, strided
from gdui.kernels.philox import standard_normal
from gdui.kernels.quantile import ROUNDS, count_digits, limit_from, next_digit, quantile_limit, size_bits
from gdui.kernels.reference_diffusion import Step, halves
from gdui.kernels.tables import SAMPLING, WIDTH, Column

__all__ = ["guided_step"]

SIGNAL, NOISE = tl.constexpr(Column.SIGNAL.value), tl.constexpr(Column.NOISE.value)
INVERSE_SIGNAL, NOISE_RATIO = tl.constexpr(Column.INVERSE_SIGNAL.value), tl.constexpr(Column.NOISE_RATIO.value)
POSTERIOR_X0, POSTERIOR_XT = tl.constexpr(Column.POSTERIOR_X0.value), tl.constexpr(Column.POSTERIOR_XT.value)
SMALL, SMALL_LOG = tl.constexpr(Column.SMALL_VARIANCE.value), tl.constexpr(Column.SMALL_LOG_VARIANCE.value)
LARGE, LARGE_LOG = tl.constexpr(Column.LARGE_VARIANCE.value), tl.constexpr(Column.LARGE_LOG_VARIANCE.value)
LOG_BETA, DDIM_SIGMA = tl.constexpr(Column.LOG_BETA.value), tl.constexpr(Column.DDIM_SIGMA.value)
PREVIOUS_SIGNAL = tl.constexpr(Column.PREVIOUS_SIGNAL.value)
PREVIOUS_NOISE = tl.constexpr(Column.PREVIOUS_NOISE_VARIANCE.value)
TABLE_WIDTH, STREAM = tl.constexpr(WIDTH), tl.constexpr(SAMPLING)
HELD = {True: 8192, False: 4096}  # numbers that a block of threads can hold of a flat image, and of a strided one
SEARCHED = 4096  # numbers of a larger one that are looked at together
STRIDED = 2  # times as many warps for strided images, whose places take registers


@triton.jit
def entry(row, column, valid):
    """A number of the table; NaN for a step that is not in it."""
    return tl.load(row + column, valid, float("nan"))


@triton.jit
def clean_image(
    x, x_strides, predicted, predicted_strides, weak, weak_strides, guidance, row, valid, image, i, inside, positions,
    TARGET: tl.constexpr, MIXED: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """The image's elements i, and the x0 that a prediction of noise, image or velocity means."""
    here = read(x, x_strides, image, i, inside, positions, FLAT)
    seen = read(predicted, predicted_strides, image, i, inside, positions, FLAT)
    if MIXED:
        other = read(weak, weak_strides, image, i, inside, positions, FLAT)
        seen = other + guidance * (seen - other)
    if TARGET == "eps":
        seen = entry(row, INVERSE_SIGNAL, valid) * here - entry(row, NOISE_RATIO, valid) * seen
    elif TARGET == "v":
        seen = entry(row, SIGNAL, valid) * here - entry(row, NOISE, valid) * seen
    return here, seen


@triton.jit
def ancestral(x, x0, push, drawn, values, row, valid, VARIANCE: tl.constexpr):
    """The posterior's mean at x0, moved by the variance times the push; the noise by the standard deviation."""
    if VARIANCE == "learned_range":
        small = entry(row, SMALL_LOG, valid)
        deviation = tl.exp(0.5 * (small + 0.5 * (values + 1.0) * (entry(row, LOG_BETA, valid) - small)))
        variance = deviation * deviation
    else:
        deviation = tl.exp(0.5 * entry(row, SMALL_LOG if VARIANCE == "fixed_small" else LARGE_LOG, valid))
        variance = entry(row, SMALL if VARIANCE == "fixed_small" else LARGE, valid)
    mean = entry(row, POSTERIOR_X0, valid) * x0 + entry(row, POSTERIOR_XT, valid) * x
    return mean + variance * push + deviation * drawn


@triton.jit
def ddim(x, x0, push, drawn, eta, row, valid):
    """√ᾱ' x0 + √(1-ᾱ'-σ²) eps + σ noise, where eps is moved by -√(1-ᾱ) push, and x0 with it."""
    spread, ratio = entry(row, NOISE, valid), entry(row, NOISE_RATIO, valid)
    sigma = eta * entry(row, DDIM_SIGMA, valid)
    old = eta * entry(row, POSTERIOR_XT, valid) * spread  # the direction's square is 1-ᾱ'-σ², where nothing cancels
    direction = tl.sqrt((1.0 - eta * eta) * entry(row, PREVIOUS_NOISE, valid) + old * old)
    eps = (x - entry(row, SIGNAL, valid) * x0) / spread - spread * push
    return entry(row, PREVIOUS_SIGNAL, valid) * (x0 + ratio * spread * push) + direction * eps + sigma * drawn


@triton.jit
def limits_kernel(
    x, x_strides, predicted, predicted_strides, weak, weak_strides, t, table, steps, limits,
    rank, guidance, count, positions,
    TARGET: tl.constexpr, MIXED: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """limits[image] = the rank-th smallest |x0| of the image, at least one."""
    image = tl.program_id(0)
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    prefix = rank * 0
    for number in tl.static_range(ROUNDS):
        histogram = tl.zeros([256], tl.int32)
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            inside = i < count
            _, x0 = clean_image(x, x_strides, predicted, predicted_strides, weak, weak_strides, guidance, row, valid,
                                image, i, inside, positions, TARGET, MIXED, FLAT)  # fmt: skip
            histogram += count_digits(size_bits(x0), inside, prefix, number)
        prefix, rank = next_digit(histogram, prefix, rank)
    tl.store(limits + image, limit_from(prefix))


@triton.jit
def guided_step_kernel(
    x, x_strides, predicted, predicted_strides, weak, weak_strides, values, values_strides,
    gradient, gradient_strides, noise, noise_strides, out, out_strides, t, table, steps, limits,
    rank, scale, eta, guidance, count, positions,
    METHOD: tl.constexpr, VARIANCE: tl.constexpr, TARGET: tl.constexpr, NOISE_KIND: tl.constexpr,
    LIMIT: tl.constexpr, PUSHED: tl.constexpr, MIXED: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = the ancestral or DDIM step of x in float32, with predicted = weak + guidance (predicted - weak) if MIXED.

    The predicted x0 is held within one, or within the image's limit, given or found here, and divided by it. There is
    no noise at step 0.
    """
    blocks = tl.cdiv(count, BLOCK)
    image = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    i = start + tl.arange(0, BLOCK)
    inside = i < count
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    here, x0 = clean_image(x, x_strides, predicted, predicted_strides, weak, weak_strides, guidance, row, valid,
                           image, i, inside, positions, TARGET, MIXED, FLAT)  # fmt: skip
    if LIMIT == "one":
        x0 = tl.where(x0 > 1.0, 1.0, tl.where(x0 < -1.0, -1.0, x0))
    elif LIMIT != "none":
        bound = tl.load(limits + image) if LIMIT == "given" else quantile_limit(x0, inside, rank)
        x0 = tl.where(x0 > bound, bound, tl.where(x0 < -bound, -bound, x0)) / bound
    push = tl.zeros([BLOCK], tl.float32)
    if PUSHED:
        push = scale * read(gradient, gradient_strides, image, i, inside, positions, FLAT)
    drawn = tl.zeros([BLOCK], tl.float32)
    if NOISE_KIND == "drawn":
        drawn = standard_normal(tl.load(noise + image), STREAM, step, start, BLOCK)
    elif NOISE_KIND == "given":
        drawn = read(noise, noise_strides, image, i, inside, positions, FLAT)
    drawn = tl.where(step == 0, 0.0, drawn)
    if METHOD == "ddim":
        moved = ddim(here, x0, push, drawn, eta, row, valid)
    else:
        share = 0.0
        if VARIANCE == "learned_range":
            share = read(values, values_strides, image, i, inside, positions, FLAT)
        moved = ancestral(here, x0, push, drawn, share, row, valid, VARIANCE)
    where = block_offsets(image, i, positions, out_strides, FLAT)
    tl.store(out + where, moved.to(out.dtype.element_ty), inside)


def guided_step(step: Step, out: Tensor) -> None:
    """Fills `out` [B, C, P] with the images one step earlier; absent operands are never read."""
    x, (predicted, values) = step.x, halves(step.prediction, step.x.shape[1])
    weak = None if step.unconditional is None else halves(step.unconditional, x.shape[1])[0]
    noise, seed = (None, None) if step.method == "ddim" and step.eta == 0 else (step.noise, step.seed)
    kind = "given" if noise is not None else "drawn" if seed is not None else "none"
    seen = strided(x, predicted, x if weak is None else weak)
    rest = [x if operand is None else operand for operand in (values, step.gradient, seed if noise is None else noise)]
    flat = all_flat([x, predicted, values, step.gradient, noise, weak, out])
    sizes = (step.guidance, x[0].numel(), x.shape[2])
    flags = {"TARGET": step.target, "MIXED": weak is not None, "FLAT": flat}
    limit, limits, cut = limit_of(step, seen, sizes, flags)
    with launch_on(x):
        guided_step_kernel[(len(x) * triton.cdiv(sizes[1], cut["BLOCK"]),)](
            *seen, *strided(*rest, out), step.t, step.table, len(step.table), limits,
            step.rank(), step.scale, step.eta, *sizes,
            METHOD=step.method, VARIANCE=step.variance, NOISE_KIND=kind, LIMIT=limit,
            PUSHED=step.gradient is not None, **flags, **cut,
        )  # fmt: skip


def limit_of(
    step: Step, seen: list[Any], sizes: tuple[float, int, int], flags: dict[str, Any]
) -> tuple[str, Tensor, dict[str, int]]:
    """How x0 is bounded, each image's limit where it must be known before, and how the step is cut."""
    _, count, _ = sizes
    times = 1 if flags["FLAT"] else STRIDED
    if step.clip != "quantile":
        return step.clip, step.table, {"BLOCK": BLOCK, "num_warps": times * WARPS}
    if count <= HELD[flags["FLAT"]]:
        block = max(BLOCK, triton.next_power_of_2(count))
        return "found", step.table, {"BLOCK": block, "num_warps": block * WARPS // BLOCK}
    limits = torch.empty(len(step.x), dtype=torch.float32, device=step.x.device)
    with launch_on(step.x):
        limits_kernel[(len(step.x),)](
            *seen, step.t, step.table, len(step.table), limits, step.rank(), *sizes, **flags, BLOCK=SEARCHED,
            num_warps=times * 16,
        )  # fmt: skip
    return "given", limits, {"BLOCK": BLOCK, "num_warps": times * WARPS}
