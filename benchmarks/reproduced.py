"""The seed paper's tables beside ours, in words and numbers, from the committed rows."""

from collections.abc import Collection, Iterable
from statistics import mean, stdev
from typing import NamedTuple

from benchmarks.measured import (
    CURVED,
    DEFAULT,
    LMR,
    METHODS,
    PLG,
    PLM,
    SIGMAS,
    TRUTH,
    UNCONDITIONAL,
    Measured,
    grid_file,
    options_of,
    read_measured,
    read_sweep,
    rows_file,
    sweep_file,
)
from gdui.evaluation.comparing import comparable

__all__ = ["SUBJECTS", "claims", "curves", "points", "reproduction", "scores_table"]

COLUMNS = {
    "fid": "FID",
    "fid_infinity": "FID, N to infinity",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "label_accuracy": "labels right",
    "asked_accuracy": "drawn as asked",
}
SHORT = ("fid", "label_accuracy", "asked_accuracy")
# FID, sFID, IS, precision and recall on STL-10.
PUBLISHED = {
    UNCONDITIONAL: (26.81, 48.74, 9.76, 0.59, 0.45),
    TRUTH: (17.20, 48.55, 11.40, 0.72, 0.41),
    PLG: (18.74, 48.67, 10.86, 0.69, 0.38),
    PLM: (18.73, 48.66, 10.85, 0.69, 0.38),
    LMR: (16.66, 48.44, 11.64, 0.74, 0.39),
}
COMPARED = ("fid", "sfid", "inception_score", "precision", "recall")
BY_OPTIONS = "{network}; labels are found through {encoder}"


class About(NamedTuple):
    """What a subject's table is about: its heading, its pictures, what its scores look through, what made its rows."""

    heading: str
    pictures: str
    network: str
    machine: str = ""


SUBJECTS = {
    "digits": About(
        "the digits",
        "pictures of 8 x 8 pixels",
        "the shipped encoder that knows printed digits only: these FIDs have another scale than Inception's",
        " on two cores, other work beside them",
    ),
    "stl10-64": About("STL-10 at 64 pixels, a short budget", "pictures of 64 x 64 pixels", BY_OPTIONS),
    "stl10-96": About("STL-10, a short budget", "pictures of 96 x 96 pixels", BY_OPTIONS),
}
INTRODUCTION = """## The paper's tables on {about.heading}

Written from `results/reproduction/{subject}.csv`, which `python benchmarks/reproduce.py {command}` makes row by row.
Every row trains the same small network on the same {references:,} {about.pictures} for {steps:,} steps, \
draws {samples:,} pictures with the
same sampler, and is seen by the same network, {network}. *Drawn as asked* is what a judge says, trained on true labels
and used for nothing else (right for {judge:.1%} of pictures it never saw). PLG are the clusters of preset `paper`, PLM
names them, and LMR's repair makes the preset whole. Clusters without names (k-means, PLG) are read by the best mapping,
which needs the truth. The sampler's steps and guidance are the same for all; those of the digits were chosen by the
scores of the model of true labels. Mean and standard deviation of {seeds}. All rows of the table together took
{minutes:.0f} minutes{about.machine}."""


def alike(rows: Iterable[Measured]) -> list[Measured]:
    """Rows that stand side by side, refused where they were not made with as many pictures."""
    found = list(rows)
    named = {f"{row.method}, seed {row.seed}, {row.steps} steps": row for row in found}
    comparable(named, ("samples", "references"))
    return found


def final(rows: list[Measured]) -> dict[str, list[Measured]]:
    """Method -> the rows of its seeds after the last step, all made with as many samples as the others."""
    last = max((row.steps for row in rows), default=0)
    chosen = alike(row for row in rows if row.steps == last and row.method in METHODS)
    return {method: found for method in METHODS if (found := [row for row in chosen if row.method == method])}


def curves(rows: list[Measured]) -> dict[str, list[Measured]]:
    """Method -> the rows of its first seed while training went on, where there is more than the last."""
    first = sorted((row for row in rows if row.seed == 0), key=lambda row: row.steps)
    found = {method: [row for row in first if row.method == method] for method in CURVED}
    drawn = {method: of_method for method, of_method in found.items() if len(of_method) > 1}
    alike(row for of_method in drawn.values() for row in of_method)
    return drawn


def points(rows: list[Measured]) -> list[tuple[float, Measured]]:
    """(sigma, the row of the generator that learned from its labels)."""
    named = {f"sigma {sigma:g}": sigma for sigma in SIGMAS}
    return [(named[row.method], row) for row in alike(row for row in rows if row.method in named)]


def average(rows: list[Measured], column: str) -> float:
    return mean(getattr(row, column) for row in rows)


def spread(rows: list[Measured], column: str) -> str:
    """Mean and standard deviation, as many digits as they deserve."""
    values = [getattr(row, column) for row in rows]
    middle = mean(values)
    if middle != middle:
        return ""
    digits = 2 if abs(middle) >= 2 else 3
    return f"{middle:.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(header: list[str], lines: list[list[str]]) -> str:
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, align, *lines])


