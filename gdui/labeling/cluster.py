"""Clusters of frozen features: k-means, and SPICE's heads trained by expectation and maximisation (stage 2).

N is the number of images, d of feature dimensions, K of clusters, H of heads. Nothing here holds N x K at once: of each
image only its cluster, the probability of that and the margin of its logit over the next one are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gdui import ops
from gdui.labeling import neighbors
from gdui.labeling.rows import choose

__all__ = [
    "Assignment",
    "Centroids",
    "HeadFit",
    "Heads",
    "assign",
    "assigned",
    "fit_centroids",
    "fit_heads",
    "pseudo_labels",
]

Matrix = npt.NDArray[np.float32]
Worth = Callable[[npt.NDArray[np.int32]], float]

BLOCK_CELLS = 1 << 24
SAMPLE = 4096  # images that a head's beginning is measured on


class Assignment(NamedTuple):
    """Each image's cluster, its probability there, and its logit's margin over the next cluster [N] each."""

    cluster: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Centroids:
    """Clusters around unit centroids [K, d]; the logit is `scale` times the cosine."""

    centers: Matrix
    scale: float = 1.0

    @classmethod
    def of(cls, features: Matrix, cluster: npt.NDArray[np.integer], k: int) -> "Centroids":
        """Around the mean feature of each cluster's images; an empty cluster stays at 0."""
        order = np.argsort(cluster, kind="stable")
        sums = np.zeros((k, features.shape[1]))
        present, start = np.unique(cluster[order], return_index=True)
        sums[present] = np.add.reduceat(features[order], start, axis=0, dtype=np.float64)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        return cls(np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0).astype(np.float32))

    def __call__(self, features: Matrix) -> Tensor:
        """Cosines [n, K] of unit features [n, d]; the logits are `scale` times these."""
        return torch.from_numpy(features) @ torch.from_numpy(self.centers).T

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(self.centers)


@dataclass(frozen=True)
class Heads:
    """One trained head: d-hidden-K, on unit features."""

    hidden: Matrix
    hidden_bias: Matrix
    out: Matrix
    out_bias: Matrix

    def __call__(self, features: Matrix) -> Tensor:
        """Logits [n, K] of unit features [n, d]."""
        first, first_bias, second, second_bias = map(
            torch.from_numpy, (self.hidden, self.hidden_bias, self.out, self.out_bias)
        )
        return torch.addmm(second_bias, torch.addmm(first_bias, torch.from_numpy(features), first).relu(), second)

    @property
    def k(self) -> int:
        """The number of clusters."""
        return int(self.out.shape[1])

    @property
    def scale(self) -> float:
        """What it gives are the logits themselves."""
        return 1.0


@dataclass(frozen=True)
class HeadFit:
    """The head that was kept, the loss of each in the last epoch [H], and how many empty clusters it had revived."""

    model: Heads
    losses: npt.NDArray[np.float64]
    kept: int
    revived: int


