"""Ready features on disk to labels with one command: seconds and resident memory from 100,000 to ten million images.

Each size is one process, which may be killed at any time: the same call goes on where it stood, and the rows come from
the run's own log once it is done. GDUI_SCALE_FOLDER says where the files lie (16 GB), GDUI_SCALE_SIZES="1e5 1e6" which
sizes to run.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Bench
from gdui.labels.files import read_batches
from gdui.runs import atomic_path

DEVICES = ("cpu",)

CLASSES, DIMENSIONS = 1_000, 256
SIZES = (100_000, 1_000_000, 10_000_000)
BLOCK = 65_536
SPREAD, MISNAMED = 1.5, 4.0  # of images around their class, and of the names' vectors
MOST_MEMORY = 6e9
STAGE = re.compile(r"(neighbors|cluster|match|refine|graph|linear|part \d+): ([0-9.]+) s for")


def run(bench: Bench) -> None:
    folder = Path(os.environ.get("GDUI_SCALE_FOLDER", Path(tempfile.gettempdir()) / "gdui-scale"))
    chosen = os.environ.get("GDUI_SCALE_SIZES", "")
    sizes = [int(float(size)) for size in chosen.split()] or SIZES
    for n in (2_000,) if bench.quick else sizes:
        measure(bench, n, 20 if bench.quick else CLASSES, folder / f"{n}-{bench.threads}")


def measure(bench: Bench, n: int, classes: int, folder: Path) -> None:
    """Labels `n` images, or goes on with that, and records what it took."""
    folder.mkdir(parents=True, exist_ok=True)
    generate(folder, n, classes)
    command = [
        sys.executable,
        "-m",
        "gdui.cli",
        "label",
        folder / "features.npy",
        "--features",
        "--out",
        folder / "run",
    ]
    command += ["--opinions", folder / "vectors.npy", "--classes", folder / "names.txt", "--set", f"k={classes}"]
    watched(list(map(str, command)), folder / "peak")
    size, peak = f"N={n:,} d={DIMENSIONS} K={classes:,} float16", float((folder / "peak").read_text())
    stages = seconds(folder / "run" / "log")
    for stage, took in stages.items():
        bench.record(size, stage, "stage time", "s", [took])
    bench.record(size, "gdui", "time", "s", [sum(stages.values())])
    bench.record(size, "gdui", "peak memory", "MB", [peak / 1e6])
    bench.record(size, "gdui", "rate", "images/s", [n / sum(stages.values())])
    if "label" in stages and n > 100 * classes:
        bench.record(size, "label, once learned", "rate", "images/s", [n / stages["label"]])
    assert peak < MOST_MEMORY, f"{size}: {peak / 1e9:.2f} GB resident, and may take {MOST_MEMORY / 1e9:.0f}"
    right, opinion = accuracy(folder, n, classes)
    assert right > opinion, f"{size}: {right:.3f} is no better than the opinion {opinion:.3f}"
    bench.record(size, "gdui", "accuracy", "share", [right])
    bench.record(size, "zero-shot (the opinion alone)", "accuracy", "share", [opinion], "peer")


def generate(folder: Path, n: int, classes: int) -> None:
    """Classes are balls around random centres, and the vectors of their names point somewhat past these."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((classes, DIMENSIONS), np.float32)
    np.save(folder / "vectors.npy", centres + MISNAMED * random.standard_normal(centres.shape, np.float32))
    (folder / "names.txt").write_text("".join(f"class {at}\n" for at in range(classes)))
    if not (folder / "features.npy").exists():
        with atomic_path(folder / "features.npy") as path:
            out = np.lib.format.open_memmap(path, "w+", np.float16, (n, DIMENSIONS))
            for at, truth in truths(n, classes):
                noise = random.standard_normal((len(truth), DIMENSIONS), np.float32)
                out[at : at + len(truth)] = centres[truth] + SPREAD * noise
            out.flush()


def truths(n: int, classes: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(first row, the classes of its block)."""
    random = np.random.default_rng(1)
    for at in range(0, n, BLOCK):
        yield at, random.integers(0, classes, min(BLOCK, n - at))


def watched(command: list[str], peak: Path) -> None:
    """Runs a command to its end, and keeps the most memory that it had resident, also if both are killed."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        done, most = threading.Event(), float(peak.read_text()) if peak.exists() else 0.0
        status = Path(f"/proc/{process.pid}/status")

        def watch() -> None:
            nonlocal most
            while not done.wait(0.2):
                found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
                if found and int(found[1]) * 1024 > most:
                    most = int(found[1]) * 1024.0
                    peak.write_text(str(most))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)


def seconds(log: Path) -> dict[str, float]:
    """Each stage that came to its end; parts of the labels are one stage, whichever call made them."""
    found: dict[str, float] = {}
    for stage, took in STAGE.findall(log.read_text()):
        name = "label" if stage.startswith("part") else stage
        found[name] = float(took) + (found.get(name, 0.0) if name == "label" else 0.0)
    return found


def accuracy(folder: Path, n: int, classes: int) -> tuple[float, float]:
    """The share of right labels, and of right first choices of the opinion."""
    names = [f"class {at}" for at in range(classes)]
    truth = np.concatenate([part for _, part in truths(n, classes)])
    at = right = 0
    first = 0
    for batch in read_batches(folder / "run" / "labels.parquet", ["label_index", "clip_label"]):
        wanted = truth[at : at + len(batch)]
        right += int((np.asarray(batch["label_index"]) == wanted).sum())
        column = batch["clip_label"].dictionary_encode()
        codes = np.array([names.index(name) for name in column.dictionary.to_pylist()])[np.asarray(column.indices)]
        first += int((codes == wanted).sum())
        at += len(batch)
    return right / n, first / n
