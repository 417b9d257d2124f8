"""Everything the page is told, as plain values."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdui import __version__
from gdui.config import SourceConfig
from gdui.labels import RULES, ClusterFacts, Labels
from gdui.labels.words import changes, judged, why
from gdui.report import measures
from gdui.report.choice import PINNED, Choice, choose
from gdui.report.pictures import SMALL, thumbnails
from gdui.report.projection import project

__all__ = ["Beside", "content"]

LARGE = 320
REASONS = 50
LEAST_TELLING = 4  # digits of a share


@dataclass(frozen=True)
class Beside:
    """What is known beside the labels; all of it may be missing.

    title: what the page is called.
    images: where the pictures are, as `gdui.images.open_source` takes it.
    reading: how they are read, where that leaves a doubt.
    sought: where they were looked for, in words, "" where nobody looked.
    features: vectors of the images [N, d], in the order of the labels: they make the map.
    truth: the true class of each image [N], -1 where nobody knows.
    quarantined: reason -> how many images could not be read for it.
    ledger: stage -> (seconds, images).
    """

    title: str = "labels"
    images: Any = None
    reading: SourceConfig = field(default_factory=SourceConfig)
    sought: str = ""
    features: Any = None
    truth: npt.NDArray[np.integer] | None = None
    quarantined: Mapping[str, int] = field(default_factory=dict)
    ledger: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def content(labels: Labels, beside: Beside) -> dict[str, Any]:
    """The page's data: numbers of all images, pictures of some; those are files that have no address yet."""
    chosen = choose(labels)
    place = {row: at for at, row in enumerate(chosen.rows.tolist())}
    images = _images(labels, chosen, beside)
    missing = sum(not file for file in images["picture"]) if beside.sought else 0
    return {
        "head": _head(labels, beside) | {"key": _key(labels, chosen), "missing": missing, "sought": beside.sought},
        "classes": _classes(labels, chosen, place),
        "clusters": [
            _cluster(facts, _places(chosen.top[at], place), _places(chosen.bottom[at], place))
            for at, facts in enumerate(labels.facts.clusters)
        ],
        "images": images,
        "map": _map(chosen, place, beside),
        "confidence": measures.confidence_histogram(labels),
        "sweep": measures.sigma_sweep(labels, beside.truth),
        "confusion": _confusions(labels, beside.truth),
        "review": _places(chosen.review, place),
        "rules": dict(RULES),
    }


def _head(labels: Labels, beside: Beside) -> dict[str, Any]:
    facts, label = labels.facts, labels.label_index
    opinion = labels.indices("clip_label")
    truth = None if beside.truth is None or (beside.truth < 0).all() else beside.truth
    return {
        "title": beside.title,
        "version": __version__,
        "encoder": facts.encoder,
        "preset": facts.configuration.get("preset", ""),
        "images": len(labels),
        "abstained": int((label < 0).sum()),
        "pinned": int((labels.indices("rule") == PINNED).sum()),
        "overruled": int(((label >= 0) & (opinion >= 0) & (label != opinion)).sum()),
        "quarantined": _most_frequent(beside.quarantined),
        "learned_from": facts.learned_from,
        "accuracy": _round(facts.accuracy) if (label >= 0).any() else None,
        "accuracy_how": facts.accuracy_how,
        "truth": None if truth is None else float((label == truth)[truth >= 0].mean()),
        "changed": changes(facts),
        "ledger": [[stage, *spent] for stage, spent in beside.ledger.items()],
    }


def _most_frequent(reasons: Mapping[str, int]) -> dict[str, int]:
    """Reasons that name a file's own numbers may be as many as the files."""
    ordered = sorted(reasons.items(), key=lambda one: -one[1])
    rest = sum(count for _, count in ordered[REASONS:])
    return dict(ordered[:REASONS]) | ({"other reasons": rest} if rest else {})


def _key(labels: Labels, chosen: Choice) -> str:
    """Tells this labelling from others, so that a browser keeps the progress of each apart."""
    shown = "\0".join(labels.ids.take(pa.array(chosen.rows)).to_pylist())
    names = "\0".join(labels.classes)
    return hashlib.blake2b(f"{names}\n{shown}".encode() + labels.label_index.tobytes(), digest_size=8).hexdigest()


