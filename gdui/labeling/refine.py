"""Label-matching refinement: which samples take the opinion's label instead of the name their cluster was matched to.

N is the number of samples, K of clusters, C of classes. The opinion names one class a sample; in the paper it is CLIP's.

Each cluster m is judged by its most and its least confident samples (a tenth of it each, at most n, at least one):

    delta_top, delta_btm   share of them whose opinion is the cluster's name
    delta_m                (w_top delta_top + w_btm delta_btm) / (w_top + w_btm)
    r_btm                  mean confidence of the least confident ones

    delta_m > lambda_delta                                       agreed:     keep
    else delta_top < lambda_top                                  top bad:    relabel
    else delta_btm < lambda_btm                                  bottom bad: relabel
    else                                                         both good:  keep (the case the paper leaves open)

To relabel is the same in both bad branches: if r_btm < sigma, the samples whose confidence is below sigma take the
opinion's class. So the whole tree says: a cluster that isn't agreed or good, and whose r_btm is below sigma, hands its
samples below sigma to the opinion.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from gdui import checks

__all__ = ["Branch", "Refinement", "Rule", "Sweep", "refine", "sweep"]

Vector = npt.NDArray[np.float64]


class Branch(IntEnum):
    """Where a cluster came out of the tree."""

    EMPTY = 0
    AGREED = 1
    BOTH_GOOD = 2
    TOP_BAD = 3
    BOTTOM_BAD = 4
    NO_VOTE = 5


class Rule(IntEnum):
    """Why a sample has its label."""

    MATCHED = 0
    OPINION = 1
    NO_VOTE = 2
    UNNAMED = 3


@dataclass(frozen=True)
class Refinement:
    """The refined labels, and the reason for each.

    label_index: the class of each sample, -1 for none [N, int32].
    rule: a `Rule` for each sample [N, uint8].
    branch: a `Branch` for each cluster [K, uint8].
    delta_top, delta_btm, r_btm: what the branch was chosen by [K]; NaN for a cluster without samples.
    """

    label_index: npt.NDArray[np.int32]
    rule: npt.NDArray[np.uint8]
    branch: npt.NDArray[np.uint8]
    delta_top: Vector
    delta_btm: Vector
    r_btm: Vector


@dataclass(frozen=True)
class Sweep:
    """What `refine` would give for each of 101 values of sigma.

    sigma: 0, 0.01, ... 1 [101].
    changed: samples whose label isn't their cluster's name [101].
    class_size: samples of each class [101, C].
    agreement: share of all samples whose label is the opinion's [101].
    """

    sigma: Vector
    changed: npt.NDArray[np.int64]
    class_size: npt.NDArray[np.int64]
    agreement: Vector


def refine(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    opinion: npt.ArrayLike,
    class_of_cluster: npt.ArrayLike,
    *,
    sigma: float = 0.5,
    n: int = 100,
    weights: tuple[float, float] = (0.5, 0.5),
    lambda_delta: float = 0.95,
    lambda_top: float = 0.9,
    lambda_btm: float = 0.9,
    on_mismatch: str = "keep",
    rank_by: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> Refinement:
    """Refines the matched labels with the opinion's; the module's docstring is the rule.

    cluster: [N] whole numbers in [0, K).   confidence: [N], each sample's probability of its own cluster.
    opinion: [N], the class the opinion gives each sample.   class_of_cluster: [K], -1 for none.
    weights: of delta_top and delta_btm.
    on_mismatch: what becomes of a cluster whose name got no vote among its most confident samples, or that has no
        name: "keep" treats it as any other, "relabel" hands all its samples to the opinion.
    rank_by: [N], what to choose the most and least confident by where the probabilities saturate at 1 (logit margins).
    """
    checks.thread_count(threads)
    k = len(np.asarray(class_of_cluster))
    names = checks.indices("class_of_cluster", class_of_cluster, lowest=-1)
    labels = checks.indices("cluster", cluster, k)
    scores = checks.array("confidence", confidence, 1).astype(np.float64)
    voted = checks.indices("opinion", opinion)
    checks.same_length(cluster=labels, confidence=scores, opinion=voted)
    key = scores if rank_by is None else checks.array("rank_by", rank_by, 1, length=len(labels)).astype(np.float64)
    checks.one_of("on_mismatch", on_mismatch, ("keep", "relabel"))
    w_top, w_btm = weights
    agrees = voted == names[labels]
    size = np.bincount(labels, minlength=k)
    quota = np.minimum(n, (size + 9) // 10)

    def chosen(sign: float) -> npt.NDArray[np.bool_]:
        order = np.lexsort((np.arange(len(labels)), sign * key, labels))
        rank = np.empty(len(labels), dtype=np.int64)
        rank[order] = np.arange(len(labels)) - np.repeat(np.concatenate([[0], np.cumsum(size)])[:-1], size)
        return rank < quota[labels]

    with np.errstate(invalid="ignore"):
        top, btm = chosen(-1), chosen(1)
        delta_top = np.bincount(labels[top], agrees[top], k) / quota
        delta_btm = np.bincount(labels[btm], agrees[btm], k) / quota
        r_btm = np.bincount(labels[btm], scores[btm], k) / quota
    delta = (w_top * delta_top + w_btm * delta_btm) / (w_top + w_btm)
    branch = np.select(
        [
            size == 0,
            (delta_top == 0) & (on_mismatch == "relabel"),
            delta > lambda_delta,
            delta_top < lambda_top,
            delta_btm < lambda_btm,
        ],
        [Branch.EMPTY, Branch.NO_VOTE, Branch.AGREED, Branch.TOP_BAD, Branch.BOTTOM_BAD],
        Branch.BOTH_GOOD,
    ).astype(np.uint8)
    below = np.where((branch >= Branch.TOP_BAD) & (r_btm < sigma), sigma, -np.inf)
    below[branch == Branch.NO_VOTE] = np.inf
    moved = scores < below[labels]
    label = np.where(moved, voted, names[labels]).astype(np.int32)
    rule = np.where(
        moved,
        np.where(branch == Branch.NO_VOTE, Rule.NO_VOTE, Rule.OPINION)[labels],
        np.where(label < 0, Rule.UNNAMED, Rule.MATCHED),
    )
    return Refinement(label, rule.astype(np.uint8), branch, delta_top, delta_btm, r_btm)


def sweep(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    opinion: npt.ArrayLike,
    class_of_cluster: npt.ArrayLike,
    *,
    n: int = 100,
    weights: tuple[float, float] = (0.5, 0.5),
    lambda_delta: float = 0.95,
    lambda_top: float = 0.9,
    lambda_btm: float = 0.9,
    on_mismatch: str = "keep",
    rank_by: npt.ArrayLike | None = None,
    n_classes: int | None = None,
    threads: int | None = None,
) -> Sweep:
    """What `refine` would give for 101 values of sigma from 0 to 1, in about the time of one; arguments as there.

    n_classes: C; without it the largest class seen plus one.
    """
    sigmas = np.arange(101) / 100
    voted, names = np.asarray(opinion), np.asarray(class_of_cluster)
    c = max(int(voted.max(initial=-1)), int(names.max(initial=-1))) + 1 if n_classes is None else n_classes
    outcomes = [
        refine(
            cluster,
            confidence,
            opinion,
            class_of_cluster,
            sigma=sigma,
            n=n,
            weights=weights,
            lambda_delta=lambda_delta,
            lambda_top=lambda_top,
            lambda_btm=lambda_btm,
            on_mismatch=on_mismatch,
            rank_by=rank_by,
        ).label_index
        for sigma in sigmas
    ]
    base = names[np.asarray(cluster)]
    return Sweep(
        sigmas,
        np.array([(o != base).sum() for o in outcomes]),
        np.array([np.bincount(o[o >= 0], minlength=c) for o in outcomes]),
        np.array([(o == voted).mean() if o.size else np.nan for o in outcomes]),
    )
