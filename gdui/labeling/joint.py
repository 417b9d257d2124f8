"""SPICE stage 3: the images whose neighbours agree with them teach network and head together; the others follow.

Eq. 7 and 8 choose the reliable images, eq. 9 is the loss: cross-entropy of their weak views, and, of any image whose
weak view is surer than a threshold, cross-entropy of its strong view with what the weak one says.
"""

import copy
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdui.labeling.augment import draws
from gdui.labeling.looks import Looks, Pixels
from gdui.spice_config import JointConfig
from gdui.training.backbones import Backbone, settle
from gdui.training.history import History, Saved, optimiser_tensors, restore_optimiser
from gdui.training.order import rows_of
from gdui.training.precision import autocast
from gdui.training.ranks import check_groups, place, sum_over_ranks
from gdui.training.stopping import asked_to_stop, keep

__all__ = ["Head", "Joint", "Reliable", "choose", "step", "train_jointly"]

Matrix = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

log = logging.getLogger(__name__)


class Reliable(NamedTuple):
    """The images that teach: their rows, the cluster of each [n], and the bar that each cluster had [K]."""

    rows: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    bar: npt.NDArray[np.float64]

    @property
    def digest(self) -> str:
        """Tells these teachers from others."""
        return hashlib.blake2b(self.rows.tobytes() + self.cluster.tobytes(), digest_size=8).hexdigest()


class Head(nn.Module):
    """d-hidden-K on unit features, as stage 2 left it."""

    def __init__(self, hidden: Matrix, hidden_bias: Matrix, out: Matrix, out_bias: Matrix) -> None:
        super().__init__()
        weights = (hidden, hidden_bias.reshape(-1), out, out_bias.reshape(-1))
        self.weights = nn.ParameterList([nn.Parameter(torch.from_numpy(one.copy())) for one in weights])

    def forward(self, features: Tensor) -> Tensor:
        first, first_bias, second, second_bias = self.weights
        unit = F.normalize(features.float(), dim=1)
        return torch.addmm(second_bias, torch.addmm(first_bias, unit, first).relu(), second)

    def arrays(self) -> list[Matrix]:
        """The weights in the order they came in."""
        return [one.detach().cpu().numpy() for one in self.weights]


def choose(
    consistency: npt.NDArray[np.floating],
    cluster: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.floating],
    k: int,
    settings: JointConfig,
    given: npt.NDArray[np.integer] | None = None,
) -> Reliable:
    """The images whose consistency [N] reaches the bar (eq. 7), and every image whose cluster is given (else -1).

    Where fewer than `least` of a cluster's images reach it, the bar of that cluster goes down to the consistency of the
    best so many, so that no cluster is left without a teacher, and a warning says so. With `balance` each cluster keeps
    only as many, the surest, as the smallest has.
    """
    free = np.ones(len(cluster), bool) if given is None else given < 0
    sure = free & (confidence >= settings.confidence)
    bar = np.full(k, settings.consistency)
    rows: list[npt.NDArray[np.int64]] = []
    for c in range(k):
        mine = np.flatnonzero((cluster == c) & free)
        good = mine[sure[mine] & (consistency[mine] >= bar[c])]
        wanted = int(np.ceil(settings.least * len(mine)))
        if len(good) < wanted:
            best = mine[np.lexsort((mine, -confidence[mine], -consistency[mine]))][:wanted]
            good, bar[c] = np.sort(best), float(consistency[best].min())
        rows.append(good)
    if lowered := [c for c in range(k) if bar[c] < settings.consistency]:
        which = "all clusters" if len(lowered) == k else f"clusters {', '.join(map(str, lowered))}"
        log.warning("%s had too few reliable images: the bar went down to %.2f", which, bar.min())
    if settings.balance:
        smallest = min((len(one) for one in rows if len(one)), default=0)
        rows = [np.sort(one[np.lexsort((one, -confidence[one]))][:smallest]) for one in rows]
    chosen = np.concatenate(rows)
    labels = cluster[chosen].astype(np.int64)
    if given is not None:
        pinned = np.flatnonzero(given >= 0)
        chosen, labels = np.concatenate([chosen, pinned]), np.concatenate([labels, given[pinned].astype(np.int64)])
    order = np.argsort(chosen, kind="stable")
    return Reliable(chosen[order], labels[order], bar)


