"""What the kernels of labeling and of the UNet mean, in plain PyTorch: the specification, the fallback and the oracle.

Arithmetic is in float32, or in float64 for float64 input. `reference_diffusion` is the same for diffusion.
"""

import torch
from torch import Tensor

__all__ = [
    "double_softmax_loss",
    "double_softmax_loss_backward",
    "exact",
    "exact_type",
    "group_norm",
    "group_norm_backward",
    "info_nce",
]


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
    with torch.autocast(q.device.type, enabled=False):
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
        share = torch.softmax(logits, 1)[:, 1:]
        rest = share.sum(1)
        return torch.logsumexp(logits, 1) - logits[:, 0], share @ queue - rest[:, None] * k, rest


def double_softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(softmax(logits)) at each row's target [R], 0 where that is not in [0, K)."""
    scores = torch.log_softmax(torch.softmax(exact(logits), 1), 1)
    clusters = logits.shape[1]
    at_target = scores.gather(1, targets.clamp(0, clusters - 1)[:, None])[:, 0]
    return torch.where((targets >= 0) & (targets < clusters), -at_target, 0)


def double_softmax_loss_backward(logits: Tensor, targets: Tensor, dlosses: Tensor) -> Tensor:
    """dloss p (g - Σ p g) with p = softmax(logits) and g = softmax(p) - onehot(target), 0 without a target below K."""
    clusters = logits.shape[1]
    p = torch.softmax(exact(logits), 1)
    g = torch.softmax(p, 1)
    g[torch.arange(len(g), device=g.device), targets.clamp(0, clusters - 1)] -= 1
    chosen = torch.where((targets >= 0) & (targets < clusters), dlosses, 0)[:, None]
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
