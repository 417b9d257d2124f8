"""One guided sampling step: every operand is read once, the noise drawn on the way, the result written once."""

import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import BLOCK, WARPS, all_flat, block_offsets, launch_on, read, strided
from gdui.kernels.philox import standard_normal
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


@triton.jit
def entry(row, column, valid):
    """A number of the table; NaN for a step that is not in it."""
    return tl.load(row + column, valid, float("nan"))


@triton.jit
def clean_image(x, predicted, row, valid, TARGET: tl.constexpr):
    """The x0 that a prediction of noise, image or velocity means."""
    if TARGET == "eps":
        x0 = entry(row, INVERSE_SIGNAL, valid) * x - entry(row, NOISE_RATIO, valid) * predicted
    elif TARGET == "v":
        x0 = entry(row, SIGNAL, valid) * x - entry(row, NOISE, valid) * predicted
    else:
        x0 = predicted
    return x0


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
    direction = tl.sqrt(tl.maximum(entry(row, PREVIOUS_NOISE, valid) - sigma * sigma, 0.0))
    eps = (x - entry(row, SIGNAL, valid) * x0) / spread - spread * push
    return entry(row, PREVIOUS_SIGNAL, valid) * (x0 + ratio * spread * push) + direction * eps + sigma * drawn


@triton.jit
def guided_step_kernel(
    x, x_strides, predicted, predicted_strides, values, values_strides, gradient, gradient_strides,
    noise, noise_strides, weak, weak_strides, out, out_strides, t, table, steps, limit,
    scale, eta, guidance, count, positions,
    METHOD: tl.constexpr, VARIANCE: tl.constexpr, TARGET: tl.constexpr, NOISE_KIND: tl.constexpr,
    PUSHED: tl.constexpr, MIXED: tl.constexpr, LIMITED: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = the ancestral or DDIM step of x in float32, with predicted = weak + guidance (predicted - weak) if MIXED.

    The predicted x0 is held within the image's `limit` and divided by it; no noise at step 0.
    """
    blocks = tl.cdiv(count, BLOCK)
    image = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    i = start + tl.arange(0, BLOCK)
    inside = i < count
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    here = read(x, x_strides, image, i, inside, positions, FLAT)
    seen = read(predicted, predicted_strides, image, i, inside, positions, FLAT)
    if MIXED:
        other = read(weak, weak_strides, image, i, inside, positions, FLAT)
        seen = other + guidance * (seen - other)
    x0 = clean_image(here, seen, row, valid, TARGET)
    if LIMITED:
        bound = tl.load(limit + image)
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


def guided_step(
    x: Tensor,
    predicted: Tensor,
    values: Tensor | None,
    t: Tensor,
    table: Tensor,
    gradient: Tensor | None,
    scale: float,
    noise: Tensor | None,
    seed: Tensor | None,
    method: str,
    eta: float,
    variance: str,
    limit: Tensor | None,
    target: str,
    weak: Tensor | None,
    guidance: float,
    out: Tensor,
) -> None:
    """Fills `out` [B, C, P] with the images one step earlier; absent operands are never read."""
    images, count = len(x), x.shape[1] * x.shape[2]
    if method == "ddim" and eta == 0:
        noise, seed = None, None
    kind = "given" if noise is not None else "drawn" if seed is not None else "none"
    operands = [x if operand is None else operand for operand in (values, gradient, seed if noise is None else noise)]
    with launch_on(x):
        guided_step_kernel[(images * triton.cdiv(count, BLOCK),)](
            *strided(x, predicted, *operands, x if weak is None else weak, out),
            t, table, len(table), table if limit is None else limit, scale, eta, guidance, count, x.shape[2],
            METHOD=method, VARIANCE=variance, TARGET=target, NOISE_KIND=kind,
            PUSHED=gradient is not None, MIXED=weak is not None, LIMITED=limit is not None,
            FLAT=all_flat([x, predicted, values, gradient, noise, weak, out]), BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
