"""Runs benchmarks and commits their rows to results/: `python benchmarks/run.py [component ...] [--quick]`."""

import argparse
import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import Bench, Row, set_threads, write_rows  # noqa: E402


def components() -> list[str]:
    """Every component that has a file here."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def show(rows: list[Row]) -> None:
    """The times of one run, fastest first within a size, limits marked."""
    for size in dict.fromkeys(row.size for row in rows):
        print(f"  {size}")
        timed = [row for row in rows if row.size == size and row.metric != "peak memory"]
        for row in sorted(timed, key=lambda row: (row.metric, row.p50)):
            mark = {"limit": "limit", "peer": "", "ours": "*", "mark": "another task"}[row.role]
            print(f"    {row.metric:<12} {row.p50:>12.4g} {row.unit:<10} {row.provider:<38} {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("component", nargs="*", help=f"any of: {', '.join(components())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats, nothing written")
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1, and all cores")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    if unknown := set(options.component) - set(components()):
        parser.error(f"no such component: {', '.join(sorted(unknown))} (there are: {', '.join(components())})")
    cores = len(os.sched_getaffinity(0))
    for component in options.component or components():
        module = importlib.import_module(f"benchmarks.bench_{component}")
        if options.device not in module.DEVICES:
            print(f"{component}: skipped, it knows only {', '.join(module.DEVICES)}")
            continue
        for threads in options.threads or ([cores] if options.quick else sorted({1, cores})):
            set_threads(threads)
            bench = Bench(component, threads, options.quick, options.device)
            print(f"{component}, {threads} thread{'s' * (threads > 1)}")
            complete = False
            try:
                module.run(bench)
                complete = True
            finally:  # an interrupted run keeps what it has
                show(bench.rows)
                if not options.quick:
                    write_rows(component, bench.rows, complete=complete)


if __name__ == "__main__":
    main()
