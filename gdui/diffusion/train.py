"""The training loop, one for both networks: steps, running averages, and checkpoints that make a kill harmless."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gdui.diffusion.history import History, Saved
from gdui.diffusion.losses import Forward, Loss
from gdui.diffusion.pictures import Batch, Pictures
from gdui.diffusion.precision import autocast, compiled
from gdui.diffusion.recipe import Draw, Recipe, draw

__all__ = ["DivergedError", "Trained", "train_network"]

log = logging.getLogger(__name__)


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
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        return Saved(self.step, facts, tensors)

    def restore(self, saved: Saved) -> None:
        """Takes up where `saved` was written."""
        tensors = saved.tensors
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        for decay, values in self.averages.items():
            for i, value in enumerate(values):
                value.copy_(tensors[f"ema.{decay}.{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, place, name = key.split(".", 2)
                state.setdefault(int(place), {})[name] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
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
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if recipe.batch % (ranks * recipe.accumulate):
        raise ValueError(f"batch must be a multiple of {ranks} ranks x {recipe.accumulate} parts, not {recipe.batch}")
    facts = {"recipe": asdict(recipe), "pictures": len(pictures), "names": list(pictures.names)}
    history, trained = History(folder, keep=recipe.keep), Trained.begin(network, recipe)
    _resume(trained, history, facts)
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
    _sum_over_ranks([total, *gradients])
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


def _sum_over_ranks(tensors: list[Tensor]) -> None:
    """Adds up every tensor over all ranks, in one message."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def _resume(trained: Trained, history: History, facts: dict[str, Any]) -> None:
    saved = history.newest()
    if saved is None:
        return
    before, now = saved.facts["recipe"] | {"steps": 0}, json.loads(json.dumps(facts["recipe"])) | {"steps": 0}
    if changed := [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]:
        raise ValueError(f"{history.folder} was begun with another recipe: {'; '.join(changed)}")
    trained.restore(saved)
    history.forget_after(saved.step)
    log.info("going on after step %d", saved.step)


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
