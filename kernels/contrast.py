"""InfoNCE against a queue: an online softmax over tiles of the queue, so the logits never exist as a whole."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import launch_on

__all__ = ["info_nce"]

SPLITS = 32  # parts of the queue that run beside each other; each leaves one partial result per row


@triton.jit
def _info_nce_partial(
    q_ptr,  # [rows, width]
    queue_ptr,  # [entries, width]
    log_sum_ptr,  # [splits, rows]
    centre_ptr,  # [splits, rows, width]
    rows,
    entries,
    width,
    inverse_temperature,
    span,  # entries of a split, a multiple of BLOCK_Q
    BLOCK_B: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,  # the type of what is multiplied
):
    """log Σ exp(q·x/T) and the softmax-weighted mean of x, over the x of one split of the queue; in float32."""
    split = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    column = tl.arange(0, BLOCK_D)
    here = (row < rows)[:, None] & (column < width)[None, :]
    q = tl.load(q_ptr + row[:, None] * width + column[None, :], mask=here, other=0.0).to(OPERAND)
    top = tl.full([BLOCK_B], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    centre = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    last = tl.minimum((split + 1) * span, entries)
    for start in range(split * span, last, BLOCK_Q):
        entry = start + tl.arange(0, BLOCK_Q)
        inside = (entry < last)[:, None] & (column < width)[None, :]
        x = tl.load(queue_ptr + entry[:, None] * width + column[None, :], mask=inside, other=0.0).to(OPERAND)
        logits = tl.dot(q, tl.trans(x), input_precision=PRECISION) * inverse_temperature
        logits = tl.where((entry < last)[None, :], logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        share = tl.exp(logits - new_top[:, None])
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(share, 1)
        centre = centre * shrink[:, None] + tl.dot(share.to(OPERAND), x, input_precision=PRECISION)
        top = new_top
    at = split * rows + row
    tl.store(log_sum_ptr + at, top + tl.log(total), mask=row < rows)
    tl.store(centre_ptr + at[:, None] * width + column[None, :], centre / total[:, None], mask=here)


@triton.jit
def _info_nce_combine(
    q_ptr,  # [rows, width]
    k_ptr,  # [rows, width]
    log_sum_ptr,  # [splits, rows]
    centre_ptr,  # [splits, rows, width]
    loss_ptr,  # [rows]
    pull_ptr,  # [rows, width]
    rest_ptr,  # [rows]
    rows,
    width,
    splits,
    inverse_temperature,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One row's loss, the negatives' share of its softmax, and Σ share (x - k) over the queue, in one fixed order."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    split = tl.arange(0, BLOCK_S).to(tl.int64)
    q = tl.load(q_ptr + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    positive = tl.sum(q * k, 0) * inverse_temperature
    log_sums = tl.load(log_sum_ptr + split * rows + row, mask=split < splits, other=float("-inf"))
    top = tl.maximum(tl.max(log_sums, 0), positive)
    shares = tl.exp(log_sums - top)
    negative = tl.sum(shares, 0)
    total = negative + tl.exp(positive - top)
    inside = (split < splits)[:, None] & (column < width)[None, :]
    at = (split * rows + row)[:, None] * width + column[None, :]
    centres = tl.load(centre_ptr + at, mask=inside, other=0.0)
    pull = (tl.sum(shares[:, None] * centres, 0) - negative * k) / total
    tl.store(loss_ptr + row, top + tl.log(total) - positive)
    tl.store(rest_ptr + row, negative / total)
    tl.store(pull_ptr + row * width + column, pull, mask=column < width)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's loss [B], the gradient to q times the temperature [B, d], and the share of the negatives [B]."""
    (rows, width), entries = q.shape, len(queue)
    loss, rest = (torch.empty(rows, dtype=torch.float32, device=q.device) for _ in range(2))
    pull = torch.empty(rows, width, dtype=torch.float32, device=q.device)
    if rows == 0:
        return loss, pull, rest
    block_d = max(16, triton.next_power_of_2(width))
    tile = tile_of(block_d, q.dtype)
    span = triton.cdiv(triton.cdiv(entries, SPLITS), tile["BLOCK_Q"]) * tile["BLOCK_Q"]
    splits = triton.cdiv(entries, span)
    log_sums = torch.empty(splits, rows, dtype=torch.float32, device=q.device)
    centres = torch.empty(splits, rows, width, dtype=torch.float32, device=q.device)
    with launch_on(q):
        _info_nce_partial[(triton.cdiv(rows, tile["BLOCK_B"]), splits)](
            q, queue, log_sums, centres, rows, entries, width, 1 / temperature, span,
            BLOCK_D=block_d, OPERAND=operand_of(q.dtype), **tile,
        )  # fmt: skip
        _info_nce_combine[(rows,)](
            q, k, log_sums, centres, loss, pull, rest, rows, width, splits, 1 / temperature, SPLITS, block_d,
            num_warps=max(4, block_d // 64),
        )  # fmt: skip
    return loss, pull, rest


def tile_of(block_d: int, dtype: torch.dtype) -> dict[str, Any]:
    """How many rows of the batch and of the queue meet at a time, and how they are multiplied, so that nothing spills.

    Tensor cores round float32 to 11 bits; three such products make up for it, and in wide rows cost too many registers.
    """
    if dtype != torch.float32:
        size = max(16, min(64, 8192 // block_d))
        return {"BLOCK_B": size, "BLOCK_Q": size, "PRECISION": "ieee", "num_warps": 4}
    if block_d <= 128:
        return {"BLOCK_B": 32, "BLOCK_Q": 32, "PRECISION": "tf32x3", "num_warps": 8}
    return {"BLOCK_B": 16, "BLOCK_Q": 16, "PRECISION": "ieee", "num_warps": 8}


def operand_of(dtype: torch.dtype) -> tl.dtype:
    """q's own type; float32 in Triton's interpreter, which multiplies the bits of bfloat16 as if they were integers."""
    own = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return tl.float32 if triton.knobs.runtime.interpret else own[dtype]
