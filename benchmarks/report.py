"""Writes the pages' tables, benchmarks/README.md and the plots from the committed rows; `--check` only compares."""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import paper  # noqa: E402
from benchmarks.harness import RESULTS, Row, read_rows  # noqa: E402
from benchmarks.measured import read_measured, rows_file  # noqa: E402
from benchmarks.reproduced import SHORT, reproduction, scores_table  # noqa: E402

README = HERE.parent / "README.md"
RESULTS_PAGE = HERE.parent / "docs" / "results.md"
SCALE = HERE.parent / "docs" / "howto" / "scale.md"
CLUSTER = HERE.parent / "docs" / "howto" / "cluster.md"
METHOD = HERE.parent / "docs" / "method.md"
FULL = HERE / "README.md"
FIGURES = HERE.parent / "docs" / "figures"
PLACE = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Key = TypeVar("Key")
INTRODUCTION = """# Benchmarks

Written by `python benchmarks/report.py` from the rows in `results/`; run them all with `make bench`, or one with
`python benchmarks/run.py match --quick`. All ways of one size ran in turn in one process, after their results were
compared, on a shared machine: read the ratios. Times are medians; calls of less than 20 ms are
timed in a row. The rows also hold the 20th and the 80th percentile, the versions and the date.

`x` is the time beside **ours** in the same run: 2 means twice as long. A *limit* is what the hardware allows for the
same task, measured in the same run. Other ways in *italics* do another task, to compare with. Peak MB is the most
memory beyond what the process had before, its result included.
"""
NO_GPU = "No row is of a GPU yet: where one is, `python benchmarks/run.py --device cuda` measures the kernels."
SIDE = {"time", "peak memory", "rate", "stage time"}
VALUES = (
    "accuracy",
    "calibration error",
    "bytes an image",
)  # metrics with tables of their own: sizes down, providers across


def components() -> list[str]:
    """Every component with committed rows."""
    return sorted(path.stem for path in RESULTS.glob("*.csv"))


