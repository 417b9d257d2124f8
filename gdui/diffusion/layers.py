"""The blocks of the ADM network (Dhariwal and Nichol, 2021). Parameters carry ADM's names, so its checkpoints fit."""

import math
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Attention", "AttentionPool", "Block", "ResBlock", "Resample", "TimeEmbedding", "group_norm", "zeroed"]

Layer = TypeVar("Layer", bound=nn.Module)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or as many as divide the channels of a smaller network."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: Layer) -> Layer:
    """The layer with all parameters zero: a residual branch that starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class TimeEmbedding(nn.Sequential):
    """Time steps [B] -> [B, 4 * width], through cosines and sines of geometrically spaced frequencies."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        half = width // 2
        exponents = torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * exponents), persistent=False)
        self.padding = width % 2

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        waves = F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.padding))
        first, silu, second = self
        return cast(Tensor, second(silu(first(waves.to(cast(nn.Linear, first).weight.dtype)))))


class Resample(nn.Module):
    """Halves (`up=False`) or doubles the edges; by a convolution, or by plain pooling and repetition."""

    def __init__(self, channels: int, *, up: bool, convolution: bool) -> None:
        super().__init__()
        self.up, self.convolution = up, convolution
        if convolution and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif convolution:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return cast(Tensor, self.op(x)) if self.convolution else F.avg_pool2d(x, 2)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return cast(Tensor, self.conv(x)) if self.convolution else x


class ResBlock(nn.Module):
    """norm, SiLU, convolution, twice, with the time embedding between and a skip around; may resample on the way."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        *,
        dropout: float = 0.0,
        scale_shift: bool = True,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = Resample(channels, up=resample == "up", convolution=False) if resample else nn.Identity()
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (1 + scale_shift) * out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, silu, convolve = self.in_layers
        h = convolve(self.resample(silu(norm(x))))
        time = self.emb_layers(embedding)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + time)
        for layer in rest:
            h = layer(h)
        return cast(Tensor, self.skip_connection(self.resample(x)) + h)


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
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(batch, tokens, width // 3)


def pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A convolution of width 1 as a product on [B, T, C], which is how channels_last pictures lie in memory."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)


class Attention(nn.Module):
    """Self-attention among the positions of a picture, around a skip."""

    def __init__(self, channels: int, heads: int, *, heads_first: bool) -> None:
        super().__init__()
        self.heads, self.heads_first = heads, heads_first
        self.norm = group_norm(channels)
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


class Block(nn.Sequential):
    """Layers one after the other; those that want the time embedding get it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x
