"""SPICE from pixels: the three stages in their order, each continuing where a killed run left it."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gdui.config import Config
from gdui.labeling.backbones import Backbone, outputs
from gdui.labeling.cluster import Assignment, Heads, assign, fit_heads
from gdui.labeling.joint import Head, Reliable, choose, train_jointly
from gdui.labeling.looks import Looks, Pixels
from gdui.labeling.neighbors import consistency
from gdui.labeling.represent import represent

__all__ = ["Spice", "learn"]

Progress = Callable[[str, int, int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spice:
    """What was learned: the network, the head on its unit features, and where the images fall.

    before: where they fell after stage 2.   reliable: the images that taught stage 3.
    """

    trunk: Backbone
    head: Heads
    looks: Looks
    found: Assignment
    before: Assignment
    reliable: Reliable
    revived: int

    def logits(self, features: npt.NDArray[np.float32]) -> Tensor:
        """P as logits [n, K], from unit features [n, d]."""
        return self.head(features)


def learn(
    pixels: Pixels,
    k: int,
    config: Config,
    folder: str | os.PathLike[str],
    *,
    given: npt.NDArray[np.integer] | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Spice:
    """Clusters pictures by nothing but themselves; checkpoints stand below `folder`.

    Args:
        pixels: uint8 [N, H, W, 3].
        k: clusters.
        given: classes that are known, -1 where none is [N]; their images join the reliable ones.
        progress: called with (stage, pictures shown, pictures to show).
    """
    folder, place = Path(folder), torch.device(device)
    looks = Looks.of(pixels, config.represent.views)
    tell = [None if progress is None else partial(progress, stage) for stage in ("represent", "joint")]
    trunk = represent(
        pixels, looks, config.represent, folder / "represent", seed=config.seed, device=place, progress=tell[0]
    )
    unit = _unit(trunk, looks, pixels, place)
    trained = fit_heads(unit, k, **_of_heads(config))
    head, found = trained.model, assign(trained.model, unit)
    log.info("head %d kept, loss %.3f, %d revived", trained.kept, trained.losses.min(), trained.revived)
    before = found
    for round_ in range(config.joint.rounds):
        near = consistency(unit, found.cluster, min(config.neighbors.consistency, len(unit)), config.neighbors.method)
        taught = choose(near, found.cluster, found.confidence, k, config.joint, given)
        log.info("round %d: %d of %d images are reliable", round_ + 1, len(taught.rows), len(unit))
        top = Head(head.hidden, head.hidden_bias, head.out, head.out_bias)
        trunk, top = train_jointly(
            trunk,
            top,
            pixels,
            looks,
            taught,
            config.joint,
            folder / f"joint-{round_ + 1}",
            seed=config.seed + round_,
            device=place,
            progress=tell[1],
        )
        unit, head = _unit(trunk, looks, pixels, place), Heads(*top.arrays())
        found = assign(head, unit)
    return Spice(trunk, head, looks, found, before, taught, trained.revived)


def _unit(trunk: Backbone, looks: Looks, pixels: Pixels, device: torch.device) -> npt.NDArray[np.float32]:
    """Features of all pictures at length 1 [N, d]."""
    rows = [F.normalize(found, dim=1).cpu() for found in outputs(trunk, looks.batches(pixels, device))]
    return torch.cat(rows).numpy()


def _of_heads(config: Config) -> dict[str, Any]:
    names = ("heads", "hidden", "batch", "step", "epochs", "rate", "top_share")
    return {name: getattr(config.cluster, name) for name in names} | {"seed": config.seed}
