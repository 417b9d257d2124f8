"""Classifiers of noisy pictures: what steers the generator to a class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from gdui import checks
from gdui.diffusion.attention import AttentionPool
from gdui.diffusion.layers import norm_silu
from gdui.diffusion.norm import zeroed
from gdui.diffusion.unet import Trunk, UNetConfig

__all__ = ["Classifier", "ClassifierConfig", "Pool", "guidance_gradient"]

Pool = Literal["attention", "adaptive", "spatial", "spatial_v2"]


@dataclass(frozen=True)
class ClassifierConfig(UNetConfig):
    """A trunk, and how its end becomes one logit a class."""

    pool: Pool = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes is None or self.classes < 2:
            raise ValueError(f"classes must be at least 2 for a classifier, not {self.classes}")
        checks.one_of("pool", self.pool, get_args(Pool))


class Classifier(Trunk):
    """Noisy pictures [B, C, H, W] and time steps [B] -> logits [B, classes]: ADM's encoder with a pooled end."""

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.out = self._end(cast(int, config.classes))

    def _end(self, classes: int) -> nn.Sequential:
        last = self.config.level_widths[-1]
        match self.config.pool:
            case "attention":
                edge = self.config.image_size // 2 ** (len(self.config.multipliers) - 1)
                pool = AttentionPool(edge, last, self.config.heads_at(last), classes)
                return nn.Sequential(*norm_silu(last), pool)
            case "adaptive":
                project = zeroed(nn.Conv2d(last, classes, 1))
                return nn.Sequential(*norm_silu(last), nn.AdaptiveAvgPool2d(1), project, nn.Flatten())
            case "spatial":
                return nn.Sequential(nn.Linear(self._seen_width, 2048), nn.ReLU(), nn.Linear(2048, classes))
            case "spatial_v2":
                first = nn.Linear(self._seen_width, 2048)
                return nn.Sequential(first, nn.GroupNorm(32, 2048), nn.SiLU(), nn.Linear(2048, classes))

    @property
    def _seen_width(self) -> int:
        return sum(self.widths) + self.config.level_widths[-1]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h, seen = self.descend(x, self.time_embed(t))
        if self.config.pool.startswith("spatial"):
            h = torch.cat([part.mean(dim=(2, 3)) for part in (*seen, h)], dim=1)
        return cast(Tensor, self.out(h.to(x.dtype)))


def guidance_gradient(classifier: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
    """The gradient of log p(class | x_t) with respect to x_t, one picture at a time."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_probability = classifier(x, t).float().log_softmax(dim=1)
        chosen = log_probability.gather(1, classes[:, None]).sum()
        return torch.autograd.grad(chosen, x)[0]
