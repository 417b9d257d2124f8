"""The losses of a training run as a picture."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

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
            ax.plot(steps, losses, color=OTHER, linewidth=0.6, label="every step")
            ax.plot(steps, _smooth(losses), color=OURS, linewidth=1.6, label="running mean")
            ax.set(title=name, xlabel="training steps", ylabel="loss")
            ax.legend(frameon=False, fontsize=9)
            if losses.min() > 0:
                _logarithmic(ax)
        figure.savefig(temporary, format="png", dpi=130)


def _logarithmic(axes: Axes) -> None:
    """Powers of ten alone would leave a plot of less than one decade without a number."""
    axes.set(yscale="log", ylabel="loss, logarithmic")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def ledger(file: Path) -> dict[str, float]:
    """What a losses.csv tells: steps, the mean loss at the end, pictures a second, all its seconds and those
    of them spent waiting for pictures."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    loss, speed, seconds, waited = (
        np.array([float(row[name]) for row in rows]) for name in ("loss", "pictures_per_second", "seconds", "waited")
    )
    return {
        "steps": len(rows),
        "loss": float(_smooth(loss)[-1]),
        "pictures_per_second": float((speed * seconds).sum() / seconds.sum()),
        "seconds": float(seconds.sum()),
        "waited": float(waited.sum()),
    }


def _read(file: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    with file.open(newline="") as opened:
        rows = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(opened)]
    steps, losses = np.array(rows).T
    return steps, losses


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the last fiftieth of all steps before each, and of ten at least."""
    width = max(10, len(values) // 50)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