@dataclass
class Joint:
    """Network and head in the midst of their training: what a checkpoint holds."""

    network: nn.Sequential
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def begin(cls, trunk: Backbone, head: Head, settings: JointConfig, device: torch.device) -> "Joint":
        """Copies of both, which learn."""
        network = nn.Sequential(copy.deepcopy(trunk), copy.deepcopy(head)).requires_grad_(True).to(device)
        descent = torch.optim.SGD(
            network.parameters(), settings.rate, momentum=0.9, weight_decay=settings.decay, nesterov=True
        )
        return cls(network, descent)

    def saved(self, facts: dict[str, Any]) -> Saved:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return Saved(self.step, facts, tensors | optimiser_tensors(self.optimiser))

    def restore(self, saved: Saved) -> None:
        """Takes up where `saved` was written."""
        self.network.load_state_dict({k: saved.tensors[f"network.{k}"] for k in self.network.state_dict()})
        restore_optimiser(self.optimiser, saved.tensors)
        self.step = saved.step


def train_jointly(
    trunk: Backbone,
    head: Head,
    pixels: Pixels,
    looks: Looks,
    taught: Reliable,
    settings: JointConfig,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[Backbone, Head]:
    """Both networks after eq. 9 on `pixels` [N, H, W, 3], going on from the newest checkpoint in `folder`.

    A first Ctrl-C or SIGTERM ends it with a checkpoint of the step underway.

    Args:
        taught: the reliable images; all images, they among them, take part as unlabelled ones.
        progress: called after each step with the pictures shown so far and those of the whole training.
    """
    check_groups("joint", settings.groups)
    where = torch.device(device)
    state = Joint.begin(trunk, head, settings, where)
    recipe = asdict(settings) | {"seed": seed, "pictures": looks.fingerprint, "reliable": taught.digest}
    history, facts = History(folder), {"recipe": recipe}
    steps = max(1, settings.epochs * len(pixels) // settings.batch)
    if saved := history.resume(recipe, steps):
        state.restore(saved)
    state.network.train()
    with asked_to_stop() as asked:
        while state.step < steps:
            started = time.perf_counter()
            loss = step(state, pixels, looks, taught, settings, steps, seed)
            state.step += 1
            if place()[0] == 0:
                speed, rate = settings.batch / (time.perf_counter() - started), state.optimiser.param_groups[0]["lr"]
                history.record(step=state.step, loss=loss, rate=rate, pictures_per_second=speed)
            if progress:
                progress(state.step * settings.batch, steps * settings.batch)
            keep(state, history, facts, steps=steps, every=settings.save_every, asked=asked(), device=where)
    state.network.eval().requires_grad_(False)
    learned, top = cast(Backbone, state.network[0]), cast(Head, state.network[1])
    return settle(learned, partial(looks.batches, pixels, where)), top


def step(
    state: Joint, pixels: Pixels, looks: Looks, taught: Reliable, settings: JointConfig, steps: int, seed: int
) -> float:
    """One update by eq. 9; the loss. All views of a group share their batch norms, so none can be told by them."""
    rank, ranks = place()
    size = settings.batch // ranks
    mine, device = slice(rank * size, (rank + 1) * size), next(state.network.parameters()).device
    some = rows_of(state.step, len(taught.rows), settings.batch, seed)[mine]
    any_ = rows_of(state.step, len(pixels), settings.batch, seed + 1)[mine]
    u = [draws(settings.batch, seed, 10 + which, state.step)[mine] for which in range(3)]
    views = (
        looks.views(pixels[taught.rows[some]], u[0], device, looks.weak),
        looks.views(pixels[any_], u[1], device, looks.weak),
        looks.views(pixels[any_], u[2], device, looks.strong),
    )
    parts = zip(*(one.chunk(settings.groups // ranks) for one in views), strict=True)
    logits = (_logits(state.network, torch.cat(part)).chunk(3) for part in parts)
    reliable, weak, strong = map(torch.cat, zip(*logits, strict=True))
    own = F.cross_entropy(reliable, torch.from_numpy(taught.cluster[some]).to(device), reduction="sum")
    sure, says = weak.detach().softmax(dim=1).max(dim=1)
    follows = F.cross_entropy(strong, says, reduction="none") * (sure >= settings.threshold)
    loss = (own + follows.sum()) / settings.batch
    torch.autograd.backward(loss)
    total = loss.detach()
    sum_over_ranks([total, *(p.grad for p in state.network.parameters() if p.grad is not None)])
    for group in state.optimiser.param_groups:
        group["lr"] = settings.rate * float(np.cos(7 * np.pi * state.step / (16 * steps)))
    state.optimiser.step()
    state.optimiser.zero_grad()
    return float(total)


def _logits(network: nn.Sequential, views: Tensor) -> Tensor:
    """The trunk in mixed precision, the head in float32."""
    with autocast(views.device.type):
        features = network[0](views)
    return cast(Tensor, network[1](features))
