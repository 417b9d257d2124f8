"""Times several ways of doing the same thing side by side, after it has seen that they agree.

A component is a file `bench_<component>.py` with one function `run(bench)`, which calls `bench.compare` for each size.
"""

import csv
import ctypes
import gc
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

RESULTS = Path(__file__).parent / "results"
WORTH_A_THREAD = 1 << 22  # bytes
LONG = 15.0  # seconds beyond which a call is timed once
MOMENT = 0.02  # seconds that a timing takes at least: shorter calls are made many times in a row
VERSIONED = (
    "gdui",
    "numpy",
    "torch",
    "triton",
    "faiss-cpu",
    "scipy",
    "lap",
    "matching",
    "polars",
    "hnswlib",
    "diffusers",
    "scikit-learn",
)

Way = Callable[[], Any]
Role = Literal["ours", "peer", "limit", "mark"]


@dataclass(frozen=True)
class Row:
    """One figure. A key is (component, size, provider, metric, threads, device); see `write_rows`."""

    component: str
    size: str
    provider: str
    role: Role
    metric: str
    unit: str
    p20: float
    p50: float
    p80: float
    repeats: int
    threads: int
    device: str
    versions: str
    date: str

    @property
    def key(self) -> tuple[str, ...]:
        return (self.component, self.size, self.provider, self.metric, str(self.threads), self.device)


