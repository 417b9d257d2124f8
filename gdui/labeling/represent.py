"""SPICE stage 1: a network learns from pictures alone which of them look alike (MoCo v2).

Two random views of a picture are brought together, and held apart from a queue of views of other pictures. One network
makes the queries and learns; the keys come from its running average.
"""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdui import ops
from gdui.labeling.augment import draws
from gdui.labeling.looks import Looks, Pixels
from gdui.spice_config import RepresentConfig
from gdui.training.backbones import Backbone, backbone, centre, settle
from gdui.training.history import History, Saved, optimiser_tensors, restore_optimiser
from gdui.training.order import rows_of
from gdui.training.precision import autocast, compiled
from gdui.training.ranks import check_groups, gathered, place, sum_over_ranks
from gdui.training.stopping import asked_to_stop, keep

__all__ = ["Contrast", "represent", "step"]

Progress = Callable[[int, int], None]
WARMUP = 20  # steps


@dataclass
class Contrast:
    """Both networks in the midst of their training, and the queue of keys: what a checkpoint holds."""

    query: nn.Sequential
    key: nn.Sequential
    queue: Tensor
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def begin(cls, looks: Looks, settings: RepresentConfig, seed: int, device: torch.device) -> "Contrast":
        """Fresh weights, the same in both networks, and a queue of random directions."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trunk = backbone(settings.backbone, looks.channels, side=looks.side)
            projection = nn.Sequential(nn.Linear(trunk.dim, trunk.dim), nn.ReLU(), nn.Linear(trunk.dim, settings.width))
            queue = F.normalize(torch.randn(settings.queue, settings.width), dim=1).to(device)
        query = nn.Sequential(trunk, projection).to(device).to(memory_format=torch.channels_last)
        key = copy.deepcopy(query).requires_grad_(False)
        descent = torch.optim.SGD(query.parameters(), settings.rate, momentum=0.9, weight_decay=settings.decay)
        return cls(query, key, queue, descent)

    def saved(self, facts: dict[str, Any]) -> Saved:
        tensors = {f"query.{name}": value for name, value in self.query.state_dict().items()}
        tensors |= {f"key.{name}": value for name, value in self.key.state_dict().items()}
        return Saved(self.step, facts, tensors | {"queue": self.queue} | optimiser_tensors(self.optimiser))

    def restore(self, saved: Saved) -> None:
        """Takes up where `saved` was written."""
        for name, network in (("query", self.query), ("key", self.key)):
            network.load_state_dict({k: saved.tensors[f"{name}.{k}"] for k in network.state_dict()})
        self.queue.copy_(saved.tensors["queue"])
        restore_optimiser(self.optimiser, saved.tensors)
        self.step = saved.step


def represent(
    pixels: Pixels,
    looks: Looks,
    settings: RepresentConfig,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Backbone:
    """A network taught by `pixels` [N, H, W, C] alone, going on from the newest checkpoint in `folder`.

    Under torchrun each rank takes its part of every batch; the sum is the same batch as one process would see. A first
    Ctrl-C or SIGTERM ends it with a checkpoint of the step underway.

    Args:
        looks: how pictures are looked at: their channels, their range, their views.
        progress: called after each step with the pictures shown so far and those of the whole training.
    """
    settings = _fitting(settings, len(pixels))
    check_groups("represent", settings.groups)
    rank = place()[0]
    state = Contrast.begin(looks, settings, seed, torch.device(device))
    history, facts = History(folder), {"recipe": asdict(settings) | {"seed": seed, "pictures": looks.fingerprint}}
    steps = max(1, settings.epochs * len(pixels) // settings.batch)
    if saved := history.resume(facts["recipe"], steps):
        state.restore(saved)
    forwards = [compiled(network.train(), settings.compile) for network in (state.query, state.key)]
    with asked_to_stop() as asked:
        while state.step < steps:
            started = time.perf_counter()
            loss = step(state, forwards[0], forwards[1], pixels, looks, settings, steps, seed)
            state.step += 1
            if rank == 0:
                speed, rate = settings.batch / (time.perf_counter() - started), _rate(settings, state.step, steps)
                history.record(step=state.step, loss=loss, rate=rate, pictures_per_second=speed)
            if progress:
                progress(state.step * settings.batch, steps * settings.batch)
            keep(
                state, history, facts, steps=steps, every=settings.save_every, asked=asked(), device=state.queue.device
            )
    taught = state.key if settings.average else state.query
    plain = partial(looks.batches, pixels, state.queue.device)
    return centre(settle(cast(Backbone, taught[0]), plain), plain())


def step(
    state: Contrast,
    query: Callable[..., Any],
    key: Callable[..., Any],
    pixels: Pixels,
    looks: Looks,
    settings: RepresentConfig,
    steps: int,
    seed: int,
) -> float:
    """One update of the weights, of their average and of the queue; the loss.

    Shuffled batch norm: a group of keys comes from pictures of all groups of queries. Every rank knows the shuffle and
    makes the views of its own keys itself, so only finished keys travel.
    """
    rank, ranks = place()
    size, groups = settings.batch // ranks, settings.groups // ranks
    mine, device = slice(rank * size, (rank + 1) * size), state.queue.device
    rows = rows_of(state.step, len(pixels), settings.batch, seed)
    shuffled = np.random.default_rng([seed, 1, state.step]).permutation(settings.batch)
    of_query, of_key = (draws(settings.batch, seed, 2 + which, state.step) for which in range(2))
    q = _embedded(query, looks.views(pixels[rows[mine]], of_query[mine], device), groups)
    with torch.no_grad():
        theirs = shuffled[mine]
        found = _embedded(key, looks.views(pixels[rows[theirs]], of_key[theirs], device), groups)
        keys = torch.empty_like(state.queue[: settings.batch])
        keys[torch.from_numpy(shuffled).to(device)] = gathered(found)
    loss = ops.info_nce(q, keys[mine], state.queue, settings.temperature).sum() / settings.batch
    loss.backward()  # type: ignore[no-untyped-call]
    total = loss.detach()
    sum_over_ranks([total, *(p.grad for p in state.query.parameters() if p.grad is not None)])
    for group in state.optimiser.param_groups:
        group["lr"] = _rate(settings, state.step, steps)
    state.optimiser.step()
    state.optimiser.zero_grad()
    with torch.no_grad():
        torch._foreach_lerp_(list(state.key.parameters()), list(state.query.parameters()), 1 - settings.momentum)
        at = state.step * settings.batch % len(state.queue)
        state.queue[at : at + settings.batch] = keys
    return float(total)


def _embedded(network: Callable[..., Any], x: Tensor, groups: int) -> Tensor:
    """Unit vectors [B, width]; every group of pictures has batch norms of its own."""
    with autocast(x.device.type):
        found = torch.cat([network(part) for part in x.chunk(groups)])
    return F.normalize(found.float(), dim=1)


def _rate(settings: RepresentConfig, step: int, steps: int) -> float:
    """Half a cosine, after a short climb."""
    return settings.rate * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def _fitting(settings: RepresentConfig, pictures: int) -> RepresentConfig:
    """Neither a batch nor the queue, which is in whole batches, holds a picture twice, if there are enough of them."""
    if pictures < 2:
        raise ValueError(f"pixels must hold at least two pictures to tell apart, not {pictures}")
    most = max(pictures // settings.groups, 2) * settings.groups
    batch = min(settings.batch, most)
    return replace(settings, batch=batch, queue=max(batch, min(settings.queue, pictures) // batch * batch))