def scores_table(rows: list[Measured], columns: Collection[str] = tuple(COLUMNS)) -> str:
    """A line for each method, its seeds in brackets, and how many pictures each drew; nothing where there is no row."""
    found = final(rows)
    if not found:
        return ""
    lines = [
        [f"{method} ({len(of_method)})", *(spread(of_method, column) for column in columns)]
        for method, of_method in found.items()
    ]
    samples = next(iter(found.values()))[0].samples
    return markdown([f"{samples:,} pictures each (seeds)", *(COLUMNS[column] for column in columns)], lines)


def beside_the_paper(rows: list[Measured]) -> str:
    """Each score as a share of the unconditional model's: only ratios can be compared between two data sets."""
    found = final(rows)
    names = [COLUMNS[column] for column in COMPARED]
    header = ["as a share of the unconditional row", *(f"{name}: paper / ours" for name in names)]
    lines = []
    for method, published in PUBLISHED.items():
        if method in found and method != UNCONDITIONAL:
            shares = [
                f"{theirs / base:.2f} / {average(found[method], column) / average(found[UNCONDITIONAL], column):.2f}"
                for column, theirs, base in zip(COMPARED, published, PUBLISHED[UNCONDITIONAL], strict=True)
            ]
            lines.append([method, *shares])
    return markdown(header, lines) if lines else ""


def claims(rows: list[Measured]) -> str:
    """What the paper claims, and what came out, each in a sentence whose numbers are the rows'."""
    found = final(rows)
    if not {UNCONDITIONAL, TRUTH, DEFAULT, LMR, PLG, PLM} <= set(found):
        return ""
    fid = {method: average(one, "fid") for method, one in found.items()}
    right = {method: average(found[method], "label_accuracy") for method in (PLM, LMR)}
    sfids = [average(one, "sfid") for one in found.values()]
    labelled = [method for method in found if method != UNCONDITIONAL]
    by_labels = sorted(labelled, key=lambda method: -average(found[method], "label_accuracy"))
    by_fid = sorted(labelled, key=lambda method: fid[method])
    asked = average(found[DEFAULT], "asked_accuracy")
    sentences = [
        f"*Labels found without a label guide as well as true ones.* FID {fid[DEFAULT]:.2f} with our labels,"
        f" {fid[TRUTH]:.2f} with the true ones, {fid[UNCONDITIONAL]:.2f} without any: a share of"
        f" {fid[DEFAULT] / fid[UNCONDITIONAL]:.2f}, where the paper has 0.62.",
        f"*PLM and FID.* PLM only renames clusters, so it can't change what is drawn: {fid[PLG]:.2f} before and"
        f" {fid[PLM]:.2f} after it differ by the noise of training twice.",
        f"*Repair.* LMR takes the share of right labels from {right[PLM]:.3f} to {right[LMR]:.3f}, and FID from"
        f" {fid[PLM]:.2f} to {fid[LMR]:.2f}; in the paper from 18.73 to 16.66, below that of true labels.",
        f"*sFID* ranges from {min(sfids):.2f} to {max(sfids):.2f} over all methods; in the paper from 48.44 to 48.74,"
        " which tells nothing apart.",
        f"*FID and right labels.* The order by FID {'is' if by_labels == by_fid else 'is not'} the order by right"
        f" labels: {', '.join(by_fid)}. What right labels give is pictures of what was asked for:"
        f" {asked:.3f} of them with our labels.",
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def figures(subject: str, rows: list[Measured]) -> str:
    """What was drawn, and the plots that `benchmarks/plots.py` makes of the rows there are."""
    parts = []
    if grid_file(subject).exists():
        parts.append(f"![Drawn by the generators of each method](../docs/figures/{grid_file(subject).name})")
    if curves(rows):
        about = "The scores while training goes on"
        parts.append(f"![{about}](../docs/figures/reproduction_{subject}_steps.svg)")
    if read_sweep(sweep_file(subject)):
        parts.append(f"![Right labels and FID over sigma](../docs/figures/reproduction_{subject}_sigma.svg)")
    return "\n\n".join(parts)


def reproduction() -> str:
    """A section for each subject of which rows are committed."""
    return "\n\n".join(section for subject in SUBJECTS if (section := of_subject(subject)))


def of_subject(subject: str) -> str:
    rows = read_measured(rows_file(subject))
    found = final(rows)
    if UNCONDITIONAL not in found:
        return ""
    one, about = found[UNCONDITIONAL][0], SUBJECTS[subject]
    network = about.network.format_map(options_of(subject))
    alone = {len(of_method) for of_method in found.values()} == {1}
    introduction = INTRODUCTION.format(
        subject=subject,
        about=about,
        command=subject.partition("-")[0],
        network=network,
        references=one.references,
        steps=one.steps,
        samples=one.samples,
        minutes=sum(row.seconds for of_method in found.values() for row in of_method) / 60,
        judge=one.judge_accuracy,
        seeds="one seed: no spread is known yet" if alone else "the seeds that a row has, their number beside it",
    )
    tables = (scores_table(rows), beside_the_paper(rows), claims(rows), figures(subject, rows))
    return "\n\n".join([introduction, *filter(None, tables)])
