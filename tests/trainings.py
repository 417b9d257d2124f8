"""A training of some seconds, and what it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdui.diffusion.losses import denoiser_loss
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.recipe import Recipe
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.train import Trained, train_network
from gdui.diffusion.unet import UNet, preset

RECIPE = Recipe(steps=6, batch=8, warmup=2, ema=(0.5,), forget=0.3, mirror=True, save_every=2, rate=1e-3)
SCHEDULE = Schedule.from_name("cosine", 50)


def pictures(count: int = 21) -> Pictures:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Pictures(pixels, generator.integers(-1, 3, count), ("a", "b", "c"))


def train(folder: Path, recipe: Recipe = RECIPE, progress: Any = None) -> Trained:
    torch.manual_seed(0)
    network = UNet(preset("tiny", width=32, classes=3, dropout=0.2), null_class=True)
    loss = denoiser_loss(SCHEDULE, recipe, classes=3)
    return train_network(network, loss, pictures(), len(SCHEDULE), recipe, folder, compile=False, progress=progress)


def losses(folder: Path) -> list[list[str]]:
    """Step, loss and gradient's norm of every line; what follows are times."""
    return [line.split(",")[:3] for line in (folder / "losses.csv").read_text().splitlines()]


def undisturbed(folder: Path, recipe: Recipe = RECIPE) -> None:
    """A run without dropout, in float32: its sums may be taken in any order."""
    torch.manual_seed(0)
    network = UNet(preset("tiny", width=32, classes=3), null_class=True)
    loss = denoiser_loss(SCHEDULE, recipe, classes=3)
    train_network(network, loss, pictures(), len(SCHEDULE), recipe, folder, compile=False)
