"""Draws the committed rows in the one style of all our plots: green is ours, red a limit, yellow another task."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

from benchmarks.harness import RESULTS, Row, read_rows
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
from benchmarks.report import headlines, readable, seconds, threads_in_words
from benchmarks.reproduced import SUBJECTS, curves, points
from gdui.drawing import LIMIT, OTHER, OURS, PLOT

MARK = "#a87900"
COLOURS = {"ours": OURS, "peer": OTHER, "limit": LIMIT, "mark": MARK}
METHOD_COLOURS = {UNCONDITIONAL: OTHER, DEFAULT: OURS, TRUTH: LIMIT}


def chosen_group(rows: list[Row]) -> list[Row]:
    """The times of the first headline, fastest first."""
    found = headlines([row for row in rows if row.metric == "time"])
    return sorted(found[0], key=lambda row: row.p50) if found else []


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
    """FID and the share drawn as asked while training goes on."""
    with plt.rc_context(PLOT):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2), layout="constrained")
        for method, rows in found.items():
            kind: dict[str, Any] = {"marker": "o", "markersize": 4, "color": METHOD_COLOURS[method]}
            steps = [row.steps for row in rows]
            left.plot(steps, [row.fid for row in rows], label=method, **kind)
            if method != UNCONDITIONAL:
                right.plot(steps, [row.asked_accuracy for row in rows], **kind)
        left.set(ylim=(0, None), ylabel="FID")
        right.set(ylim=(0, 1), ylabel="pictures drawn as asked")
        right.yaxis.set_major_formatter(PercentFormatter(1))
        for axes in (left, right):
            axes.set_xlabel("training steps")
            axes.set_xticks(sorted({row.steps for rows in found.values() for row in rows}))
        left.set_title("How far from true pictures")
        right.set_title("What was asked for")
        left.legend(frameon=False, fontsize=9)
        saved(figure, path)


def over_sigma(sweep: Sequence[Swept], rows: Iterable[tuple[float, Measured]], path: Path) -> None:
    """Right labels for every sigma, and the FID of generators trained on the labels of some."""
    with plt.rc_context(PLOT):
        figure, axes = plt.subplots(figsize=(7.6, 3.4), layout="constrained")
        labels = axes.plot([one.sigma for one in sweep], [one.label_accuracy for one in sweep], color=OURS)
        axes.set(xlabel="sigma", ylabel="right labels", xlim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.label.set_color(OURS)
        axes.set_title("Below sigma, an image of a doubtful cluster takes the opinion's label")
        names = ["labels right, every sigma (left)"]
        if known := sorted(rows, key=lambda row: row[0]):
            beside = axes.twinx()
            labels += beside.plot(
                [sigma for sigma, _ in known], [row.fid for _, row in known], color=LIMIT, marker="o", linestyle="none"
            )
            beside.set(ylim=(0, 1.3 * max(row.fid for _, row in known)), ylabel="FID")
            beside.grid(visible=False)
            beside.yaxis.label.set_color(LIMIT)
            names.append("FID of a generator trained on them (right)")
        axes.legend(labels, names, frameon=False, fontsize=9)
        saved(figure, path)


def draw(folder: Path) -> None:
    """Writes bench_<component>.svg for every component that has times, and the paper's figures 2 and 4 where known."""
    folder.mkdir(parents=True, exist_ok=True)
    for csv in sorted(RESULTS.glob("*.csv")):
        if rows := chosen_group(read_rows(csv.stem)):
            bars(rows, folder / f"bench_{csv.stem}.svg")
    for subject in SUBJECTS:
        measured = read_measured(rows_file(subject))
        if found := curves(measured):
            over_steps(found, folder / f"reproduction_{subject}_steps.svg")
        if sweep := read_sweep(sweep_file(subject)):
            over_sigma(sweep, points(measured), folder / f"reproduction_{subject}_sigma.svg")
