"""Labels scikit-learn's handwritten digits without a label, then compares every way of doing so with the truth."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from gdui.config import Config
from gdui.demo.sheet import contact_sheet
from gdui.evaluation.agreement import accuracy, mapped_accuracy
from gdui.labeling.labeler import Labeler, Progress
from gdui.labels import Labels
from gdui.runs import Run

__all__ = ["NAMES", "DemoResult", "Score", "images", "run"]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHEET = "contact_sheet.png"


class Score(NamedTuple):
    """The share of images that one way of labelling got right."""

    way: str
    accuracy: float
    note: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: the labels of preset `default`, every way's score, and where the run folder is."""

    labels: Labels
    scores: tuple[Score, ...]
    folder: Path
    seconds: float

    @property
    def sheet(self) -> Path:
        """The picture of it."""
        return self.folder / SHEET

    def __str__(self) -> str:
        """The table of scores, and where to look further."""
        width = max(len(score.way) for score in self.scores)
        lines = [f"{score.way:<{width}}  {score.accuracy:6.1%}  {score.note}" for score in self.scores]
        done = f"labelled {len(self.labels):,} images in {self.seconds:.0f} s"
        look = f"look at {self.folder / 'report.html'} in a browser, or at {self.sheet}"
        return "\n".join([*lines, f"{done}: {self.folder / 'labels.parquet'}", look])


def images() -> npt.NDArray[np.uint8]:
    """The 1,797 handwritten digits [1797, 8, 8], white on black."""
    greys: npt.NDArray[np.float64] = load_digits().images
    return np.rint(greys * (255 / 16)).astype(np.uint8)


def run(folder: str | os.PathLike[str], seed: int = 0, *, progress: Progress | None = None) -> DemoResult:
    """Labels the digits, leaves a run folder with a contact sheet, and scores what came out.

    Args:
        folder: where labels.parquet, contact_sheet.png, report.html and the configuration go, in place of an earlier
            run's.
        seed: of the clusterings.
        progress: called with (stage, images done, images in all).
    """
    start = time.perf_counter()
    config = Config.named("default", seed=seed, **{"encode.encoder": "digits"})
    with Run(folder, config.to_dict(), mode="overwrite") as kept:
        pictures = images()
        ids = [f"digit-{row:04d}" for row in range(len(pictures))]

        def labelled(preset: str, **settings: Any) -> Labels:
            labeler = Labeler(NAMES, "digits", preset, seed=seed, **settings)
            return labeler.fit_predict(pictures, ids=ids, progress=progress)

        kmeans, paper, labels = labelled("paper", clusterer="kmeans"), labelled("paper"), labelled("default")
        labels.to_parquet(kept.labels)
        kept.finish("label")
        contact_sheet(pictures, labels, kept.path / SHEET)
        pixels = pictures.reshape(len(pictures), -1)
        labels.report(kept.report, images=pictures, features=pixels, title="handwritten digits")
        seconds = time.perf_counter() - start
        return DemoResult(labels, _score(kmeans, paper, labels), kept.path, seconds)


def _score(kmeans: Labels, paper: Labels, default: Labels) -> tuple[Score, ...]:
    """The one place that reads the true digits."""
    truth = load_digits().target
    return (
        Score("zero-shot", accuracy(truth, default.indices("clip_label")), "the encoder alone"),
        Score(
            "k-means",
            mapped_accuracy(truth, kmeans.numbers("cluster")),
            "named by the best mapping, which needs the truth",
        ),
        Score("preset paper", accuracy(truth, paper.label_index), "SPICE's heads, match, refine"),
        Score(
            "preset default",
            accuracy(truth, default.label_index),
            "clusters in the graph, match, refine, votes, linear",
        ),
    )
