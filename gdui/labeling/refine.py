"""Label-matching refinement: which samples take the opinion's label instead of the name their cluster was matched to.

N is the number of samples, K of clusters, C of classes. The opinion names one class a sample (CLIP's, in the paper).

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

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui import _core, checks
from gdui.labeling.refine_cuda import reader, refine_on_gpu

__all__ = ["Branch", "Refinement", "Rule", "Sweep", "refine", "sweep"]

Vector = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]
Arrays = tuple[Labels, npt.NDArray[np.floating], npt.NDArray[np.floating], Labels, npt.NDArray[np.int32]]

MOST_CLASSES = 1 << 24
MOST_CELLS = 1 << 26


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


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Sweep:
    """What `refine` would give for each of S values of sigma.

    sigma: the values [S].
    changed: samples whose label isn't their cluster's name [S].
    class_size: samples of each class [S, C].
    agreement: share of all samples whose label is the opinion's [S].
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

    cluster: [N] whole numbers in [0, K).   confidence: [N], each sample's probability of its own cluster, or any other
        finite number that sigma can be held against.
    opinion: [N], the class the opinion gives each sample.   class_of_cluster: [K], -1 for none.
    sigma: below what confidence a doubtful cluster's samples take the opinion's class.
    n: how many samples of each kind judge a cluster, at most; at least 1.
    weights: of delta_top and delta_btm, at least 0 and not both 0.
    lambda_delta, lambda_top, lambda_btm: what the rule holds the shares against, from 0 to 1.
    on_mismatch: what becomes of a cluster whose name got no vote among its most confident samples, or that has no
        name: "keep" treats it as any other, "relabel" hands all its samples to the opinion.
    Where any array is on a GPU (CuPy, torch, all with DLPack) the work is done there, and the result is CuPy arrays.

    rank_by: [N], what to choose the most and least confident by where the probabilities saturate at 1 (logit margins).
    threads: as many as the cores if not given; the answer is the same.
    """
    workers = checks.thread_count(threads)
    threshold = checks.in_range("sigma", sigma, -np.inf, np.inf)
    policy = _policy(n, weights, lambda_delta, lambda_top, lambda_btm, on_mismatch)
    if any(map(checks.on_gpu, (cluster, confidence, opinion, class_of_cluster, rank_by))):
        there = _arrays(cluster, confidence, opinion, class_of_cluster, rank_by, reader())
        return Refinement(*refine_on_gpu(*there, MOST_CLASSES, policy, threshold))
    here = _arrays(cluster, confidence, opinion, class_of_cluster, rank_by, checks.on_cpu)
    arrays = (*here, _classes(here, None, workers))
    return Refinement(*_core.refine(*arrays, policy, threshold, workers))


def sweep(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    opinion: npt.ArrayLike,
    class_of_cluster: npt.ArrayLike,
    *,
    sigma: npt.ArrayLike | None = None,
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
    """What `refine` would give for many values of sigma, in about the time of one; the arguments are those of `refine`.

    All arrays must be on the CPU.

    sigma: ascending values [S]; without them 0, 0.01, ... 1.
    n_classes: C; without it the largest class seen plus one.
    """
    workers = checks.thread_count(threads)
    policy = _policy(n, weights, lambda_delta, lambda_top, lambda_btm, on_mismatch)
    here = _arrays(cluster, confidence, opinion, class_of_cluster, rank_by, checks.on_cpu)
    arrays = (*here, _classes(here, n_classes, workers))
    steps = _steps(sigma)
    if len(steps) * arrays[-1] > MOST_CELLS:
        raise ValueError(
            f"n_classes must be at most {MOST_CELLS // len(steps)} for {len(steps)} values of sigma, not {arrays[-1]}"
        )
    changed, agreeing, class_size = _core.sweep(*arrays, policy, steps, workers)
    samples = max(len(arrays[0]), 1)
    return Sweep(steps, changed, class_size.reshape(len(steps), arrays[-1]), agreeing / samples)


def _steps(sigma: npt.ArrayLike | None) -> Vector:
    if sigma is None:
        return np.arange(101) / 100
    steps = checks.array("sigma", sigma, 1).astype(np.float64)
    if (np.diff(steps) < 0).any():
        raise ValueError("sigma must be ascending")
    return steps


def _policy(
    n: int,
    weights: tuple[float, float],
    lambda_delta: float,
    lambda_top: float,
    lambda_btm: float,
    on_mismatch: str,
) -> _core.Policy:
    if checks.on_cpu("weights", weights, 1).shape != (2,):
        raise ValueError(f"weights must be two numbers, not {weights!r}")
    top, btm = (checks.in_range("weights", weight, 0, 1e6) for weight in weights)
    if top + btm == 0:
        raise ValueError("weights must not both be 0")
    return _core.Policy(
        n=min(checks.whole("n", n, 1), 1 << 62),
        weight_top=top / (top + btm),
        weight_btm=btm / (top + btm),
        lambda_delta=checks.in_range("lambda_delta", lambda_delta, 0, 1),
        lambda_top=checks.in_range("lambda_top", lambda_top, 0, 1),
        lambda_btm=checks.in_range("lambda_btm", lambda_btm, 0, 1),
        relabel_no_vote=checks.one_of("on_mismatch", on_mismatch, ("keep", "relabel")) == "relabel",
    )


def _arrays(
    cluster: npt.ArrayLike,
    confidence: npt.ArrayLike,
    opinion: npt.ArrayLike,
    class_of_cluster: npt.ArrayLike,
    rank_by: npt.ArrayLike | None,
    read: Callable[[str, npt.ArrayLike, int], npt.NDArray[Any]],
) -> Arrays:
    """What the core is handed, on either device, in its order; it looks at the values of the N-sized ones itself."""
    labels = checks.indices("cluster", cluster, ranged=False, read=read)
    scores = checks.array("confidence", confidence, 1, finite=False, read=read)
    voted = checks.indices("opinion", opinion, ranged=False, read=read)
    names = checks.indices("class_of_cluster", class_of_cluster, MOST_CLASSES, lowest=-1, read=read).astype(np.int32)
    if len(names) > checks.MOST_CLUSTERS:
        raise ValueError(f"class_of_cluster must be of at most {checks.MOST_CLUSTERS} clusters, not {len(names)}")
    key = scores if rank_by is None else checks.array("rank_by", rank_by, 1, finite=False, read=read)
    checks.same_length(cluster=labels, confidence=scores, opinion=voted, rank_by=key)
    return labels, scores, key, voted, names


def _classes(arrays: Arrays, n_classes: int | None, threads: int) -> int:
    """How many classes there are: as many as are said, or as are seen."""
    _, _, _, voted, names = arrays
    if n_classes is None:
        high = max(_core.range_of(voted, threads)[1], int(names.max(initial=-1)))
        if high >= MOST_CLASSES:
            checks.ranged_numbers("opinion", voted, 0, MOST_CLASSES)
        n_classes = high + 1
    classes = checks.whole("n_classes", n_classes, 0, MOST_CLASSES)
    checks.indices("class_of_cluster", names, classes, lowest=-1)
    return classes
