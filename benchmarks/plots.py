"""Draws the committed rows in the one style of all our plots: green is ours, red a limit, yellow another task."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

from benchmarks.harness import Row, read_rows
from benchmarks.measured import (
    DEFAULT,
    TRUTH,
    UNCONDITIONAL,
    Measured,
    Swept,
    read_measured,
    read_sweep,
    rows_file,
    sweep_file,
)
from benchmarks.report import components, images_in, plotted, readable, seconds, threads_in_words
from benchmarks.reproduced import SUBJECTS, curves, points
from gdui.drawing import LIMIT, MARK, OTHER, OURS, PLOT

COLOURS = {"ours": OURS, "peer": OTHER, "limit": LIMIT, "mark": MARK}
OPINION, LABELS = "zero-shot (the opinion alone)", "gdui default"
METHOD_COLOURS = {UNCONDITIONAL: OTHER, DEFAULT: OURS, TRUTH: LIMIT}
OVER_STEPS = {
    "fid": "FID, logarithmic",
    "sfid": "sFID, logarithmic",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "asked_accuracy": "drawn as asked",
}
LOGARITHMIC, SHARES = ("fid", "sfid"), ("precision", "recall", "asked_accuracy")
FLIPPED = re.compile(r"(?P<name>.+?)(?: N=[\d,]+|, (?P<percent>\d+)% of votes flipped)$")


def saved(figure: Any, path: Path) -> None:
    """Written without a date: the same rows give the same bytes."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def bars(rows: list[Row], path: Path) -> None:
    """One bar a provider on a logarithmic axis of time, the limit as a line through all."""
    with plt.rc_context(PLOT | {"axes.grid.axis": "x"}):
        figure, axes = plt.subplots(figsize=(7.6, 1 + 0.36 * len(rows)), layout="constrained")
        for place, row in enumerate(reversed(rows)):
            axes.barh(place, row.p50, color=COLOURS[row.role], height=0.68)
            axes.annotate(f" {seconds(row.p50)}", (row.p50, place), va="center", fontsize=9)
        for row in rows:
            if row.role == "limit":
                axes.axvline(row.p50, color=LIMIT, linewidth=1, linestyle="--")
        names = [row.provider.removeprefix("limit: ") for row in reversed(rows)]
        for tick, row in zip(axes.set_yticks(range(len(rows)), names), reversed(rows), strict=True):
            if row.role != "peer":
                tick.label1.set(color=COLOURS[row.role], fontweight="bold" if row.role == "ours" else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda time, _: seconds(time))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(rows[0].p50 / 2, rows[-1].p50 * 3)
        axes.set_xlabel(f"time, logarithmic ({threads_in_words(rows[0].threads)})")
        axes.set_title(f"{rows[0].component.replace('_', ' ')}: {readable(rows[0].size)}")
        saved(figure, path)


def over_steps(found: dict[str, list[Measured]], path: Path) -> None:
    """Every score while training goes on."""
    steps = sorted({row.steps for rows in found.values() for row in rows})
    with plt.rc_context(PLOT):
        figure, panels = plt.subplots(2, 3, figsize=(7.6, 4.8), sharex=True, layout="constrained")
        for axes, (column, name) in zip(panels.flat, OVER_STEPS.items(), strict=True):
            for method, rows in found.items():
                scores = [getattr(row, column) for row in rows]
                axes.plot(steps, scores, label=method, marker="o", markersize=4, color=METHOD_COLOURS[method])
            axes.set_title(name)
            axes.set_xticks(steps)
            if column in LOGARITHMIC:
                axes.set_yscale("log")
            if column in SHARES:
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.supxlabel("training steps", fontsize=10)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=3)
        saved(figure, path)


