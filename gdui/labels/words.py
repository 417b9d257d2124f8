"""Labels in words: why an image has its label, what the labelling came to, and how two of them differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui.labels.facts import ClusterFacts, Facts

if TYPE_CHECKING:
    from gdui.labels.table import Labels
    from gdui.labels.totals import Totals

__all__ = ["DOUBTFUL", "Diff", "changes", "counted", "diff", "judged", "listed", "shown", "summary", "why"]

LONGEST = 60
MOST_CLASSES = 40
EXAMPLES = 3
CHANGED = {
    "match": "match named {} of the images otherwise than the opinion's first choice",
    "refine": "refine relabelled {} of the images against the name of their cluster",
    "graph": "graph relabelled {} of the images",
}
DOUBTFUL = ("top bad", "bottom bad")
JUDGED = {
    "agreed": "not in doubt",
    "both good": "not in doubt",
    "top bad": "in doubt",
    "bottom bad": "in doubt",
    "no vote": "without a vote",
    "empty": "of no image",
}


def shown(text: str | None) -> str:
    """A name fit for one line on a terminal: no control characters, and not too long."""
    if text is None:
        return "nothing"
    clean = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[: LONGEST + 1])
    return clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + "…"


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def why(row: Mapping[str, Any], classes: list[str], facts: Facts, rules: Mapping[str, str]) -> str:
    """One paragraph on the row of one image: first what decided, then what the others say."""
    label = "no label" if row["label"] is None else shown(row["label"])
    because = "" if row["rule"] is None else f", because {rules[row['rule']]}"
    parts = [f"{shown(row['id'])}: {label}{_rate(' (confidence {})', row['confidence'])}{because}."]
    if row["clip_label"] is not None:
        second = f" and {shown(row['clip_second'])} second" if row["clip_second"] is not None else ""
        first = f"{shown(row['clip_label'])} first{_rate(' ({})', row['clip_confidence'])}"
        parts.append(f"The opinion, which sees this image alone, puts {first}{second}.")
    return " ".join(parts + _of_cluster(row, classes, facts))


def judged(branch: str) -> str:
    """What the refinement made of a cluster's name, in words."""
    return JUDGED.get(branch, branch)


def _of_cluster(row: Mapping[str, Any], classes: list[str], facts: Facts) -> list[str]:
    number = row["cluster"]
    if not 0 <= number < len(facts.clusters):
        return []
    cluster = facts.clusters[number]
    belongs = _rate(" with probability {}", row["cluster_confidence"])
    near = "" if row["consistency"] is None else f", as do {row['consistency']:.0%} of its nearest neighbours"
    place = f"It lies in cluster {number}, of {counted(cluster.size, 'image')},{belongs}{near}."
    return [place.replace(",.", "."), _of_match(cluster, classes), *_of_refinement(cluster, facts)]


def _of_refinement(cluster: ClusterFacts, facts: Facts) -> list[str]:
    """On delta and r: how far the opinion bears the cluster's name out, and what follows for its images."""
    if cluster.delta is None or cluster.r_btm is None:
        return []
    ends = ((cluster.delta_top, "surest"), (cluster.delta_btm, "least sure"))
    shares = " and ".join(f"{share:.0%} of its {which}" for share, which in ends if share is not None)
    text = (
        f"The opinion gives that name to {f'{shares} images, ' if shares else ''}{cluster.delta:.0%} on the whole "
        f"(delta). The least sure lie in the cluster with a mean probability of {cluster.r_btm:.2f} (r)"
    )
    verdict = f", so the name is {judged(cluster.branch)}" if cluster.branch else ""
    sigma = facts.configuration.get("refine", {}).get("sigma")
    if cluster.branch not in DOUBTFUL or sigma is None:
        return [f"{text}{verdict}."]
    if cluster.r_btm < sigma:
        return [f"{text}{verdict}; as that is below {sigma:g} (sigma), images below {sigma:g} follow the opinion."]
    return [f"{text}{verdict}; but as that is not below {sigma:g} (sigma), all its images keep the name."]


def _of_match(cluster: ClusterFacts, classes: list[str]) -> str:
    """On the votes behind the cluster's name."""
    if cluster.matched < 0:
        return "The cluster was matched to no class."
    name, votes = shown(classes[cluster.matched]), cluster.votes.get(cluster.matched, 0)
    text = f"The cluster is named {name}: {votes} of its {cluster.n_top} surest images vote for it"
    if cluster.n_top == 1:
        text = f"The cluster is named {name}, and its surest image {'votes' if votes else 'does not vote'} for it"
    if cluster.runner_up >= 0:
        others = "" if cluster.n_top == 1 else f", {cluster.votes.get(cluster.runner_up, 0)}"
        text += f"{others or ' but'} for {shown(classes[cluster.runner_up])}"
    return f"{text}."


def _rate(text: str, value: float | None) -> str:
    return "" if value is None else text.format(f"{value:.2f}")


