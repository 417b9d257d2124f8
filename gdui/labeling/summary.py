"""What a command of labelling tells of its work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdui.labels import Labels, Totals
from gdui.labels.words import Diff

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command left in `folder`; `diff` says how the labels differ from those that were there before.

    left_out, examples: how many files of the source are no images by their suffix, and the first of them.
    idle: how many of the run's corrections name no class that there is now; they are kept for when there is.

    ledger: stage -> (seconds, images): what this call did, and nothing of what an earlier one had done. Reading and
        decoding go on in several threads at once: their seconds are the threads' mean.
    """

    folder: Path
    totals: Totals
    ledger: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    left_out: int = 0
    examples: Sequence[str] = ()
    diff: Diff | None = None
    idle: int = 0

    @property
    def labels(self) -> Labels:
        """All of them, read anew."""
        return Labels.from_run(self.folder)

    @property
    def bottleneck(self) -> str:
        """The stage that took longest."""
        return max(self.ledger, key=lambda stage: self.ledger[stage][0]) if self.ledger else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for other programs."""
        facts, counts = self.totals.facts, self.totals.counts.tolist()
        return {
            "labels": str(self.folder / "labels.parquet"),
            "images": self.totals.images,
            "quarantined": self.totals.quarantine.num_rows,
            "left_out": self.left_out,
            "left_out_examples": list(self.examples),
            "abstained": counts[0],
            "idle_corrections": self.idle,
            "classes_without_cluster": self.totals.nameless,
            "classes": dict(zip(self.totals.classes, counts[1:], strict=True)),
            "estimated_accuracy": facts.accuracy,
            "clusters": len(facts.clusters),
            "criterion": dict(facts.criterion),
            "neighbors": facts.neighbors,
            "changed": dict(facts.changed),
            "relabelled": None if self.diff is None else self.diff.changed.num_rows,
            "ledger": {stage: {"seconds": took, "images": n} for stage, (took, n) in self.ledger.items()},
            "bottleneck": self.bottleneck,
        }