def groups(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Rows that were measured together: by device, size and threads."""
    return grouped(rows, lambda row: (row.device, row.size, row.threads))


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by what `key` says of them, in the order in which it first says so."""
    together: dict[Key, list[Row]] = {}
    for row in rows:
        together.setdefault(key(row), []).append(row)
    return together


def seconds(value: float) -> str:
    """A time with its unit, three digits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.2g} s"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table whose numbers stand to the right."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, align, *lines])


def by_metric(rows: list[Row], metric: str) -> dict[str, Row]:
    """Provider -> row, for one metric."""
    return {row.provider: row for row in rows if row.metric == metric}


def time_table(rows: list[Row]) -> str:
    """Every provider of one size, fastest first; the numbers of threads side by side."""
    runs = {
        threads: by_metric(run, "time")
        for threads, run in sorted(grouped([row for row in rows if row.metric == "time"], lambda r: r.threads).items())
    }
    ours = {threads: fastest(times.values(), "ours") for threads, times in runs.items()}
    others = sorted({row.metric for row in rows} - SIDE)
    side = {metric: by_metric(rows, metric) for metric in ["peak memory", *others]}
    shown = {row.provider: row for times in runs.values() for row in times.values()}
    header = ["", *(cell for threads in runs for cell in (threads_in_words(threads), "x")), "peak MB", *others]
    lines = []
    for name, row in sorted(shown.items(), key=lambda item: item[1].p50):
        cells = [cell for threads, times in runs.items() for cell in time_cells(times.get(name), ours[threads])]
        values = [f"{found.p50:.4g}" if (found := side[metric].get(name)) else "" for metric in others]
        memory = f"{side['peak memory'][name].p50:.0f}" if name in side["peak memory"] else ""
        lines.append([label(row), *cells, memory, *values])
    return markdown(header, lines)


def fastest(rows: Iterable[Row], role: str) -> Row | None:
    """The fastest row of a role, if there is one."""
    return min((row for row in rows if row.role == role), key=lambda row: row.p50, default=None)


def time_cells(row: Row | None, ours: Row | None) -> tuple[str, str]:
    """A time, and how many times ours it is."""
    if row is None:
        return "", ""
    return seconds(row.p50), f"{row.p50 / ours.p50:.2f}" if ours else ""


def label(row: Row) -> str:
    """A provider's name, with what it is to us."""
    return {
        "ours": f"**{row.provider}**",
        "limit": f"*limit: {row.provider.removeprefix('limit: ')}*",
        "mark": f"*{row.provider}*",
        "peer": row.provider,
    }[row.role]


def threads_in_words(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'s' * (threads > 1)}"


def value_table(rows: list[Row]) -> str:
    """Sizes down, providers across, for a component that measures quality and not time."""
    providers = list(dict.fromkeys(row.provider for row in rows))
    cells = {(row.size, row.provider): row for row in rows}
    lines = [
        [size, *(f"{cells[size, name].p50:.3f}" if (size, name) in cells else "" for name in providers)]
        for size in dict.fromkeys(row.size for row in rows)
    ]
    return markdown(["", *providers], lines)


def section(component: str) -> str:
    """All tables of one component, a device after the other."""
    rows = read_rows(component)
    parts = [f"## {component.replace('_', ' ')}", purpose(component)]
    if plotted(component):
        parts.append(f"![{component.replace('_', ' ')}](../docs/figures/bench_{component}.svg)")
    for device, there in grouped(rows, lambda row: row.device).items():
        parts.append(f"On {device or 'an unnamed processor'}.")
        for size, together in grouped([row for row in there if row.metric not in VALUES], lambda row: row.size).items():
            if any(row.metric == "time" for row in together):
                parts += [f"### {readable(size)}", time_table(together)]
            if stages := [f"{row.provider} {seconds(row.p50)}" for row in together if row.metric == "stage time"]:
                parts.append(f"Ours, stage by stage: {', '.join(stages)}.")
        for metric in VALUES:
            if found := [row for row in there if row.metric == metric]:
                parts += [f"### {metric.capitalize()}", value_table(found)]
    return "\n\n".join(parts)


def purpose(component: str) -> str:
    """What the component's benchmark says of itself."""
    path = HERE / f"bench_{component}.py"
    return (ast.get_docstring(ast.parse(path.read_text())) or "") if path.exists() else ""


def variant(size: str) -> str:
    """What a size says besides numbers: "K=5000, one mind" is "one mind"."""
    return ", ".join(part for part in size.split(", ") if "=" not in part and not part[0].isdigit())


def readable(size: str) -> str:
    """A size whose long numbers have commas."""
    return re.sub(r"\d{4,}", lambda found: f"{int(found[0]):,}", size)


def headlines(rows: list[Row]) -> list[list[Row]]:
    """On the most threads, the last size of each variant in which ours has a peer."""
    most = max((row.threads for row in rows), default=0)
    found: dict[str, list[Row]] = {}
    for (_, size, threads), together in groups(rows).items():
        roles = {row.role for row in together}
        if threads == most and {"ours", "peer"} <= roles:
            found[variant(size)] = together
    return list(found.values())


def speed_line(rows: list[Row]) -> list[str]:
    """Ours beside the best peer, and how much of the tightest limit that is; a limit slower than ours binds nothing."""
    ours = min((row for row in rows if row.role == "ours"), key=lambda row: row.p50)
    best = min((row for row in rows if row.role == "peer"), key=lambda row: row.p50)
    limits = [row for row in rows if row.role == "limit" and row.p50 <= ours.p50]
    bound = max(limits, key=lambda row: row.p50, default=None)
    share = f"{100 * bound.p50 / ours.p50:.0f}% of {bound.provider.removeprefix('limit: ')}" if bound else ""
    task = f"{ours.component.replace('_', ' ')}: {readable(ours.size)}"
    return [task, str(ours.threads), best.provider, f"{best.p50 / ours.p50:.1f}", share]


def plotted(component: str) -> list[list[Row]]:
    """The headlines of a component's times; the first one is its plot."""
    return headlines([row for row in read_rows(component) if row.metric == "time" and row.device])


def speed_table(most: int | None = None) -> str:
    """A line for each kind of task, at most so many a component."""
    lines = [speed_line(rows) for name in components() for rows in plotted(name)[:most]]
    return markdown(["", "threads", "best peer", "times as fast", "of the limit"], lines)


def quality_table() -> str:
    """Label accuracy of every data set by every method."""
    rows = [row for row in read_rows("label_quality") if row.metric == "accuracy" and "flipped" not in row.size]
    compared = {size for size, of_size in grouped(rows, lambda row: row.size).items() if len(of_size) > 1}
    return value_table([row for row in rows if row.size in compared]) if rows else ""


def neighbours_table() -> str:
    """Exact neighbours beside those that an index finds, its building included, and what that does to the labels."""
    return time_table(read_rows("approximate"))


def sizes_table() -> str:
    """What labelling takes as the number of images grows, in all and once it has learned."""
    lines = []
    for size, rows in grouped(read_rows("scale"), lambda row: row.size).items():
        stages = {row.provider: row.p50 for row in rows if row.metric == "stage time"}
        value = {row.metric: row.p50 for row in rows if row.provider == "gdui"}
        labelled = stages.pop("label", 0.0)
        memory = f"{value['peak memory'] / 1e3:.1f} GB"
        lines.append([images_in(size), *map(seconds, (sum(stages.values()), labelled, value["time"])), memory])
    return markdown(["images", "learning", "labelling the rest", "in all", "most memory"], lines)


def images_in(size: str) -> str:
    """N=1,000,000 d=256 is 1,000,000."""
    return size.split()[0].removeprefix("N=")


def plots_of_speed() -> str:
    """The plot of every component that has one, for a page in docs/."""
    named = {name: name.replace("_", " ") for name in components() if plotted(name)}
    return "\n\n".join(f"![{words}](figures/bench_{name}.svg)" for name, words in named.items())


def documents() -> dict[Path, str]:
    """Every file this script writes text into, with the text it should hold."""
    tables = {
        "quality": quality_table(),
        "reproduction": scores_table(read_measured(rows_file("digits"))),
        "reproduction in short": scores_table(read_measured(rows_file("digits")), SHORT),
        "speed": speed_table(most=1),
        "speed of all": speed_table(),
        "neighbours": neighbours_table(),
        "sizes": sizes_table(),
        "plots of speed": plots_of_speed(),
        "billion": markdown(["", "row", "measured", "of a billion images"], paper.assumptions()),
        "machines": markdown(
            [f"machines of {paper.CORES} cores", "time", "images/s", "from the store"], paper.machines()
        ),
    }
    pages = {
        page: PLACE.sub(lambda found: f"{found[1]}{tables[found['name']]}\n{found[3]}", page.read_text())
        for page in (README, RESULTS_PAGE, SCALE, CLUSTER, METHOD)
    }
    rows = [row for name in components() for row in read_rows(name)]
    gpu = "" if any("NVIDIA" in row.device for row in rows) else NO_GPU
    parts = [INTRODUCTION.strip(), gpu, *map(section, components()), reproduction()]
    full = "\n\n".join(part for part in parts if part) + "\n"
    return pages | {FULL: full}


def stale() -> list[Path]:
    """The files that don't say what the rows say."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text() != text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file and the rows disagree")
    options = parser.parse_args()
    wrong = stale()
    if options.check:
        sys.exit(f"these differ from the rows: {', '.join(map(str, wrong))}" if wrong else 0)
    for path, text in documents().items():
        path.write_text(text)
    from benchmarks.plots import draw

    draw(FIGURES)


if __name__ == "__main__":
    main()
