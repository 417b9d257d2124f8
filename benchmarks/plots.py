"""Draws each component's times on light and dark pages: green is ours, red a limit, yellow another task."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks.harness import RESULTS, Row, read_rows
from benchmarks.measured import METHODS, Measured, read_measured, rows_file
from benchmarks.report import headlines, readable, seconds, threads_in_words

COLOURS = {"ours": "#1f9e8f", "peer": "#8b98a5", "limit": "#d1495b", "mark": "#c9a227"}
INK = "#7d8590"  # reads on white and on black; the background stays the page's own
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.hashsalt": "gdui",
}


def chosen_group(rows: list[Row]) -> list[Row]:
    """The times of the first headline, fastest first."""
    found = headlines([row for row in rows if row.metric == "time"])
    return sorted(found[0], key=lambda row: row.p50) if found else []


def bars(rows: list[Row], path: Path) -> None:
    """One bar a provider on a logarithmic axis of time, the limit as a line through all."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 0.9 + 0.36 * len(rows)), layout="constrained")
        for place, row in enumerate(reversed(rows)):
            axes.barh(place, row.p50, color=COLOURS[row.role], height=0.68)
            axes.annotate(f" {seconds(row.p50)}", (row.p50, place), va="center", fontsize=9)
        for row in rows:
            if row.role == "limit":
                axes.axvline(row.p50, color=COLOURS["limit"], linewidth=1, linestyle="--")
        names = [row.provider.removeprefix("limit: ") for row in reversed(rows)]
        for tick, row in zip(axes.set_yticks(range(len(rows)), names), reversed(rows), strict=True):
            tick.label1.set_color(INK if row.role == "peer" else COLOURS[row.role])
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(rows[0].p50 / 2, rows[-1].p50 * 3)
        axes.set_xlabel(f"seconds, logarithmic ({threads_in_words(rows[0].threads)})")
        axes.set_title(f"{rows[0].component.replace('_', ' ')}: {readable(rows[0].size)}", loc="left", fontsize=11)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def over_steps(rows: list[Measured], path: Path) -> None:
    """FID and the share drawn as asked while training goes on, for every method measured more than once."""
    methods = [name for name in METHODS if len({row.steps for row in rows if (row.method, row.seed) == (name, 0)}) > 1]
    if not methods:
        return
    with plt.rc_context(STYLE):
        figure, both = plt.subplots(1, 2, figsize=(7.2, 3), layout="constrained")
        for axes, column, title in zip(both, ("fid", "asked_accuracy"), ("FID", "drawn as asked"), strict=True):
            for method in methods:
                points = sorted(
                    (row.steps, getattr(row, column)) for row in rows if (row.method, row.seed) == (method, 0)
                )
                axes.plot(*zip(*points, strict=True), marker="o", label=method)
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel("training steps")
        both[0].legend(frameon=False, fontsize=9)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw(folder: Path) -> None:
    """Writes bench_<component>.svg for every component that has times, and the paper's figure 2 where it is known."""
    folder.mkdir(parents=True, exist_ok=True)
    for csv in sorted(RESULTS.glob("*.csv")):
        if rows := chosen_group(read_rows(csv.stem)):
            bars(rows, folder / f"bench_{csv.stem}.svg")
    over_steps(read_measured(rows_file("digits")), folder / "reproduction_steps.svg")
