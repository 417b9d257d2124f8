"""Attention among the positions of a picture. Parameters carry ADM's names, so its checkpoints fit."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdui.diffusion.norm import Norm, zeroed

__all__ = ["Attention", "AttentionPool"]

SHORT = 512  # tokens up to which the way back by products is the faster one
CACHED = 2**20  # attention weights computed at once on the way back: what a core's cache holds


class Attend(torch.autograd.Function):
    """softmax(q k' / sqrt(C)) v for q, k, v [B, heads, T, C], with a way back of five products.

    PyTorch's own takes up to ten times its way there in bfloat16 on a CPU. The weights are computed anew, a few heads
    at a time, so memory stays linear in T.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        flat = [tensor.flatten(0, 1) for tensor in (*ctx.saved_tensors, upstream)]
        heads = max(1, CACHED // flat[0].shape[1] ** 2)
        parts = [attend_backward(*chunk) for chunk in zip(*(tensor.split(heads) for tensor in flat), strict=True)]
        return tuple(torch.cat(gradients).view(upstream.shape) for gradients in zip(*parts, strict=True))


def attend_backward(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients to q, k and v."""
    scale = q.shape[-1] ** -0.5
    scaled = q * scale
    weights = (scaled @ k.mT).softmax(dim=-1)
    inner = torch._softmax_backward_data(upstream @ v.mT, weights, -1, q.dtype)
    return (inner @ k) * scale, inner.mT @ scaled, weights.mT @ upstream


def attend(qkv: Tensor, heads: int, *, heads_first: bool) -> Tensor:
    """Attention among tokens: qkv [B, T, 3 C] -> [B, T, C].

    ADM's two orders differ in what its 3 C channels mean: (head, q|k|v, channel) when `heads_first`, else
    (q|k|v, head, channel). No shape tells them apart.
    """
    batch, tokens, width = qkv.shape
    channels = width // (3 * heads)
    if heads_first:
        q, k, v = qkv.view(batch, tokens, heads, 3, channels).permute(3, 0, 2, 1, 4)
    else:
        q, k, v = qkv.view(batch, tokens, 3, heads, channels).permute(2, 0, 3, 1, 4)
    by_products = qkv.requires_grad and qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16 and tokens <= SHORT
    mixed = Attend.apply(q, k, v) if by_products else F.scaled_dot_product_attention(q, k, v)
    return cast(Tensor, mixed).transpose(1, 2).reshape(batch, tokens, width // 3)


def pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A convolution of width 1 as a product on [B, T, C], which is how channels_last pictures lie in memory."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)


class Attention(nn.Module):
    """Self-attention among the positions of a picture, around a skip."""

    def __init__(self, channels: int, heads: int, *, heads_first: bool) -> None:
        super().__init__()
        self.heads, self.heads_first = heads, heads_first
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed = attend(pointwise(self.qkv, tokens), self.heads, heads_first=self.heads_first)
        return x + pointwise(self.proj_out, mixed).transpose(1, 2).reshape(x.shape)


class AttentionPool(nn.Module):
    """A picture [B, C, H, W] as what its mean attends to: [B, out]."""

    def __init__(self, edge: int, channels: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, edge**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.T.to(tokens.dtype)
        mixed = attend(pointwise(self.qkv_proj, tokens), self.heads, heads_first=False)
        return pointwise(self.c_proj, mixed[:, 0])
