"""What the page says in numbers about all images: histograms, confusions, what another sigma would give, warnings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gdui.labels import ClusterFacts, Labels
from gdui.labels.words import DOUBTFUL

__all__ = ["class_warnings", "cluster_warnings", "confidence_histogram", "confusion", "sigma_sweep"]

Indices = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

BINS = 25
STEPS = 101
MOST_CELLS = 40
PAIRS = 60
NARROW = 0.1
UNVOTED = "no vote"


def confidence_histogram(labels: Labels) -> dict[str, list[int]]:
    """Images by confidence in bins of equal width: where the label is the opinion's, and where it is another."""
    sure, label = labels.numbers("confidence"), labels.label_index
    known = ~np.isnan(sure) & (label >= 0)
    at = np.minimum((np.clip(sure[known], 0, 1) * BINS).astype(np.int64), BINS - 1)
    agree = label[known] == labels.indices("clip_label")[known]
    return {name: np.bincount(at[kind], minlength=BINS).tolist() for name, kind in (("same", agree), ("other", ~agree))}


def confusion(rows: Indices, columns: Indices, classes: int) -> dict[str, Any]:
    """How often `rows` names one class where `columns` names another: the whole table, or its largest cells."""
    both = (rows >= 0) & (columns >= 0)
    cells, counts = np.unique(rows[both].astype(np.int64) * classes + columns[both], return_counts=True)
    row, column = np.divmod(cells, classes)
    same = int(counts[row == column].sum())
    about: dict[str, Any] = {"images": int(both.sum()), "same": same}
    if classes <= MOST_CELLS:
        table = np.zeros((classes, classes), np.int64)
        table[row, column] = counts
        return about | {"table": table.tolist()}
    apart = np.flatnonzero(row != column)
    largest = apart[np.argsort(-counts[apart], kind="stable")][:PAIRS]
    return about | {"pairs": np.stack([row[largest], column[largest], counts[largest]], 1).tolist()}


def sigma_sweep(labels: Labels, truth: Indices | None) -> dict[str, Any] | None:
    """What the refinement would give for every sigma: the share it relabels, and its agreement with the opinion.

    A doubtful cluster hands an image to the opinion once sigma is above both the image's probability and the cluster's
    r; so each image has one sigma from which on it is relabelled, and one histogram of those answers for all.
    """
    clusters, cluster = labels.facts.clusters, labels.numbers("cluster")
    opinion = labels.indices("clip_label")
    here = (cluster >= 0) & (cluster < len(clusters)) & (opinion >= 0)
    if not clusters or not here.any():
        return None
    name = np.array([one.matched for one in clusters])[cluster[here]]
    start = _relabelled_from(clusters)[cluster[here]]
    start = np.where(
        np.isfinite(start), np.maximum(start, np.nan_to_num(labels.numbers("cluster_confidence")[here])), start
    )
    start[name < 0] = -np.inf
    first = np.searchsorted(np.arange(STEPS) / (STEPS - 1), start, side="right")
    said = opinion[here]

    def share(kept: Bools, moved: Bools, of: Bools) -> list[float]:
        """Of these images: those for which `kept` holds until they are relabelled, and `moved` from then on."""
        before = np.bincount(first[of], kept[of], minlength=STEPS + 1).cumsum()
        after = np.bincount(first[of], moved[of], minlength=STEPS + 1).cumsum()
        return [round(float(one), 5) for one in ((kept[of].sum() - before + after)[:STEPS] / max(of.sum(), 1))]

    nothing, everything = np.zeros(len(name), bool), np.ones(len(name), bool)
    curves = {
        "relabelled": share(nothing, everything, everything),
        "agreement": share(name == said, everything, everything),
    }
    if truth is not None:
        true = truth[here]
        curves["accuracy"] = share(name == true, said == true, true >= 0)
    settings = labels.facts.configuration
    graph = bool(settings.get("graph", {}).get("enabled"))
    return {"now": settings.get("refine", {}).get("sigma"), "graph": graph, "curves": curves}


def _relabelled_from(clusters: Sequence[ClusterFacts]) -> npt.NDArray[np.float64]:
    """The sigma from which on a cluster hands images to the opinion: its r, at once, or never."""
    start = np.full(len(clusters), np.inf)
    for at, one in enumerate(clusters):
        if one.branch == UNVOTED:
            start[at] = -np.inf
        elif one.branch in DOUBTFUL and one.r_btm is not None:
            start[at] = one.r_btm
    return start


def cluster_warnings(cluster: ClusterFacts) -> list[str]:
    """What to look at before believing the cluster's name."""
    if not cluster.size:
        return ["no image lies in it"]
    if cluster.matched < 0:
        return ["it is named after no class"]
    mine = cluster.votes.get(cluster.matched, 0)
    rival = max((count for name, count in cluster.votes.items() if name != cluster.matched), default=0)
    found = ["nobody voted for its name"] if not mine else []
    if mine and rival > mine:
        found.append("more of its votes are for another class")
    elif mine and (mine - rival) < NARROW * max(cluster.n_top, 1):
        found.append("its name won narrowly")
    return found + (["doubtful: the refinement looked at it"] if cluster.branch in DOUBTFUL else [])


def class_warnings(labels: Labels, sizes: npt.NDArray[np.int64]) -> list[list[str]]:
    """For each class what is odd about it."""
    classes, clusters = len(labels.classes), [one for one in labels.facts.clusters if one.size]
    usual = max(1.0, len(clusters) / max(classes, 1))
    held = np.bincount([one.matched for one in clusters if one.matched >= 0], minlength=classes)
    found: list[list[str]] = []
    for at in range(classes):
        mine = [] if sizes[at] else ["no image has this label"]
        if clusters and not held[at]:
            mine.append("no cluster is named after it")
        elif held[at] >= 2 and held[at] > 1.5 * usual:
            mine.append(f"split over {held[at]} clusters, where {round(usual, 1):g} are usual")
        found.append(mine)
    return found
