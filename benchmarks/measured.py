"""What was measured of the paper's methods: which there are, and one committed row for each that was made."""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS
from gdui.runs import atomic_path

FIGURES = RESULTS.parents[1] / "docs" / "figures"
SEEDS = (0, 1, 2)
SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNCONDITIONAL, KMEANS, PLG = "unconditional", "k-means", "PLG"
PLM, LMR, DEFAULT = "PLG + PLM", "preset paper", "preset default"
ZERO_SHOT, TRUTH = "zero-shot", "ground truth"
METHODS = (UNCONDITIONAL, TRUTH, DEFAULT, LMR, ZERO_SHOT, PLM, PLG, KMEANS)
CURVED = (UNCONDITIONAL, DEFAULT, TRUTH)
NAMELESS = (KMEANS, PLG)  # clusters whose names are the best mapping's, which needs the truth


@dataclass(frozen=True)
class Measured:
    """One method and seed after so many steps; an accuracy is NaN where nobody was asked for a class."""

    method: str
    seed: int
    steps: int
    samples: int
    references: int
    fid: float
    fid_infinity: float
    sfid: float
    inception_score: float
    precision: float
    recall: float
    kid: float
    label_accuracy: float
    asked_accuracy: float
    judge_accuracy: float
    seconds: float
    versions: str
    date: str

    @property
    def key(self) -> tuple[str, int, int]:
        return self.method, self.seed, self.steps


@dataclass(frozen=True)
class Swept:
    """What preset `paper` gives for one sigma: the share of images it relabels, and of labels that are right."""

    sigma: float
    relabelled: float
    label_accuracy: float


def rows_file(subject: str) -> Path:
    """Where the rows of a subject are committed."""
    return RESULTS / "reproduction" / f"{subject}.csv"


def grid_file(subject: str) -> Path:
    """The picture of what every method's first seed drew."""
    return FIGURES / ("reproduction.png" if subject == "digits" else f"reproduction_{subject}.png")


def options_file(subject: str) -> Path:
    """Where it stands how all rows of a subject were made."""
    return rows_file(subject).with_suffix(".json")


def options_of(subject: str) -> dict[str, Any]:
    """How all rows of a subject were made."""
    path = options_file(subject)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def sweep_file(subject: str) -> Path:
    """Where the sweep over sigma of a subject is committed."""
    return RESULTS / "reproduction" / f"{subject}_sigma.csv"


def read_sweep(path: Path) -> list[Swept]:
    """The sweep in a file, sigma ascending."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Swept(**{k: float(v) for k, v in line.items()}) for line in csv.DictReader(file)]


def write_sweep(sweep: list[Swept], path: Path) -> None:
    """Writes it anew: it takes one run of the labeller and depends on nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Swept)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in asdict(one).items()} for one in sweep)


def read_measured(path: Path) -> list[Measured]:
    """The rows of a file."""
    if not path.exists():
        return []
    kinds = {one.name: one.type for one in fields(Measured)}
    with path.open(newline="") as file:
        return [Measured(**{k: kinds[k](v) for k, v in line.items()}) for line in csv.DictReader(file)]  # type: ignore[operator]


def keep_alike(options: Mapping[str, Any], *paths: Path) -> None:
    """Writes to all `paths` with which options rows are made, or refuses others than those that stand in one."""
    now = {name: value.name if isinstance(value, Path) else value for name, value in options.items()}
    for path in filter(Path.exists, paths):
        before = json.loads(path.read_text())
        if changed := [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]:
            raise ValueError(f"{path.parent} has rows of other options, by {path.name}: {'; '.join(changed)}")
    for path in paths:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(now, indent=1) + "\n")


def append(row: Measured, path: Path) -> None:
    """Adds one row, synced."""
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Measured)], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()})
        file.flush()
        os.fsync(file.fileno())
