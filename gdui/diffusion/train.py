"""The training loop, one for both networks: steps, running averages, and checkpoints that make a kill harmless."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdui.diffusion.averages import Averages, follow, followed
from gdui.diffusion.balance import balanced
from gdui.diffusion.losses import Forward, Loss
from gdui.diffusion.pictures import Batch, Pictures
from gdui.diffusion.recipe import Draw, Recipe, draw
from gdui.diffusion.times import TimeSampler
from gdui.training.history import History, Saved, optimiser_tensors, restore_optimiser
from gdui.training.precision import autocast, compiled
from gdui.training.ranks import gathered, place, sum_over_ranks
from gdui.training.shared_norm import shares
from gdui.training.stopping import asked_to_stop, keep

__all__ = ["DivergedError", "Trained", "train_network"]


FIRST, LATELY, WORSE = 10, 50, 10.0


class DivergedError(RuntimeError):
    """Training met a loss or a gradient that is no number, or a loss far above that of its first steps."""


@dataclass
class Course:
    """The mean loss of the first steps, and the running mean of those lately."""

    first: float = 0.0
    lately: float = 0.0

    def follow(self, step: int, loss: float) -> None:
        """Takes in the loss of `step`, counted from 1. No single one counts much: a bound's losses have long tails."""
        if step <= FIRST:
            self.first += (loss - self.first) / step
        else:
            loss = min(loss, 2 * WORSE * self.first)
        self.lately += (loss - self.lately) / min(step, LATELY)

    @property
    def worse(self) -> bool:
        """Whether it went the wrong way for good."""
        return self.lately > WORSE * self.first


@dataclass
class Trained:
    """A network in the midst of its training: what a checkpoint holds."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    averages: Averages
    times: TimeSampler
    step: int = 0
    course: Course = field(default_factory=Course)

    @classmethod
    def begin(cls, network: nn.Module, timesteps: int, recipe: Recipe) -> "Trained":
        parameters = list(network.parameters())
        optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
        averages = {decay: [value.clone() for value in followed(network)] for decay in recipe.ema}
        return cls(network, optimiser, averages, TimeSampler(recipe.times, timesteps))

    def saved(self, facts: dict[str, Any]) -> Saved:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for decay, values in self.averages.items():
            tensors |= {f"ema.{decay}.{i}": value for i, value in enumerate(values)}
        tensors |= optimiser_tensors(self.optimiser) | self.times.tensors()
        tensors["course"] = torch.tensor([self.course.first, self.course.lately], dtype=torch.float64)
        return Saved(self.step, facts, tensors)

    def restore(self, saved: Saved) -> None:
        """Takes up where `saved` was written."""
        tensors = saved.tensors
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        for decay, values in self.averages.items():
            for i, value in enumerate(values):
                value.copy_(tensors[f"ema.{decay}.{i}"])
        restore_optimiser(self.optimiser, tensors)
        self.times.restore(tensors)
        self.course = Course(*tensors["course"].tolist())
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
    progress: Callable[[Trained, float], None] | None = None,
) -> Trained:
    """Trains `network` in place for recipe.steps, going on from the newest checkpoint in `folder`.

    Under torchrun each rank takes its part of every batch; the sum is the same batch as one process would see. A first
    Ctrl-C or SIGTERM ends it with a checkpoint of the step underway.

    Args:
        loss: the loss of each picture, as `denoiser_loss` and `classifier_loss` make it.
        timesteps: how many steps the schedule has.
        progress: called on the first rank after each step, with all there is and the loss.
    """
    rank, ranks = place()
    recipe.check_parts(ranks)
    facts: dict[str, Any] = {"recipe": asdict(recipe), "pictures": len(pictures), "names": list(pictures.names)}
    history, trained = History(folder, keep=recipe.keep), Trained.begin(network, timesteps, recipe)
    if saved := history.resume(facts["recipe"], recipe.steps):
        trained.restore(saved)
    forward = compiled(network.train(), compile and not shares(network))
    draws = partial(draw, pictures=pictures, recipe=recipe, rank=rank, ranks=ranks)
    device = next(network.parameters()).device
    started = time.perf_counter()
    with asked_to_stop() as asked:
        for drawn in _ahead(draws, trained.step, recipe):
            waited = time.perf_counter() - started
            torch.manual_seed(recipe.seed * 1_000_003 + trained.step * ranks + rank)
            value, norm = _step(trained, forward, loss, drawn, recipe)
            _advance(trained, value, norm, history)
            if rank == 0:
                _record(history, trained, recipe, value, norm, time.perf_counter() - started, waited)
                if progress:  # what it draws is there before a checkpoint says that this step is done
                    progress(trained, value)
            keep(trained, history, facts, steps=recipe.steps, every=recipe.save_every, asked=asked(), device=device)
            started = time.perf_counter()
    return trained


def _advance(trained: Trained, value: float, norm: float, history: History) -> None:
    """Counts a step that was taken, unless its loss or its gradient's norm says that it went wrong."""
    trained.course.follow(trained.step + 1, value)
    if trained.course.worse or not np.isfinite([value, norm]).all():
        raise DivergedError(_last_words(trained, value, norm, history))
    trained.step += 1
    follow(trained.averages, followed(trained.network), trained.step)


