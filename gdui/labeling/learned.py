"""What a labeler has learned, small beside its images: it labels any others in one pass, and goes to disk whole."""

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save_file
from scipy.optimize import brentq

from gdui.labeling.cluster import Assignment, Centroids, Heads, assign, assigned
from gdui.labeling.linear import Linear
from gdui.labeling.rows import Choice, choose, unit_rows
from gdui.labels import RULES
from gdui.runs import atomic_path

__all__ = ["Decision", "Learned", "calibrated", "confidences", "digest"]

Matrix = npt.NDArray[np.float32]
KINDS: dict[str, type[Centroids] | type[Heads]] = {"centroids": Centroids, "heads": Heads}
RULE = {name: at for at, name in enumerate(RULES)}
SCHEMA = 1
LOG_PRECISION = 1e-8  # of the sharpness
TENSORS, ABOUT = "learned.safetensors", "labeler.json"


class Decision(NamedTuple):
    """Each image's label, how sure that is, and the position in RULES of what decided [n] each."""

    label: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    rule: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Learned:
    """Everything that labels an image from its features [d] and the opinion of it [C].

    center: taken off the features before they are brought to length 1 [d].
    clusters: says which cluster an image falls into.
    names: the class of each cluster, -1 for none [K].
    floor: below this probability an image of the cluster takes the opinion's label; infinite for unvoted clusters [K].
    surety: how sure the opinion of a cluster's images and their neighbours is, on average [K].
    linear: the linear model that learned the graph's outcome; without it clusters and opinion decide.
    spread, sharpness: of the opinion's logs when it was learned, and what its log-odds are multiplied by.
    alone: where nothing bears the opinion out, it stands, and this is what its probabilities are multiplied by.
    """

    center: Matrix
    clusters: Centroids | Heads
    names: npt.NDArray[np.int64]
    floor: Matrix
    surety: Matrix
    linear: Linear | None = None
    spread: float = 1.0
    sharpness: float = 1.0
    alone: float | None = None

    @classmethod
    def blank(cls, features: Matrix, *, centred: bool) -> Self:
        """Nothing learned yet but where the features [n, d] have their middle."""
        d = features.shape[1]
        center = features.mean(axis=0, dtype=np.float64) if centred else np.zeros(d)
        nothing = np.empty(0, np.float32)
        return cls(
            center.astype(np.float32), Centroids(np.empty((0, d), np.float32)), np.empty(0, np.int64), nothing, nothing
        )

    def unit(self, features: npt.NDArray[np.floating]) -> Matrix:
        """The features [n, d] centred and at length 1."""
        return unit_rows(features, self.center)

    def refined(self, found: Assignment, said: Choice) -> Decision:
        """What the clusters' names and what the opinion `said` make of the images."""
        named, voted, most = self.names[found.cluster], said.first, said.most
        if self.alone is not None:
            return Decision(voted, most * np.float32(self.alone), np.full(len(voted), RULE["alone"], np.uint8))
        moved = (found.confidence < self.floor[found.cluster]) | (named < 0)
        unvoted = np.isinf(self.floor[found.cluster]) | (named < 0)
        rule = np.where(moved, np.where(unvoted, RULE["unvoted"], RULE["opinion"]), RULE["cluster"])
        confidence = np.where(moved, most, found.confidence)
        return Decision(np.where(moved, voted, named).astype(np.int32), confidence, rule.astype(np.uint8))

    def decide(self, unit: Matrix, opinion: Matrix, said: Choice) -> tuple[Assignment, Decision]:
        """The cluster and the label of new images, from unit features [n, d] and the opinion [n, C] that `said`."""
        odds = None if self.linear is None else self.linear.odds(unit, opinion, spread=self.spread)
        return self._decided(assign(self.clusters, unit), odds, said)

    def columns(self) -> list[Matrix]:
        """All that unit features are multiplied by [k, d] each; none where a network's head looks at them."""
        if isinstance(self.clusters, Heads):
            return []
        return [self.clusters.centers] + ([self.linear.by_features(len(self.center))] if self.linear else [])

    def decide_by(self, products: list[Matrix], opinion: Matrix, said: Choice) -> tuple[Assignment, Decision]:
        """The same from the products of unit features and `columns` [n, k]."""
        odds = None if self.linear is None else self.linear.odds_by(products[1], opinion, spread=self.spread)
        return self._decided(assigned(products[0], self.clusters.scale), odds, said)

    def _decided(self, found: Assignment, odds: Matrix | None, said: Choice) -> tuple[Assignment, Decision]:
        decided = self.refined(found, said)
        if odds is None:
            return found, decided
        learned = choose(odds, self.sharpness)
        return found, overruled(decided, learned.first, learned.share)

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Writes learned.safetensors, then labeler.json with `about`: numbers and plain text, nothing that can run."""
        folder.mkdir(parents=True, exist_ok=True)
        kind = next(name for name, kind in KINDS.items() if isinstance(self.clusters, kind))
        arrays = {"center": self.center, "names": self.names, "floor": self.floor, "surety": self.surety}
        arrays |= {f"clusters.{name}": value for name, value in _arrays(self.clusters).items()}
        arrays |= {f"linear.{name}": value for name, value in _arrays(self.linear).items()}
        numbers = {"kind": kind, "spread": self.spread, "sharpness": self.sharpness, "alone": self.alone}
        with atomic_path(folder / TENSORS) as path:
            save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, path)
            about = {"schema": SCHEMA, **about, "learned": numbers, "sha256": _sha256(path)}
        with atomic_path(folder / ABOUT) as path:
            path.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, dict[str, Any]]:
        """What `save` wrote, and its `about`."""
        try:
            about = json.loads((folder / ABOUT).read_text())
            if about["schema"] > SCHEMA:
                raise ValueError(
                    f"{folder} was written by a newer gdui (schema {about['schema']}; this one knows {SCHEMA})"
                )
            if about.get("sha256", "") not in ("", _sha256(folder / TENSORS)):
                raise ValueError(f"{folder / TENSORS} is damaged: its bytes are not those that were written")
            arrays, numbers = load((folder / TENSORS).read_bytes()), about.pop("learned")
            clusters = KINDS[numbers["kind"]](**_part(arrays, "clusters."))
            linear = Linear(**_part(arrays, "linear.")) if "linear.weight" in arrays else None
            given: dict[str, Any] = {name: arrays[name] for name in ("center", "names", "floor", "surety")}
            given |= {name: numbers[name] for name in ("spread", "sharpness", "alone")}
        except FileNotFoundError as error:
            raise ValueError(f"{folder} holds no labeler: there is no {error.filename}") from None
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds no labeler that can be read: {error!r}") from None
        return cls(**given, clusters=clusters, linear=linear), about


def digest(folder: Path) -> str:
    """Tells what `save` wrote from anything else that a labeler learned."""
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in (ABOUT, TENSORS))).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def overruled(before: Decision, label: npt.NDArray[np.integer], confidence: Matrix) -> Decision:
    """The decision with these labels and confidences; the rule changes only where the label does."""
    rule = np.where(label == before.label, before.rule, RULE["graph"]).astype(np.uint8)
    return Decision(label.astype(np.int32), confidence, rule)


def confidences(odds: Matrix, sharpness: float) -> Matrix:
    """The largest probability of each row of softmax(sharpness × odds) [n]."""
    return choose(odds, sharpness).share


def calibrated(odds: Matrix, accuracy: float) -> float:
    """The sharpness at which the mean confidence is `accuracy`; its logarithm stays within +-7.

    Without any rows there is nothing to measure it by, and it is 1.
    """
    if not len(odds):
        return 1.0

    @cache
    def excess(log: float) -> float:
        return float(confidences(odds, float(np.exp(log))).mean()) - accuracy

    low, high = -7.0, 7.0
    if excess(low) >= 0 or excess(high) <= 0:
        return float(np.exp(low if excess(low) >= 0 else high))
    return float(np.exp(brentq(excess, low, high, xtol=LOG_PRECISION)))


def _arrays(part: Centroids | Heads | Linear | None) -> dict[str, npt.NDArray[Any]]:
    return {} if part is None else {field.name: np.asarray(getattr(part, field.name)) for field in fields(part)}


def _part(arrays: dict[str, npt.NDArray[Any]], prefix: str) -> dict[str, Any]:
    found = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    return {name: value if value.ndim else float(value) for name, value in found.items()}
