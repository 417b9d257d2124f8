"""Writes the README's tables, benchmarks/README.md and the plots from the committed rows; `--check` only compares."""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import RESULTS, Row, read_rows  # noqa: E402
from benchmarks.reproduced import reproduction  # noqa: E402

README = HERE.parent / "README.md"
FULL = HERE / "README.md"
FIGURES = HERE.parent / "docs" / "figures"
OURS = "gdui"
INTRODUCTION = """# Benchmarks

Written by `python benchmarks/report.py` from the rows in `results/`; run them with `make bench`, or one with
`python benchmarks/run.py match --quick`. All ways of one table ran in turn in one process, after their results were
compared, on a shared machine: read the ratios. `x` is the time beside gdui's in the same run (2 means twice as long);
*limit* is what the hardware allows for the same task. The rows also hold the 20th and the 80th percentile.
"""


def components() -> list[str]:
    """Every component with committed rows."""
    return sorted(path.stem for path in RESULTS.glob("*.csv"))


def groups(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Rows that were measured together: by device, size and threads."""
    together: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        together.setdefault((row.device, row.size, row.threads), []).append(row)
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
    """Every provider of one group, fastest first."""
    times, peaks = by_metric(rows, "time"), by_metric(rows, "peak memory")
    others = sorted({row.metric for row in rows} - {"time", "peak memory", "rate"})
    ours = times.get(OURS)
    lines = []
    for name, row in sorted(times.items(), key=lambda item: item[1].p50):
        label = {"ours": f"**{name}**", "limit": f"*limit: {name}*", "peer": name}[row.role]
        ratio = f"{row.p50 / ours.p50:.2f}" if ours else ""
        extra = [f"{found.p50:.4g}" if (found := by_metric(rows, metric).get(name)) else "" for metric in others]
        lines.append([label, seconds(row.p50), ratio, f"{peaks[name].p50:.0f}" if name in peaks else "", *extra])
    return markdown(["", "time", "x", "peak MB", *others], lines)


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
    """All tables of one component."""
    rows = read_rows(component)
    parts = [f"## {component.replace('_', ' ')}"]
    for (device, size, threads), together in groups(row for row in rows if row.metric != "accuracy").items():
        plural = "s" if threads > 1 else ""
        parts += [f"### {readable(size)} ({device}, {threads} thread{plural})", time_table(together)]
    if quality := [row for row in rows if row.metric == "accuracy"]:
        parts.append(value_table(quality))
    return "\n\n".join(parts)


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
    """Ours beside the best peer, and how much of the limit that is."""
    ours = min((row for row in rows if row.provider.startswith(OURS)), key=lambda row: row.p50)
    best = min((row for row in rows if row.role == "peer"), key=lambda row: row.p50)
    bound = min((row for row in rows if row.role == "limit"), key=lambda row: row.p50, default=None)
    share = f"{100 * bound.p50 / ours.p50:.0f}% of {bound.provider.removeprefix('limit: ')}" if bound else ""
    task = f"{ours.component.replace('_', ' ')}: {readable(ours.size)}"
    return [task, best.provider, f"{best.p50 / ours.p50:.1f}", share]


def speed_table() -> str:
    """A line for each kind of task."""
    timed = ([row for row in read_rows(name) if row.metric == "time" and row.device] for name in components())
    lines = [speed_line(rows) for timed_rows in timed for rows in headlines(timed_rows)]
    return markdown(["", "best peer", "times as fast", "of the limit"], lines)


def quality_table() -> str:
    """Label accuracy of every data set and method."""
    rows = [row for row in read_rows("label_quality") if row.metric == "accuracy"]
    return value_table([row for row in rows if "flipped" not in row.size]) if rows else ""


def documents() -> dict[Path, str]:
    """Every file this script writes text into, with the text it should hold."""
    readme = README.read_text()
    for name, table in (("speed", speed_table()), ("quality", quality_table())):
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        readme = pattern.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", readme)
    parts = [INTRODUCTION.strip(), *map(section, components()), reproduction()]
    full = "\n\n".join(part for part in parts if part) + "\n"
    return {README: readme, FULL: full}


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