def _record(
    history: History, trained: Trained, recipe: Recipe, value: float, norm: float, seconds: float, waited: float
) -> None:
    history.record(
        step=trained.step,
        loss=value,
        gradient_norm=norm,
        rate=trained.optimiser.param_groups[0]["lr"],
        pictures_per_second=recipe.batch / seconds,
        seconds=seconds,
        waited=waited,
    )


def _ahead(draw_step: Callable[[int], Draw], first: int, recipe: Recipe) -> Iterator[Draw]:
    """The draws of all steps that are left, each made while the step before it is taken."""
    with ThreadPoolExecutor(1, "gdui-draw") as pool:
        waiting = [pool.submit(draw_step, first)] if first < recipe.steps else []
        for step in range(first, recipe.steps):
            drawn = waiting.pop().result()
            if step + 1 < recipe.steps:
                waiting.append(pool.submit(draw_step, step + 1))
            yield drawn


def _step(trained: Trained, forward: Forward, loss: Loss, drawn: Draw, recipe: Recipe) -> tuple[float, float]:
    """One update of the weights; the loss and the gradient's norm."""
    parameters = list(trained.network.parameters())
    device = parameters[0].device
    t, importance = trained.times.pick(drawn.quantiles)
    batch, at = drawn.batch.to(device), torch.from_numpy(t).to(device)
    weights, seed = batch.weights * torch.from_numpy(importance).to(device), drawn.seed.to(device)
    losses, tasks = [], []
    for i, part in enumerate(_slices(len(t), recipe.intervals * recipe.accumulate)):
        piece = Batch(batch.x0[part], batch.classes[part], weights[part])
        with autocast(device.type, recipe.mixed):
            each = loss(forward, piece, at[part], seed[part])
        losses.append(each.detach())
        torch.autograd.backward((each * piece.weights).sum() / recipe.batch)
        if (i + 1) % recipe.accumulate == 0:
            tasks.append([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
            trained.optimiser.zero_grad()
    every = torch.cat(losses)
    total = (every * weights).sum() / recipe.batch
    sum_over_ranks([total, *(gradient for gradients in tasks for gradient in gradients)])
    _learn(trained.times, at, every)
    joined = balanced(tasks, (recipe.seed, trained.step)) if recipe.intervals > 1 else tasks[0]
    for parameter, gradient in zip(parameters, joined, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
    for group in trained.optimiser.param_groups:
        group["lr"] = recipe.rate * min(1.0, (trained.step + 1) / max(1, recipe.warmup))
    trained.optimiser.step()
    trained.optimiser.zero_grad()
    return float(total), float(norm)


def _slices(length: int, count: int) -> list[slice]:
    """`count` equal parts of a batch."""
    return [slice(a, b) for a, b in pairwise(range(0, length + 1, length // count))]


def _learn(times: TimeSampler, t: Tensor, losses: Tensor) -> None:
    """Tells the sampler of time steps every rank's losses, in the same order on each."""
    if times.kind == "uniform":
        return
    told = gathered(torch.stack([t.float(), losses.float()], dim=1)).cpu().numpy()
    times.learn(told[:, 0].astype(np.int64), told[:, 1])


def _last_words(trained: Trained, loss: float, norm: float, history: History) -> str:
    saved = history.newest()
    where = f"the last good checkpoint is that of step {saved.step}" if saved else "there is no checkpoint yet"
    course = f", after {trained.course.first:.4g} at first" if trained.course.worse else ""
    return (
        f"the loss of step {trained.step + 1} is {loss:.4g}{course}, and its gradient's norm {norm:.4g}: stopped; "
        f"{where} in {history.folder}. A lower rate may help."
    )
