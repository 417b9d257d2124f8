"""The blocks of the ADM network (Dhariwal and Nichol, 2021). Parameters carry ADM's names, so its checkpoints fit."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdui.diffusion.norm import Norm, zeroed

__all__ = ["Block", "ResBlock", "Resample", "TimeEmbedding", "norm_silu"]


def norm_silu(channels: int) -> tuple[Norm, nn.Identity]:
    """ADM's two layers as one; the other keeps the place that ADM's numbering gives it."""
    return Norm(channels, silu=True), nn.Identity()


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
        self.in_layers = nn.Sequential(*norm_silu(channels), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (1 + scale_shift) * out_channels))
        self.out_layers = nn.Sequential(
            *norm_silu(out_channels),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, _, convolve = self.in_layers
        h = convolve(self.resample(norm(x)))
        time = self.emb_layers(embedding)
        norm, _, drop, convolve = self.out_layers
        h = norm(h, *time.chunk(2, dim=1)) if self.scale_shift else norm(h + time[:, :, None, None])
        return cast(Tensor, self.skip_connection(self.resample(x)) + convolve(drop(h)))


class Block(nn.Sequential):
    """Layers one after the other; those that want the time embedding get it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x
