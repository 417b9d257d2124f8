"""The losses of a training run as a picture."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from gdui.drawing import OTHER, OURS, PLOT
from gdui.runs import atomic_path

__all__ = ["ledger", "plot_losses"]


def plot_losses(path: Path, histories: Mapping[str, Path]) -> None:
    """Writes a PNG with the losses of each network, every step's faint and their running mean in front.

    Args:
        histories: the losses.csv of each network by its name.
    """
    with rc_context(PLOT), atomic_path(path) as temporary:
        figure = Figure(figsize=(5.5 * len(histories), 3.6), layout="constrained")
        axes = figure.subplots(1, len(histories), squeeze=False)[0]
        for ax, (name, file) in zip(axes, histories.items(), strict=True):
            steps, losses = _read(file)
            ax.plot(steps, losses, color=OTHER, linewidth=0.6)
            ax.plot(steps, _smooth(losses), color=OURS, linewidth=1.6)
            ax.set(title=name, xlabel="step", ylabel="loss", yscale="log" if losses.min() > 0 else "linear")
        figure.savefig(temporary, format="png", dpi=130)


def ledger(file: Path) -> dict[str, float]:
    """What a losses.csv tells: steps, the mean loss at the end, pictures a second, the share of time spent waiting."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    speed = np.array([float(row["pictures_per_second"]) for row in rows])
    waited = np.array([float(row["waited"]) for row in rows])
    loss = _smooth(np.array([float(row["loss"]) for row in rows]))[-1]
    batch_seconds = 1 / speed
    return {
        "steps": len(rows),
        "loss": float(loss),
        "pictures_per_second": float(1 / batch_seconds.mean()),
        "waited": float(waited.sum()),
    }


def _read(file: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    with file.open(newline="") as opened:
        rows = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(opened)]
    steps, losses = np.array(rows).T
    return steps, losses


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the last fiftieth of all steps before each."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