def summary(labels: "Totals") -> str:
    """Some lines: totals, estimated accuracy, shares changed, and one line a class."""
    facts, total, none = labels.facts, labels.images, labels.counts[0]
    abstained = f"{none:,} abstained ({none / max(total, 1):.1%})"
    lines = [f"{counted(total, 'image')}, {len(labels.classes)} classes, {abstained}"]
    if unread := labels.quarantine.num_rows:
        first = listed(labels.quarantine["id"].slice(0, EXAMPLES).to_pylist()) + ", ..." * (unread > EXAMPLES)
        lines.append(f"{counted(unread, 'image')} could not be read: {first}")
    if facts.accuracy is not None and none < total:
        lines.append(
            f"estimated accuracy {facts.accuracy:.1%}{f' ({facts.accuracy_how})' if facts.accuracy_how else ''}"
        )
    elif facts.learned_from:
        lines.append(f"labelled by what was learned from {counted(facts.learned_from, 'other image')}")
    lines += changes(facts)
    if nameless := labels.nameless:
        lines.append(f"no cluster is named {listed(nameless)}")
    return "\n".join([*lines, *_per_class(labels)])


def changes(facts: Facts) -> list[str]:
    """For each stage which share of the images it changed, and against what."""
    other = "{stage} changed {} of the labels"  # that of another gdui
    return [CHANGED.get(stage, other).format(f"{share:.1%}", stage=stage) for stage, share in facts.changed.items()]


def _per_class(labels: "Totals") -> list[str]:
    counts, sums = labels.counts[1:], labels.sums[1:]
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    width = max((len(shown(labels.classes[at])) for at in order), default=0)
    lines = [
        f"  {shown(labels.classes[at]):<{width}}  {counts[at]:>10,}"
        + (f"  confidence {sums[at] / counts[at]:.2f}" if counts[at] else "")
        for at in order
    ]
    return lines + [f"  and {len(counts) - len(order)} classes more"] * (len(counts) > len(order))


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class Diff:
    """How new labels differ from old ones.

    changed: the images whose label differs: id, before, after, rule_before, rule_after.
    kept, added, removed: how many have the same label, are only in the new ones, only in the old ones.
    """

    changed: pa.Table
    kept: int
    added: int
    removed: int

    @classmethod
    def without_changes(cls, kept: int, *, added: int, removed: int) -> Self:
        """Where every image that is in both has its old label."""
        columns = ("id", "before", "after", "rule_before", "rule_after")
        return cls(pa.table({name: pa.array([], pa.large_string()) for name in columns}), kept, added, removed)

    def __str__(self) -> str:
        """The totals, then the most frequent changes and what decided on them."""
        total = self.kept + self.changed.num_rows
        lines = [f"{self.changed.num_rows:,} of {total:,} labels changed ({self.changed.num_rows / max(total, 1):.1%})"]
        moved = {"added": self.added, "removed": self.removed}
        lines += [f"{counted(number, 'image')} {how}" for how, number in moved.items() if number]
        keys = ["before", "after", "rule_after"]
        counts = self.changed.select(keys).group_by(keys).aggregate([([], "count_all")]).to_pylist()
        counts.sort(key=lambda row: (-row["count_all"], *(str(row[key]) for key in keys)))
        for row in counts[:20]:
            lines.append(
                f"  {row['count_all']:>8,}  {shown(row['before'])} -> {shown(row['after'])}  (by {row['rule_after']})"
            )
        return "\n".join(lines + [f"  and {len(counts) - 20} kinds of change more"] * (len(counts) > 20))


def diff(old: "Labels", new: "Labels") -> Diff:
    """What `new` says otherwise than `old`, image by image, whatever their order."""
    at = _positions(old, new)
    rows = np.flatnonzero(at >= 0)
    left, right = _texts(old, at[rows]), _texts(new, rows)
    same = pc.fill_null(pc.equal(left["label"], right["label"]), False)
    both_none = pc.and_(pc.is_null(left["label"]), pc.is_null(right["label"]))
    changed = pc.invert(pc.or_(same, both_none))
    table = pa.table(
        {
            "id": right["id"],
            "before": left["label"],
            "after": right["label"],
            "rule_before": left["rule"],
            "rule_after": right["rule"],
        }
    ).filter(changed)
    kept = len(rows) - table.num_rows
    return Diff(table, kept, added=len(new) - len(rows), removed=len(old) - len(rows))


def _positions(old: "Labels", new: "Labels") -> npt.NDArray[np.int64]:
    """For every row of `new` the row of `old` with the same id, or -1."""
    if old.ids.equals(new.ids):
        return np.arange(len(new))
    found = pc.index_in(new.ids, old.ids.combine_chunks())
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def _texts(labels: "Labels", rows: npt.NDArray[np.int64]) -> pa.Table:
    taken = labels.table.select(["id", "label", "rule"]).take(pa.array(rows))
    return taken.cast(pa.schema([("id", pa.large_string()), ("label", pa.large_string()), ("rule", pa.string())]))