def assign(model: Centroids | Heads, features: Matrix) -> Assignment:
    """Where each of the unit features [N, d] belongs, ties to the lower cluster."""
    n = len(features)
    out = Assignment(np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32))
    step = max(1, BLOCK_CELLS // model.k)
    for at in range(0, len(features), step):
        found = assigned(model(features[at : at + step]).numpy(), model.scale)
        for whole, part in zip(out, found, strict=True):
            whole[at : at + step] = part
    return out


def assigned(scores: Matrix, scale: float) -> Assignment:
    """Where logits of scale × scores [n, K] put images, ties to the lower cluster."""
    chosen = choose(scores, scale)
    return Assignment(chosen.first, chosen.share, chosen.lead * np.float32(scale))


def fit_centroids(features: Matrix, k: int, *, seed: int, iterations: int = 25) -> Centroids:
    """k-means on unit features [N, d]; the scale makes the median margin 2, so half of the images are sure."""
    centers = neighbors.kmeans(features, k, seed=seed, iterations=iterations)
    return scaled(Centroids(centers), features)


def scaled(model: Centroids, features: Matrix) -> Centroids:
    """The same clusters with the median margin brought to 2."""
    median = float(np.median(assign(model, features).margin)) if model.k > 1 and len(features) else 0.0
    return Centroids(model.centers, 2 / median * model.scale if median > 0 else model.scale)


def fit_heads(
    features: Matrix,
    k: int,
    *,
    heads: int = 10,
    hidden: int = 512,
    batch: int = 5000,
    step: int = 128,
    epochs: int = 20,
    least_steps: int = 0,
    rate: float = 0.005,
    top_share: float = 0.5,
    seed: int = 0,
    given: Sequence[npt.NDArray[np.integer]] = (),
    agreed: int = 0,
    worth: Worth | None = None,
) -> HeadFit:
    """Trains `heads` clustering heads on unit features [N, d], all in one stack, and keeps the one of lowest loss.

    The first of them learn the clusters [N] in `given`, one each, in place of labels of their own. With `worth`, the
    head is kept whose clusters [N] are worth most: a low loss may also come from clusters of one size that cut through
    a class. In the last `agreed` epochs every head then learns what all say together, and the best head from before
    stays where none became worth more.

    Each batch of B images gets pseudo-labels from the head itself (see `pseudo_labels`); then Adam lowers the
    cross-entropy of the doubly soft-maxed scores. After an epoch a cluster that no image fell into takes over a copy
    of the largest one's output, slightly shaken, so that the two can part. No label takes part in any of it.
    `least_steps` gradient steps are made even if that takes more epochs.
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be between 1 and the {len(features)} rows of features, not {k}")
    random = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(features)
    weights = _initial(heads, rows, hidden, k, random)
    descent = torch.optim.Adam(weights, lr=rate, fused=True)
    revived = torch.zeros(heads, dtype=torch.int64)
    losses = torch.zeros(heads)
    epochs = max(epochs, -(-least_steps // -(-len(rows) // step)))
    alone = epochs if worth is None else max(1, epochs - agreed)
    candidates: list[_Candidate] = []
    for epoch in range(epochs):
        sizes = torch.zeros(heads, k)
        collected = []
        for chosen in _batches(len(rows), batch, random):
            x = rows[chosen]
            with torch.no_grad():
                scores = _forward(weights, x).softmax(dim=2)
            sizes += torch.nn.functional.one_hot(scores.argmax(dim=2), k).sum(dim=1)
            members = torch.stack([pseudo_labels(x, score, top_share) for score in scores])
            for head, clusters in enumerate(given):
                _draw_members(members[head], torch.from_numpy(clusters)[chosen], random)
            collected += _maximise(weights, descent, x, members, step, random)
        losses = torch.stack(collected).mean(dim=0)
        if epoch + 1 == alone < epochs:
            candidates = [_best(weights, features, losses, worth)]
            given = list(_in_common(weights, rows, candidates[0].at))
        if epoch < epochs - 1:
            revived += _revive(weights, sizes, random)
    best = max([_best(weights, features, losses, worth), *candidates], key=lambda one: one.worth)
    return HeadFit(best.head, losses.double().numpy(), best.at, int(revived[best.at]))


def pseudo_labels(features: Tensor, scores: Tensor, top_share: float = 0.5) -> Tensor:
    """Which of the B images are taken for each cluster: the B / K nearest to its prototype [K, B // K].

    The prototype is the mean feature of the cluster's best images by score, top_share of B / K of them. An image may be
    taken for several clusters, or for none.
    """
    b, k = scores.shape
    size = max(1, b // k)
    top = scores.topk(max(1, int(size * top_share)), dim=0).indices.T
    prototypes = torch.nn.functional.normalize(features[top].mean(dim=1), dim=1)
    return (features @ prototypes.T).topk(size, dim=0).indices.T


class _Candidate(NamedTuple):
    """A head that may be kept, its place among the others, and what decides."""

    head: Heads
    at: int
    worth: float


def _best(weights: list[Tensor], features: Matrix, losses: Tensor, worth: Worth | None) -> _Candidate:
    """The head that is worth most, or whose loss is lowest."""
    heads = [_head(weights, at) for at in range(len(losses))]
    worths = (-losses).tolist() if worth is None else [worth(assign(head, features).cluster) for head in heads]
    at = int(np.argmax(worths))
    return _Candidate(heads[at], at, worths[at])


@torch.no_grad()
def _in_common(weights: list[Tensor], rows: Tensor, base: int) -> npt.NDArray[np.integer]:
    """The clusters that the heads see together, each probability a vote, in every head's own numbers [H, N].

    A head's number for a cluster of head `base` is that whose images it shares most, one for one.
    """
    heads, hidden, k = weights[2].shape
    blocks = torch.split(rows, max(1, BLOCK_CELLS // (heads * max(hidden, k))))
    shared = torch.zeros(heads, k, k)
    for block in blocks:
        scores = _forward(weights, block).softmax(dim=2)
        shared += scores[base].T @ scores
    own = torch.from_numpy(np.stack([linear_sum_assignment(-one)[1] for one in shared.numpy()]))

    def voted(block: Tensor) -> Tensor:
        scores = _forward(weights, block).softmax(dim=2)
        return scores.gather(2, own[:, None].expand(-1, len(block), -1)).sum(dim=0).argmax(dim=1)

    return own[:, torch.cat([voted(block) for block in blocks])].numpy()


def _head(weights: list[Tensor], at: int) -> Heads:
    return Heads(*(value[at].squeeze(0).detach().numpy().copy() for value in weights))


def _initial(heads: int, rows: Tensor, hidden: int, k: int, random: torch.Generator) -> list[Tensor]:
    """He's initialisation for inputs of unit length, then every cluster's logit brought to mean 0 and variance 1.

    Left as drawn, a few outputs lie above all others for every image, and the other clusters begin empty or confused.
    """
    first = torch.randn(heads, rows.shape[1], hidden, generator=random) * 2**0.5
    second = torch.randn(heads, hidden, k, generator=random) * (2 / hidden) ** 0.5
    values = [first, torch.zeros(heads, 1, hidden), second, torch.zeros(heads, 1, k)]
    sample = rows[:: -(-len(rows) // SAMPLE)]
    logits = _forward(values, sample)
    spread, mean = torch.var_mean(logits, dim=1, keepdim=True, correction=0)
    scale = torch.where(spread > 1e-12, spread, 1).rsqrt()
    values[2], values[3] = second * scale, -mean * scale
    return [value.requires_grad_() for value in values]


def _draw_members(members: Tensor, clusters: Tensor, random: torch.Generator) -> None:
    """Fills each row of members [K, m] with images of that cluster, drawn by lot; one without images is left alone."""
    for row, drawn in enumerate(members):
        own = (clusters == row).nonzero().flatten()
        if len(own):
            drawn.copy_(own[torch.randint(len(own), drawn.shape, generator=random)])


def _forward(weights: list[Tensor], x: Tensor) -> Tensor:
    """Logits [H, n, K] of features [n, d], or [H, n, d] where each head has its own."""
    first, first_bias, second, second_bias = weights
    x = x.expand(len(first), *x.shape[-2:])
    return torch.baddbmm(second_bias, torch.baddbmm(first_bias, x, first).relu_(), second)


def _batches(n: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """A random order of all images in batches of almost equal size, at most `size`."""
    order = torch.randperm(n, generator=random)
    yield from order.tensor_split(-(-n // size))


def _maximise(
    weights: list[Tensor],
    descent: torch.optim.Optimizer,
    x: Tensor,
    members: Tensor,
    step: int,
    random: torch.Generator,
) -> list[Tensor]:
    """One pass of gradient steps over the pseudo-labels [H, K, m]; the loss of each head at every step."""
    heads, k, size = members.shape
    label = torch.arange(k).repeat_interleave(size)
    image = members.reshape(heads, -1)
    losses = []
    for part in torch.split(torch.randperm(k * size, generator=random), step):
        target = label[part].expand(heads, -1)
        loss = ops.cluster_loss(_forward(weights, x[image[:, part]]), target)
        descent.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        descent.step()
        losses.append(loss.detach())
    return losses


@torch.no_grad()
def _revive(weights: list[Tensor], sizes: Tensor, random: torch.Generator) -> Tensor:
    """Gives every empty cluster a shaken copy of the largest one's output; how many, for each head."""
    _, _, out, bias = weights
    for head, empty in (sizes == 0).nonzero().tolist():
        largest = int(sizes[head].argmax())
        spread = out[head, :, largest].std()
        out[head, :, empty] = out[head, :, largest] + 0.1 * spread * torch.randn(out.shape[1], generator=random)
        bias[head, 0, empty] = bias[head, 0, largest]
    return (sizes == 0).sum(dim=1)
