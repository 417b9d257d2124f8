"""The report of labels, or of the run that left them."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui import checks
from gdui.config import SourceConfig
from gdui.images.readers import printable
from gdui.labeling.features import Features, load_features
from gdui.labels import Labels
from gdui.labels.pins import read_pins
from gdui.places import is_remote, place
from gdui.report.content import Beside, content
from gdui.report.page import page
from gdui.report.placed import placed
from gdui.runs import atomic_path, read_manifest

__all__ = ["report_labels", "report_run"]

NAME = "report.html"

log = logging.getLogger(__name__)


def report_labels(
    labels: Labels,
    path: str | os.PathLike[str] = NAME,
    *,
    images: Any = None,
    features: Any = None,
    truth: Mapping[str, str] | None = None,
    title: str = "labels",
) -> Path:
    """Writes one page by which a person can judge the labels; the arguments are those of `Labels.report`."""
    vectors = None if features is None else load_features(features)
    if vectors is not None and len(vectors) != len(labels):
        raise ValueError(f"features must be as many as the labels, {len(labels)}, not {len(vectors)}")
    true = None if truth is None else class_indices(labels, truth)
    sought = printable(os.fspath(images)) if isinstance(images, (str, os.PathLike)) else ""
    beside = Beside(
        title=printable(title),
        images=images,
        reading=SourceConfig.remembered(labels.facts.configuration, {}),
        sought=sought,
        features=vectors,
        truth=true,
        quarantined=_reasons(labels),
        ledger=labels.facts.ledger,
    )
    return _write(labels, Path(path), beside)


def report_run(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    images: Any = None,
    truth: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the report of the run in `folder`, there by default; that of a run on a store comes into this folder.

    Args:
        images: where the pictures are; by default where the run found them.
        truth: a CSV of id and label to compare with.
        settings: how the pictures are read, where the run read others: {"source.image_column": "photo"}.
    """
    folder = place(folder)
    labels, manifest = Labels.from_run(folder), read_manifest(folder)
    inputs = manifest["settings"].get("inputs", {})
    source = inputs.get("source")
    if images is not None and not _reachable(str(images)):
        raise ValueError(f"images must say where the pictures are, and there is no {str(images)!r}")
    if images is None and source is not None and not inputs.get("ready"):
        images = source
    sought = "" if images is None else str(images)
    reading = SourceConfig.remembered(manifest["settings"], settings or {})
    beside = Beside(
        title=folder.name if is_remote(folder) else folder.resolve().name,
        images=images if sought and _reachable(sought) else None,
        reading=reading,
        sought=printable(sought),
        features=_features(folder, labels, source if inputs.get("ready") else None),
        truth=None if truth is None else class_indices(labels, read_pins(truth)),
        quarantined=_reasons(labels),
        ledger={stage: tuple(spent) for stage, spent in manifest["stages"]["label"].get("ledger", {}).items()},
    )
    by_default = Path(NAME) if is_remote(folder) else folder / NAME
    return _write(labels, by_default if path is None else Path(path), beside)


def class_indices(labels: Labels, named: Mapping[str, str]) -> npt.NDArray[np.int32]:
    """The class that `named` gives each image [N], -1 for none; names that are no classes are refused."""
    known = {name: at for at, name in enumerate(labels.classes)} | {"": -1}
    if unknown := sorted(set(named.values()) - set(known)):
        meant = checks.did_you_mean(unknown[0], labels.classes)
        raise ValueError(f"truth names {unknown[0]!r}, which is none of the classes{meant}")
    given = pa.array(list(named), pa.large_string())
    at = np.asarray(pc.fill_null(pc.index_in(labels.ids, given), -1).to_numpy())
    if not (at >= 0).any():
        raise ValueError(f"truth knows none of the images: its ids look like {next(iter(named), '')!r}")
    codes = np.array([*(known[name] for name in named.values()), -1])
    return np.asarray(codes[at], np.int32)


def _write(labels: Labels, path: Path, beside: Beside) -> Path:
    told = content(labels, beside)
    shown = told["images"]
    with placed(shown["picture"], path) as (addresses, folder), atomic_path(path) as temporary:
        told |= {"images": shown | {"picture": addresses}, "head": told["head"] | {"folder": folder}}
        temporary.write_text(page(told, f"{beside.title}: gdui"), encoding="utf-8")
    if missing := told["head"]["missing"]:
        log.warning("%d of %d pictures were not found in %s", missing, len(shown["picture"]), beside.sought)
    return path


def _reachable(source: str) -> bool:
    """A local source may be gone by now; the report then has no pictures."""
    return "://" in source or "*" in source or "{" in source or Path(source).exists()


def _features(folder: Path, labels: Labels, ready: str | None) -> Features | None:
    """The vectors the run had, if they are still those of its labels."""
    vectors = folder / "features" if ready is None else place(ready)
    if not vectors.exists():
        return None
    found = load_features(vectors)
    return found if len(found) == len(labels) else None


def _reasons(labels: Labels) -> dict[str, int]:
    """How many images could not be read, for each reason."""
    counts = labels.quarantine.group_by("reason").aggregate([([], "count_all")])
    return {str(row["reason"]): row["count_all"] for row in counts.to_pylist()}
