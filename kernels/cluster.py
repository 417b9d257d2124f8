"""The clustering heads' loss, cross-entropy of a softmax of a softmax, a block of rows at a time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdui.kernels.layout import launch_on

__all__ = ["double_softmax_loss", "double_softmax_loss_backward"]

TILE = 4096


@triton.jit
def _softmax_rows(logits_ptr, row, inside, K, BLOCK_K: tl.constexpr):
    """p = softmax(z) and exp(p) of some rows, zero beyond the last cluster; in float32."""
    cluster = tl.arange(0, BLOCK_K)
    mask = inside[:, None] & (cluster < K)[None, :]
    z = tl.load(logits_ptr + row[:, None] * K + cluster[None, :], mask=mask, other=float("-inf")).to(tl.float32)
    z = tl.where(inside[:, None], z, 0.0)
    e = tl.exp(z - tl.max(z, 1)[:, None])
    p = e / tl.sum(e, 1)[:, None]
    return p, tl.where((cluster < K)[None, :], tl.exp(p), 0.0), mask


@triton.jit
def _double_softmax_forward(
    logits_ptr,  # [rows, K]
    target_ptr,  # [rows], none where it is not in [0, K)
    loss_ptr,  # [rows]
    rows,
    K,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """log Σ exp(p) - p[target] with p = softmax(logits), or 0 without a target."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    target = tl.load(target_ptr + row, mask=row < rows, other=-1)
    p, exp_p, _ = _softmax_rows(logits_ptr, row, row < rows, K, BLOCK_K)
    chosen = tl.sum(tl.where(tl.arange(0, BLOCK_K)[None, :] == target[:, None], p, 0.0), 1)
    loss = tl.where((target >= 0) & (target < K), tl.log(tl.sum(exp_p, 1)) - chosen, 0.0)
    tl.store(loss_ptr + row, loss, mask=row < rows)


@triton.jit
def _double_softmax_backward(
    logits_ptr,  # [rows, K]
    target_ptr,  # [rows]
    dloss_ptr,  # [rows]
    dlogits_ptr,  # [rows, K]
    rows,
    K,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dz = dloss p (g - Σ p g) with g = softmax(p) - onehot(target), or 0 without a target."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    target = tl.load(target_ptr + row, mask=row < rows, other=-1)
    dloss = tl.load(dloss_ptr + row, mask=row < rows, other=0.0)
    p, exp_p, mask = _softmax_rows(logits_ptr, row, row < rows, K, BLOCK_K)
    cluster = tl.arange(0, BLOCK_K)
    g = exp_p / tl.sum(exp_p, 1)[:, None] - tl.where(cluster[None, :] == target[:, None], 1.0, 0.0)
    dz = tl.where((target >= 0) & (target < K), dloss, 0.0)[:, None] * p * (g - tl.sum(p * g, 1)[:, None])
    tl.store(dlogits_ptr + row[:, None] * K + cluster[None, :], dz, mask=mask)


def double_softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each row [R] of logits [R, K] in float32."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if logits.numel():
        grid, blocks = tiles(*logits.shape)
        with launch_on(logits):
            _double_softmax_forward[grid](logits, targets, losses, *logits.shape, **blocks)
    return losses


def double_softmax_loss_backward(logits: Tensor, targets: Tensor, dlosses: Tensor) -> Tensor:
    """The gradient to logits [R, K] from that to each row's loss [R]."""
    dlogits = torch.empty_like(logits)
    if logits.numel():
        grid, blocks = tiles(*logits.shape)
        with launch_on(logits):
            _double_softmax_backward[grid](logits, targets, dlosses, dlogits, *logits.shape, **blocks)
    return dlogits


def tiles(rows: int, clusters: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and how it is cut: whole rows, some TILE elements a program."""
    block_k = max(16, triton.next_power_of_2(clusters))
    block_r = max(1, min(TILE // block_k, triton.next_power_of_2(rows)))
    warps = max(4, min(16, block_k // 1024))
    return (triton.cdiv(rows, block_r),), {"BLOCK_R": block_r, "BLOCK_K": block_k, "num_warps": warps}
