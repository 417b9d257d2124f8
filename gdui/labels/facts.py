"""What is known of a labelling beyond its rows: where it comes from, its clusters, how good it should be."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

__all__ = ["ClusterFacts", "Facts"]


@dataclass(frozen=True)
class ClusterFacts:
    """One cluster: how it got its name, and whether that name was to be doubted.

    matched: the class it is named after, -1 for none.
    votes: class -> how many of its `n_top` surest images the opinion gives to that class; zeros left out.
    margin, runner_up: by how much of a vote the match won, and over which class (-1 for none).
    delta, delta_top, delta_btm: share of votes for the matched class, weighted, among the surest, the least sure.
    r_btm: the mean probability with which its least sure images lie in it.
    branch: which way the refinement went.
    """

    size: int
    matched: int = -1
    votes: Mapping[int, int] = field(default_factory=dict)
    n_top: int = 0
    margin: float | None = None
    runner_up: int = -1
    delta: float | None = None
    delta_top: float | None = None
    delta_btm: float | None = None
    r_btm: float | None = None
    branch: str = ""


@dataclass(frozen=True)
class Facts:
    """The labelling as a whole.

    encoder, clustered_by: the encoder of the names, and the one that saw what was clustered, "" for the same.
    encoder_hash, named_hash: tell the encoders of the features and of the opinion, "" where nobody knows.
    configuration: plain values, as `Config.to_dict` gives them.
    learned_from: how many images the labels were learned from, 0 where nobody knows.
    accuracy, accuracy_how: the share of right labels as estimated without any label, and by what means.
    criterion: number of clusters -> how far they stand out, for the numbers that were tried.
    neighbors: how each image's neighbours were found, and where that was left to us, why so.
    changed: stage -> the share of labels it changed. Neither is known of images that were not learned from.
    ledger: stage -> (seconds, images). It is the one thing that differs from run to run, so no file keeps it.
    """

    encoder: str = ""
    encoder_hash: str = ""
    named_hash: str = ""
    clustered_by: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    clusters: Sequence[ClusterFacts] = ()
    learned_from: int = 0
    accuracy: float | None = None
    accuracy_how: str = ""
    criterion: Mapping[int, float] = field(default_factory=dict)
    neighbors: str = ""
    changed: Mapping[str, float] = field(default_factory=dict)
    ledger: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    def of_others(self) -> Self:
        """What holds for images that were not learned from as well."""
        return dataclasses.replace(self, accuracy=None, accuracy_how="", changed={})

    def to_json(self) -> str:
        """All but the ledger, the same text for the same facts."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "ledger"}
        return json.dumps(plain, default=_plain)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The facts that `to_json` wrote."""
        plain = json.loads(text)
        clusters = [_cluster(one) for one in plain.pop("clusters")]
        criterion = {int(k): value for k, value in plain.pop("criterion", {}).items()}
        return cls(**plain, clusters=clusters, criterion=criterion)


def _cluster(plain: dict[str, Any]) -> ClusterFacts:
    votes = {int(name): int(count) for name, count in plain.pop("votes").items()}
    return ClusterFacts(**plain, votes=votes)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"facts must hold plain values, not {type(value).__name__}")
