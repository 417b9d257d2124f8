"""What a command of labelling tells of its work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gdui.labels import Labels
from gdui.labels.words import Diff

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command left in `folder`; `diff` says how the labels differ from those that were there before.

    left_out, examples: how many files of the source are no images by their suffix, and the first of them.

    The ledger of `labels.facts` has what this call did, and nothing of what an earlier one had done. Reading and
    decoding go on in several threads at once: their seconds are the threads' mean.
    """

    folder: Path
    labels: Labels
    left_out: int = 0
    examples: Sequence[str] = ()
    diff: Diff | None = None

    @property
    def bottleneck(self) -> str:
        """The stage that took longest."""
        ledger = self.labels.facts.ledger
        return max(ledger, key=lambda stage: ledger[stage][0]) if ledger else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for other programs."""
        facts, index = self.labels.facts, self.labels.label_index
        counts = np.bincount(index + 1, minlength=len(self.labels.classes) + 1).tolist()
        return {
            "labels": str(self.folder / "labels.parquet"),
            "images": len(self.labels),
            "quarantined": self.labels.quarantine.num_rows,
            "left_out": self.left_out,
            "left_out_examples": list(self.examples),
            "abstained": counts[0],
            "classes_without_cluster": self.labels.nameless,
            "classes": dict(zip(self.labels.classes, counts[1:], strict=True)),
            "estimated_accuracy": facts.accuracy,
            "clusters": len(facts.clusters),
            "criterion": dict(facts.criterion),
            "changed": dict(facts.changed),
            "relabelled": None if self.diff is None else self.diff.changed.num_rows,
            "ledger": {stage: {"seconds": took, "images": n} for stage, (took, n) in facts.ledger.items()},
            "bottleneck": self.bottleneck,
        }
