"""q_sample with the noise drawn inside the kernel: one read, one write, no noise in memory."""

import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import BLOCK, WARPS, all_flat, block_offsets, blocks_of, given_of, launch_on, read, strided
from gdui.kernels.philox import standard_normal
from gdui.kernels.tables import TRAINING, WIDTH, Column

__all__ = ["noise_images"]

SIGNAL, NOISE = tl.constexpr(Column.SIGNAL.value), tl.constexpr(Column.NOISE.value)
TABLE_WIDTH, STREAM = tl.constexpr(WIDTH), tl.constexpr(TRAINING)


@triton.jit
def noise_images_kernel(
    x0, x0_strides, noise, noise_strides, out, out_strides, t, table, steps, count, positions,
    DRAWN: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = √ᾱ x0 + √(1-ᾱ) noise in float32; `noise` holds the noise [B, C, P], or with DRAWN the seeds [B]."""
    blocks = tl.cdiv(count, BLOCK)
    image = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    i = start + tl.arange(0, BLOCK)
    inside = i < count
    step = tl.load(t + image)
    valid = (step >= 0) & (step < steps)
    row = table + step * TABLE_WIDTH
    signal = tl.load(row + SIGNAL, valid, float("nan"))
    spread = tl.load(row + NOISE, valid, float("nan"))
    if DRAWN:
        drawn = standard_normal(tl.load(noise + image), STREAM, step * 0, start, BLOCK)
    else:
        drawn = read(noise, noise_strides, image, i, inside, positions, FLAT)
    noisy = signal * read(x0, x0_strides, image, i, inside, positions, FLAT) + spread * drawn
    where = block_offsets(image, i, positions, out_strides, FLAT)
    tl.store(out + where, noisy.to(out.dtype.element_ty), inside)


def noise_images(x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, out: Tensor) -> None:
    """Fills `out` [B, C, P] with the noisy images of `x0` [B, C, P] at `t` [B]."""
    _, channels, positions = x0.shape
    with launch_on(x0):
        noise_images_kernel[(len(x0) * blocks_of(x0),)](
            *strided(x0, given_of(noise, seed), out), t, table, len(table), channels * positions, positions,
            DRAWN=noise is None, FLAT=all_flat([x0, noise, out]), BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
