"""The training loop, one for both networks: steps, running averages, and checkpoints that make a kill harmless."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdui.diffusion.losses import Forward, Loss
from gdui.diffusion.pictures import Batch, Pictures
from gdui.diffusion.recipe import Draw, Recipe, draw
from gdui.training.history import History, Saved, optimiser_tensors, restore_optimiser
from gdui.training.precision import autocast, compiled
from gdui.training.ranks import place, sum_over_ranks

__all__ = ["DivergedError", "Trained", "train_network"]


class DivergedError(RuntimeError):
    """Training met a loss that is no number."""


@dataclass
class Trained:
    """A network in the midst of its training: what a checkpoint holds."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    averages: dict[float, list[Tensor]]
    step: int = 0

    @classmethod
    def begin(cls, network: nn.Module, recipe: Recipe) -> "Trained":
        parameters = list(network.parameters())
        optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
        return cls(network, optimiser, {decay: [p.detach().clone() for p in parameters] for decay in recipe.ema})

    def saved(self, facts: dict[str, Any]) -> Saved:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for decay, values in self.averages.items():
            tensors |= {f"ema.{decay}.{i}": value for i, value in enumerate(values)}
        tensors |= optimiser_tensors(self.optimiser)
        return Saved(self.step, facts, tensors)

    def restore(self, saved: Saved) -> None:
        """Takes up where `saved` was written."""
        tensors = saved.tensors
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        for decay, values in self.averages.items():
            for i, value in enumerate(values):
                value.copy_(tensors[f"ema.{decay}.{i}"])
        restore_optimiser(self.optimiser, tensors)
        self.step = saved.step


def train_network(
    network: nn.Module,
    loss: Loss,
    pictures: Pictures,
    timesteps: int,
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    compile: bool = True,  # noqa: A002
    progress: Callable[[int, float, float], None] | None = None,
) -> Trained:
    """Trains `network` in place for recipe.steps, going on from the newest checkpoint in `folder`.

    Under torchrun each rank takes its part of every batch; the sum is the same batch as one process would see.

    Args:
        loss: the loss of each picture, as `denoiser_loss` and `classifier_loss` make it.
        timesteps: how many steps the schedule has.
        progress: called after each step with its number, the loss and the pictures a second.
    """
    rank, ranks = place()
    if recipe.batch % (ranks * recipe.accumulate):
        raise ValueError(f"batch must be a multiple of {ranks} ranks x {recipe.accumulate} parts, not {recipe.batch}")
    facts: dict[str, Any] = {"recipe": asdict(recipe), "pictures": len(pictures), "names": list(pictures.names)}
    history, trained = History(folder, keep=recipe.keep), Trained.begin(network, recipe)
    if saved := history.resume(facts["recipe"]):
        trained.restore(saved)
    forward = compiled(network.train(), compile)
    while trained.step < recipe.steps:
        started = time.perf_counter()
        drawn = draw(trained.step, pictures, timesteps, recipe, rank=rank, ranks=ranks)
        torch.manual_seed(recipe.seed * 1_000_003 + trained.step * ranks + rank)
        value, norm = _step(trained, forward, loss, drawn, recipe)
        if not np.isfinite(value):
            raise DivergedError(_last_words(trained.step, value, history))
        trained.step += 1
        speed = recipe.batch / (time.perf_counter() - started)
        if rank == 0:
            _keep_books(trained, history, facts, recipe, value, norm, speed)
            if progress:
                progress(trained.step, value, speed)
    return trained


def _step(trained: Trained, forward: Forward, loss: Loss, drawn: Draw, recipe: Recipe) -> tuple[float, float]:
    """One update of the weights and of their averages; the loss and the gradient's norm."""
    parameters = list(trained.network.parameters())
    device = parameters[0].device
    total = torch.zeros((), device=device)
    for part in _parts(drawn, recipe.accumulate, device):
        with autocast(device.type):
            each = loss(forward, part.batch, part.t, part.seed)
        mean = (each * part.batch.weights).sum() / recipe.batch
        torch.autograd.backward(mean)
        total += mean.detach()
    gradients = [p.grad for p in parameters if p.grad is not None]
    sum_over_ranks([total, *gradients])
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
    for group in trained.optimiser.param_groups:
        group["lr"] = recipe.rate * min(1.0, (trained.step + 1) / max(1, recipe.warmup))
    trained.optimiser.step()
    trained.optimiser.zero_grad()
    for decay, averages in trained.averages.items():
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)
    return float(total), float(norm)


def _parts(drawn: Draw, count: int, device: torch.device) -> list[Draw]:
    """A draw in `count` pieces on the device, channels_last."""
    batch = drawn.batch
    pieces = zip(
        *(tensor.chunk(count) for tensor in (batch.x0, batch.classes, batch.weights, drawn.t, drawn.seed)), strict=True
    )
    moved = ([tensor.to(device, non_blocking=True) for tensor in piece] for piece in pieces)
    return [
        Draw(Batch(x0.contiguous(memory_format=torch.channels_last), classes, weights), t, seed)
        for x0, classes, weights, t, seed in moved
    ]


def _keep_books(
    trained: Trained, history: History, facts: dict[str, Any], recipe: Recipe, loss: float, norm: float, speed: float
) -> None:
    rate = trained.optimiser.param_groups[0]["lr"]
    history.record(step=trained.step, loss=loss, gradient_norm=norm, rate=rate, pictures_per_second=speed)
    if trained.step == recipe.steps or trained.step % recipe.save_every == 0:
        history.save(trained.saved(facts))


def _last_words(step: int, loss: float, history: History) -> str:
    saved = history.newest()
    where = f"the last good checkpoint is that of step {saved.step}" if saved else "there is no checkpoint yet"
    return f"the loss of step {step + 1} is {loss}: stopped; {where} in {history.folder}. A lower rate may help."