@dataclass
class Bench:
    """What a component's `run` is handed: the knobs of this run, and where its rows go."""

    component: str
    threads: int
    quick: bool = False
    device: str = "cpu"
    rows: list[Row] = field(default_factory=list)

    def compare(
        self,
        size: str,
        ways: Mapping[str, Way],
        *,
        agree: Callable[[Mapping[str, Any]], None],
        peers: Iterable[str] = (),
        limits: Iterable[str] = (),
        marks: Iterable[str] = (),
        most_memory: Mapping[str, float] = MappingProxyType({}),
        repeats: int | None = None,
        work: float | None = None,
        unit: str = "items/s",
    ) -> dict[str, float]:
        """Runs every way once, asserts with `agree` what each returned, then times them in turn; medians in seconds.

        The first call is watched for its memory, and never timed. A timing of short calls is their mean over a moment.

        Before its first call PyTorch's generator is seeded, so that `agree` can draw what a way drew.

        Ways named in `peers` are other packages, in `limits` the hardware's bound for the same task, in `marks` other
        tasks to compare with; the rest are ours.
        `most_memory` holds ways to a number of bytes beyond what the process had before.
        repeats: how often each way is timed, but for those that take long: once. By default as often as it pays.
        With `work` (items, bytes or operations a call) a second row gives the rate in `unit`.
        """
        results, peaks, first = {}, {}, {}
        for name, way in ways.items():
            reseed()
            with peak_memory() if self.device == "cpu" else gpu_peak_memory() as peak:
                start = time.perf_counter()
                results[name] = way()
                first[name] = time.perf_counter() - start
            peaks[name] = peak[0]
        agree(results)
        results.clear()
        for name, most in most_memory.items():
            assert peaks[name] <= most, f"{name} took {peaks[name] / 1e6:.0f} MB, and may take {most / 1e6:.0f}"
        times = self._times(ways, repeats, first)
        roles: dict[str, Role] = (
            dict.fromkeys(peers, "peer") | dict.fromkeys(limits, "limit") | dict.fromkeys(marks, "mark")
        )
        for name, taken in times.items():
            role = roles.get(name, "ours")
            self.record(size, name, "time", "s", taken, role)
            self.record(size, name, "peak memory", "MB", [peaks[name] / 1e6], role)
            if work is not None:
                self.record(size, name, "rate", unit, [work / seconds for seconds in taken], role)
        return {name: statistics.median(taken) for name, taken in times.items()}

    def record(
        self, size: str, provider: str, metric: str, unit: str, values: list[float], role: Role = "ours"
    ) -> None:
        """Adds one row from measured values."""
        low, middle, high = quantiles(values)
        self.rows.append(
            Row(
                self.component,
                size,
                provider,
                role,
                metric,
                unit,
                *(float(f"{value:.4g}") for value in (low, middle, high)),
                len(values),
                self.threads,
                device_name(self.device),
                versions(),
                date.today().isoformat(),
            )
        )

    def _times(
        self, ways: Mapping[str, Way], repeats: int | None, first: Mapping[str, float]
    ) -> dict[str, list[float]]:
        """Rounds over all ways in turn, so a slow spell of the machine falls on all; slow ways sit out late rounds."""
        budget = 1.0 if self.quick else 6.0
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(repeats or (3 if self.quick else 15)):
            for name, way in ways.items():
                enough = 1 if times[name] and times[name][0] > budget else 3
                if repeats is None and round_ >= enough and sum(times[name]) > budget:
                    continue
                if round_ > 0 and first[name] > LONG:
                    continue
                calls = int(MOMENT / (times[name] or [first[name]])[-1]) + 1
                gc.collect()
                if calls > 1:
                    way()  # the collection has emptied the caches
                times[name].append(self._timed(way, calls))
        return times

    def _timed(self, way: Way, calls: int) -> float:
        """Seconds a call, of some in a row."""
        start = time.perf_counter()
        for _ in range(calls):
            way()
        self._synchronise()
        return (time.perf_counter() - start) / calls

    def _synchronise(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()


def reseed() -> None:
    """Sets PyTorch's generators, on all devices, back to one seed, which no benchmark draws its inputs from."""
    import torch

    torch.manual_seed(2**31)


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[1], cuts[4], cuts[7]


def read(arrays: Iterable[npt.NDArray[Any]], threads: int) -> Way:
    """Reads every byte of contiguous arrays once and does nothing else: what memory allows, for `limits`."""
    words = [array.reshape(-1).view(np.int32) for array in arrays]
    if threads == 1 or sum(part.nbytes for part in words) < WORTH_A_THREAD:
        return lambda: [part.max() for part in words]
    parts, pool = [part for whole in words for part in np.array_split(whole, threads)], ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The most resident memory above the start, in bytes, sampled each millisecond."""
    process = psutil.Process()
    gc.collect()
    give_back()
    start = process.memory_info().rss
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss - start)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], process.memory_info().rss - start)


def give_back() -> None:
    """Returns freed memory to the system, or what a way takes again would not show; glibc alone keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def gpu_peak_memory() -> Iterator[list[float]]:
    """The most memory of the GPU that PyTorch held above the start, in bytes."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    peak = [0.0]
    yield peak
    torch.cuda.synchronize()
    peak[0] = float(torch.cuda.max_memory_allocated() - start)


def set_threads(threads: int) -> None:
    """One number of threads for every library in the process."""
    import os

    import faiss
    import threadpoolctl
    import torch

    os.environ["GDUI_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


def device_name(device: str) -> str:
    """The processor's or the accelerator's name."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


def versions() -> str:
    """What was installed, as JSON."""
    found = {}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return json.dumps(found)


def read_rows(component: str) -> list[Row]:
    """The committed rows of a component."""
    path = RESULTS / f"{component}.csv"
    if not path.exists():
        return []
    number = {"p20": float, "p50": float, "p80": float, "repeats": int, "threads": int}
    with path.open(newline="") as file:
        return [Row(**{k: number.get(k, str)(v) for k, v in line.items()}) for line in csv.DictReader(file)]  # type: ignore[arg-type]


def write_rows(component: str, rows: Collection[Row], *, complete: bool = False) -> Path:
    """Writes `rows` over those of the same key; a complete run's over all that its device and threads had."""
    RESULTS.mkdir(exist_ok=True)
    redone = {(row.threads, row.device) for row in rows} if complete else set()
    others = [row for row in read_rows(component) if (row.threads, row.device) not in redone]
    kept = {row.key: row for row in [*others, *rows]}
    path = RESULTS / f"{component}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in kept.values())
    return path
