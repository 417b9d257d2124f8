"""The paper's classifier of noisy pictures: SPICE's network F, its head C, and a head that knows the time step."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gdui.diffusion.layers import TimeEmbedding
from gdui.diffusion.norm import zeroed
from gdui.training.backbones import backbone

__all__ = ["SpiceClassifier", "SpiceConfig"]


@dataclass(frozen=True)
class SpiceConfig:
    """The sizes: `backbone` is F, one of `gdui.training.backbones`; "auto" goes by the size of the pictures."""

    image_size: int
    classes: int
    channels: int = 3
    backbone: str = "auto"

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2 for a classifier, not {self.classes}")
        backbone(self.backbone, self.channels, side=self.image_size)


class SpiceClassifier(nn.Module):
    """Noisy pictures [B, C, H, W] and time steps [B] -> logits [B, classes]: C(F(x)) + E(F(x), t).

    E ends in zeros: at first the time step says nothing.
    """

    def __init__(self, config: SpiceConfig) -> None:
        super().__init__()
        self.config = config
        self.features = backbone(config.backbone, config.channels, side=config.image_size)
        width = self.features.dim
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.classes))
        self.time_embed = TimeEmbedding(width)
        self.film = nn.Linear(4 * width, 2 * width)
        self.extra_in = nn.Linear(width, width)
        self.extra_out = zeroed(nn.Linear(width, config.classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = self.features(x).to(self.extra_in.weight.dtype)
        scale, shift = self.film(self.time_embed(t)).chunk(2, dim=1)
        hidden = torch.relu(self.extra_in(features) * (1 + scale) + shift)
        return cast(Tensor, self.head(features) + self.extra_out(hidden))
