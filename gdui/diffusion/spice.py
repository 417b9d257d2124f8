"""The paper's classifier of noisy pictures: SPICE's network F, its head C, and a head that knows the time step."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from gdui.diffusion.layers import TimeEmbedding
from gdui.diffusion.norm import zeroed
from gdui.training.backbones import backbone
from gdui.training.shared_norm import SharedNorm

__all__ = ["Learned", "SpiceClassifier", "SpiceConfig"]


@dataclass(frozen=True)
class SpiceConfig:
    """The sizes: `backbone` is F, one of `gdui.training.backbones`; "auto" goes by the size of the pictures.

    hidden: C's inner width; None for that of the features.
    """

    image_size: int
    classes: int
    channels: int = 3
    backbone: str = "auto"
    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2 for a classifier, not {self.classes}")
        backbone(self.backbone, self.channels, side=self.image_size)


class SpiceClassifier(nn.Module):
    """Noisy pictures [B, C, H, W] and time steps [B] -> logits [B, classes]: C(F(x)) + E(F(x), t).

    E ends in zeros: at first the time step says nothing. All features are of one length, as a labelling run's C knows
    them; `scale` and `shift` bring pictures in [-1, 1] to what its F has seen.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: SpiceConfig) -> None:
        super().__init__()
        self.config = config
        self.features = backbone(config.backbone, config.channels, side=config.image_size, norm=SharedNorm)
        width = self.features.dim
        hidden = config.hidden or width
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, config.classes))
        self.register_buffer("scale", torch.ones(config.channels, 1, 1))
        self.register_buffer("shift", torch.zeros(config.channels, 1, 1))
        self.time_embed = TimeEmbedding(width)
        self.film = nn.Linear(4 * width, 2 * width)
        self.extra_in = nn.Linear(width, width)
        self.extra_out = zeroed(nn.Linear(width, config.classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        seen = x[:, : self.config.channels] * self.scale.to(x.dtype) + self.shift.to(x.dtype)
        unit = F.normalize(self.features(seen), dim=1)
        features = (unit * self.features.dim**0.5).to(self.extra_in.weight.dtype)
        scale, shift = self.film(self.time_embed(t)).chunk(2, dim=1)
        hidden = torch.relu(self.extra_in(features) * (1 + scale) + shift)
        return cast(Tensor, self.head(features) + self.extra_out(hidden))


@dataclass(frozen=True)
class Learned:
    """F and C as a labelling run has learned them from its pixels, before any noise."""

    about: dict[str, Any]
    tensors: dict[str, Tensor]
    digest: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """From a run's spice.safetensors."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["gdui"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return cls(about, tensors, hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds nothing that was learned from pixels: {error!r}") from None

    def config(self, asked: SpiceConfig) -> SpiceConfig:
        """The sizes that were asked for, with those that the learned weights have."""
        hidden = self.tensors["head.hidden"].shape[1]
        return replace(asked, backbone=self.about["backbone"], channels=self.about["channels"], hidden=hidden)

    def fits(self, asked: SpiceConfig) -> bool:
        """Whether a classifier as asked for can begin with these weights."""
        clusters = len(self.tensors["head.out_bias"])
        same = asked.backbone in ("auto", self.about["backbone"])
        return same and self.about["channels"] <= asked.channels and clusters >= asked.classes

    def into(
        self, network: SpiceClassifier, clusters: npt.NDArray[np.integer], classes: npt.NDArray[np.integer]
    ) -> None:
        """Gives F and C to a network; each class gets the output of the cluster that holds most of it.

        Args:
            clusters, classes: of each image that was labelled; -1 for no class.
        """
        tensors, named = self.tensors, (classes >= 0) & (clusters >= 0)
        counts = np.zeros((network.config.classes, len(tensors["head.out_bias"])), np.int64)
        np.add.at(counts, (classes[named], clusters[named]), 1)
        chosen = torch.from_numpy(linear_sum_assignment(-counts)[1])
        mean, std = (torch.tensor(self.about[name])[: network.config.channels, None, None] for name in ("mean", "std"))
        network.features.load_state_dict(
            {name.removeprefix("trunk."): value for name, value in tensors.items() if name.startswith("trunk.")}
        )
        first, _, last = cast(tuple[nn.Linear, nn.ReLU, nn.Linear], tuple(network.head))
        with torch.no_grad():
            first.weight.copy_(tensors["head.hidden"].T / network.features.dim**0.5)
            first.bias.copy_(tensors["head.hidden_bias"])
            last.weight.copy_(tensors["head.out"].T[chosen])
            last.bias.copy_(tensors["head.out_bias"][chosen])
            network.scale.copy_(0.5 / std)
            network.shift.copy_((0.5 - mean) / std)