def _classes(labels: Labels, chosen: Choice, place: Mapping[int, int]) -> list[dict[str, Any]]:
    label = labels.label_index
    kept = label >= 0
    sizes = np.bincount(label[kept], minlength=len(labels.classes))
    sums = np.bincount(label[kept], np.nan_to_num(labels.numbers("confidence")[kept]), minlength=len(sizes))
    warnings = measures.class_warnings(labels, sizes)
    held: dict[int, list[int]] = {}
    for at, cluster in enumerate(labels.facts.clusters):
        held.setdefault(cluster.matched, []).append(at)
    return [
        {
            "name": name,
            "images": int(sizes[at]),
            "confidence": _round(sums[at] / sizes[at]) if sizes[at] else None,
            "clusters": held.get(at, []),
            "surest": _places(chosen.surest[at], place),
            "least": _places(chosen.least[at], place),
            "relabelled": _places(chosen.relabelled[at], place),
            "warnings": warnings[at],
        }
        for at, name in enumerate(labels.classes)
    ]


def _cluster(facts: ClusterFacts, top: list[int], bottom: list[int]) -> dict[str, Any]:
    votes = sorted(facts.votes.items(), key=lambda one: (-one[1], one[0]))
    return {
        "images": facts.size,
        "matched": facts.matched,
        "votes": [list(one) for one in votes],
        "voters": facts.n_top,
        "margin": _round(facts.margin),
        "runner_up": facts.runner_up,
        "delta": _round(facts.delta),
        "delta_top": _round(facts.delta_top),
        "delta_btm": _round(facts.delta_btm),
        "r": _round(facts.r_btm),
        "name": judged(facts.branch),
        "top": top,
        "bottom": bottom,
        "warnings": measures.cluster_warnings(facts),
    }


def _images(labels: Labels, chosen: Choice, beside: Beside) -> dict[str, list[Any]]:
    """Columns of what is known of every image that is shown."""
    rows = chosen.rows
    some = labels.take(rows)
    table = some.table.to_pylist()
    ids = [row["id"] for row in table]
    large = set(chosen.review.tolist())
    sizes = {id_: LARGE if row in large else SMALL for id_, row in zip(ids, rows.tolist(), strict=True)}
    names = _names(labels, beside.images)
    files = {} if beside.images is None else thumbnails(beside.images, sizes, names, reading=beside.reading)
    truth = {} if beside.truth is None else {"truth": beside.truth[rows].tolist()}
    return {
        "id": ids,
        "label": some.label_index.tolist(),
        "matched": some.indices("matched_label").tolist(),
        "first": some.indices("clip_label").tolist(),
        "second": some.indices("clip_second").tolist(),
        "confidence": [_round(row["confidence"]) for row in table],
        "cluster": [row["cluster"] for row in table],
        "rule": [row["rule"] for row in table],
        "why": [why(row, labels.classes, labels.facts, RULES) for row in table],
        "picture": [files.get(id_, b"") for id_ in ids],
        **truth,
    }


def _names(labels: Labels, images: Any) -> list[str] | None:
    """Rows of an array are called as the labels call them."""
    rows = getattr(images, "shape", None)
    return labels.ids.to_pylist() if rows and rows[0] == len(labels) else None


def _map(chosen: Choice, place: Mapping[int, int], beside: Beside) -> dict[str, Any] | None:
    if beside.features is None or len(chosen.mapped) < 3:
        return None
    seen = beside.features.gather(chosen.mapped)
    if (wrong := ~np.isfinite(seen).all(axis=1)).any():
        raise ValueError(f"features must be finite numbers, but row {chosen.mapped[wrong][0]} holds NaN or infinity")
    places, method = project(seen)
    x, y = np.round(places.T, LEAST_TELLING).tolist()
    return {"method": method, "image": _places(chosen.mapped, place), "x": x, "y": y}


def _confusions(labels: Labels, truth: npt.NDArray[np.integer] | None) -> dict[str, Any]:
    others = {"opinion": labels.indices("clip_label")} | ({} if truth is None else {"truth": truth})
    return {
        name: measures.confusion(labels.label_index, column, len(labels.classes)) for name, column in others.items()
    }


def _places(rows: npt.NDArray[np.int64], place: Mapping[int, int]) -> list[int]:
    return [place[row] for row in rows.tolist()]


def _round(value: float | None) -> float | None:
    """JSON has no number for what is not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), LEAST_TELLING)