def over_flips(rows: Iterable[Row], path: Path) -> None:
    """Right labels over the share of flipped votes, one colour a set: dashed the opinion, solid ours."""
    ways: dict[str, dict[str, list[tuple[float, float]]]] = {OPINION: {}, LABELS: {}}
    for row in rows:
        found = FLIPPED.fullmatch(row.size)
        if found and row.metric == "accuracy" and row.provider in ways:
            point = int(found["percent"] or 0) / 100, row.p50
            ways[row.provider].setdefault(found["name"], []).append(point)
    flipped = {name: sorted(points) for name, points in ways[LABELS].items() if len(points) > 1}
    if not flipped:
        return
    with plt.rc_context(PLOT):
        figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
        for name, ours in flipped.items():
            line = axes.plot(*zip(*ours, strict=True), marker="o", markersize=4, label=name)[0]
            opinion = sorted(ways[OPINION].get(name, []))
            axes.plot(*zip(*opinion, strict=True), linestyle="--", linewidth=1.1, color=line.get_color())
        axes.set(xlabel="share of the opinion's votes flipped", ylabel="share of right labels", ylim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_title("gdui's labels (solid) and the opinion they came from (dashed)")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        saved(figure, path)


def over_sigma(sweep: Sequence[Swept], rows: Iterable[tuple[float, Measured]], path: Path) -> None:
    """Right labels for every sigma; of generators trained on the labels of some, the FID and the right drawings."""
    with plt.rc_context(PLOT):
        figure, axes = plt.subplots(figsize=(7.6, 3.4), layout="constrained")
        labels = axes.plot([one.sigma for one in sweep], [one.label_accuracy for one in sweep], color=OURS)
        axes.set(xlabel="sigma", ylabel="share", xlim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.label.set_color(OURS)
        axes.set_title("Below sigma, an image of a doubtful cluster takes the opinion's label")
        if known := sorted(rows, key=lambda row: row[0]):
            beside, sigmas = axes.twinx(), [sigma for sigma, _ in known]
            labels += axes.plot(
                sigmas, [row.asked_accuracy for _, row in known], color=OURS, marker="s", linestyle="none"
            )
            labels += beside.plot(sigmas, [row.fid for _, row in known], color=LIMIT, marker="o", linestyle="none")
            beside.set(ylim=(0, 1.3 * max(row.fid for _, row in known)), ylabel="FID")
            beside.grid(visible=False)
            beside.yaxis.label.set_color(LIMIT)
            names = ["labels right, every sigma", "drawn as asked by a generator of them", "its FID (right)"]
            axes.legend(labels, names, frameon=False, fontsize=9)
        saved(figure, path)


def over_sizes(rows: Iterable[Row], path: Path) -> None:
    """The time of all stages that matter over the number of images, and what would be proportional to it."""
    stages: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.metric == "stage time" or (row.metric, row.provider) == ("time", "gdui"):
            name = row.provider if row.metric == "stage time" else "in all"
            stages.setdefault(name, []).append((int(images_in(row.size).replace(",", "")), row.p50))
    if len(whole := sorted(stages.get("in all", []))) < 2:
        return
    with plt.rc_context(PLOT):
        figure, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
        (first, _), (last, longest) = whole[0], whole[-1]
        colours = iter([MARK, "#4f7fc4", "#9567bd", "#4f8a2b", OTHER])
        for name, points in stages.items():
            if max(took for _, took in points) > longest / 100:
                bold = {"color": OURS, "linewidth": 2.4} if name == "in all" else {"color": next(colours)}
                axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=name, **bold)
        axes.plot([first, last], [longest * first / last, longest], color=LIMIT, linestyle="--", label="proportional")
        axes.set(
            xscale="log",
            yscale="log",
            ylim=(longest / 100, 2 * longest),
            xlabel="images, logarithmic",
            ylabel="time, logarithmic",
        )
        axes.yaxis.set_major_formatter(lambda time, _: seconds(time))
        axes.set_title("Learning takes the same whatever the number of images; the rest grows with it")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        saved(figure, path)


def draw(folder: Path) -> None:
    """Writes bench_<component>.svg for every component that has times, and the paper's figures 2 and 4 where known."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in components():
        if found := plotted(name):
            bars(sorted(found[0], key=lambda row: row.p50), folder / f"bench_{name}.svg")
    over_flips(read_rows("label_quality"), folder / "label_quality_flips.svg")
    over_sizes(read_rows("scale"), folder / "scale_sizes.svg")
    for subject in SUBJECTS:
        measured = read_measured(rows_file(subject))
        if found := curves(measured):
            over_steps(found, folder / f"reproduction_{subject}_steps.svg")
        if sweep := read_sweep(sweep_file(subject)):
            over_sigma(sweep, points(measured), folder / f"reproduction_{subject}_sigma.svg")
