"""Names for clusters and what they rest on: the votes that count, the marriage, the refinement, and the facts to tell.

N is the number of images, K of clusters, C of classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from gdui.config import RefineConfig
from gdui.labeling.cluster import Assignment
from gdui.labeling.match import Matching, stable_match
from gdui.labeling.refine import Branch, Refinement, refine
from gdui.labeling.select import Selection, most_confident, priority_table, quota
from gdui.labels import ClusterFacts
from gdui.labels.words import listed

__all__ = ["Naming", "cluster_facts", "cluster_means", "floors", "name_clusters", "refined_by"]

Matrix = npt.NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Naming:
    """The class of each cluster [K], -1 for none, by the share of votes among its surest images [K, C]."""

    names: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    priority: npt.NDArray[np.float64]
    top: Selection
    matching: Matching


def name_clusters(found: Assignment, opinion: Matrix, k: int, *, most: int, classes: Sequence[str]) -> Naming:
    """Marries clusters to `classes`; clusters left over take the class most of their surest images vote for."""
    sizes = np.bincount(found.cluster, minlength=k)
    top = most_confident(found.cluster, found.margin, quota(sizes, most), n_clusters=k)
    votes = opinion[top.index].argmax(axis=1)
    priority = priority_table(votes, top.cluster, opinion.shape[1], n_clusters=k)
    mean = _mean_opinion(opinion, top, k)
    matching = stable_match(priority, tie_break=mean)
    names = matching.class_of_cluster.copy()
    left = np.flatnonzero((names < 0) & (sizes > 0))
    names[left] = (priority[left] + 1e-6 * mean[left]).argmax(axis=1)
    if len(matching.unmatched_classes):
        log.warning("no cluster is left for %s", listed([classes[at] for at in matching.unmatched_classes]))
    return Naming(names, sizes, priority, top, matching)


def refined_by(naming: Naming, found: Assignment, opinion: Matrix, settings: RefineConfig, most: int) -> Refinement:
    """The refinement of the named clusters; its labels, and how each cluster was judged."""
    return refine(
        found.cluster,
        found.confidence,
        opinion.argmax(axis=1),
        naming.names,
        sigma=settings.sigma,
        n=most,
        weights=(settings.weight, 1 - settings.weight),
        lambda_delta=settings.lambda_delta,
        lambda_top=settings.lambda_top,
        lambda_btm=settings.lambda_btm,
        on_mismatch=settings.unvoted,
        rank_by=found.margin,
    )


def floors(judged: Refinement, sigma: float) -> Matrix:
    """Below which probability each cluster hands its images to the opinion: sigma, nothing, or all of them [K]."""
    doubtful = np.isin(judged.branch, (Branch.TOP_BAD, Branch.BOTTOM_BAD)) & (judged.r_btm < sigma)
    floor = np.where(doubtful, sigma, 0.0)
    floor[judged.branch == Branch.NO_VOTE] = np.inf
    return floor.astype(np.float32)


def cluster_means(value: Matrix, cluster: npt.NDArray[np.integer], k: int) -> Matrix:
    """The mean of a value [N] over each cluster's images, 0 where there are none [K]."""
    sums = np.bincount(cluster, value.astype(np.float64), minlength=k)
    return (sums / np.maximum(np.bincount(cluster, minlength=k), 1)).astype(np.float32)


def cluster_facts(naming: Naming, judged: Refinement, settings: RefineConfig) -> list[ClusterFacts]:
    """What there is to tell of each cluster."""
    counts = np.rint(naming.priority * naming.top.size[:, None]).astype(np.int64)
    delta = settings.weight * judged.delta_top + (1 - settings.weight) * judged.delta_btm
    return [
        ClusterFacts(
            size=int(naming.sizes[k]),
            matched=int(naming.names[k]),
            votes={int(c): int(counts[k, c]) for c in np.flatnonzero(counts[k])},
            n_top=int(naming.top.size[k]),
            margin=_known(naming.matching.margin[k]),
            runner_up=_runner_up(counts[k], int(naming.names[k])),
            delta=_known(delta[k]),
            delta_top=_known(judged.delta_top[k]),
            delta_btm=_known(judged.delta_btm[k]),
            r_btm=_known(judged.r_btm[k]),
            branch=Branch(int(judged.branch[k])).name.lower().replace("_", " "),
        )
        for k in range(len(naming.names))
    ]


def _mean_opinion(opinion: Matrix, top: Selection, k: int) -> npt.NDArray[np.float64]:
    """The mean opinion of each cluster's surest images [K, C]."""
    share = np.repeat(1 / np.maximum(top.size, 1), top.size)
    pick = sparse.csr_array((share, top.index, top.offset), shape=(k, len(opinion)))
    return np.asarray(pick @ opinion.astype(np.float64), np.float64)


def _runner_up(counts: npt.NDArray[np.int64], name: int) -> int:
    others = counts.copy()
    if name >= 0:
        others[name] = 0
    return int(others.argmax()) if others.any() else -1


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
