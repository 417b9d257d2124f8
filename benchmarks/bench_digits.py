"""The demo's generator: how long it takes, what an independent judge says of its digits, and few steps beside many.

"Labels to grid" trains two networks: a UNet that is told the digits, and for a fifth of them nothing, so that it draws
with a name and without one, and a classifier that steers either way. A UNet that is never told a digit learns after
them, for comparison: all three have to be done in four minutes.
The judge is a network trained on the true digits, which nothing else sees. Distances are Frechet's, among its features.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from benchmarks.harness import Bench
from benchmarks.judge import Judge
from gdui.demo import NAMES, draw_digits, images
from gdui.demo import run as label_digits
from gdui.demo.drawn import SETTINGS
from gdui.diffusion.generator import Generator
from gdui.diffusion.workflow import train
from gdui.evaluation.fidelity.frechet import frechet_distance
from gdui.images import open_source
from gdui.labels import Labels

DEVICES = ("cpu",)
EACH, LONGEST, UNTOLD_STEPS = 60, 240.0, 600
GUIDES = {"no guide": 0.0, "free": 1.0, "classifier": 2.0}


def run(bench: Bench) -> None:
    if bench.threads == 1:
        return  # how the demo runs: on what there is
    judge = Judge(images()[..., None], load_digits().target)
    size = f"digits, {len(images()):,} pictures"
    bench.record(size, "judge, on digits it never saw", "accuracy", "share", [judge.accuracy], "limit")
    with tempfile.TemporaryDirectory() as folder:
        found = label_digits(Path(folder))
        start = time.perf_counter()
        model = draw_digits(found.labels, folder, steps=20 if bench.quick else None).model
        seconds = time.perf_counter() - start
        bench.record(size, "gdui, labels to grid", "time", "s", [seconds])
        start = time.perf_counter()
        never_told = untold(found.labels, folder, 20 if bench.quick else UNTOLD_STEPS)
        more = time.perf_counter() - start
    bench.record(size, "gdui, a network without classes besides", "time", "s", [more])
    assert bench.quick or seconds + more < LONGEST, f"three networks took {seconds:.0f} + {more:.0f} s"
    each = 10 if bench.quick else EACH
    score_guides(bench, judge, model, each)
    score_steps(bench, judge, model, each)
    score_unnamed(bench, judge, {"gdui": model, "gdui, a network without classes": never_told}, 10 * each)


def untold(labels: Labels, folder: str, steps: int) -> Generator:
    """A network that learns the demo's pictures and no class of theirs."""
    settings = {name: value for name, value in SETTINGS.items() if name not in ("recipe.forget", "recipe.steps")}
    pictures = open_source(images()[..., None], ids=labels.ids.to_pylist(), layout="NHWC")
    return train(
        labels,
        pictures,
        Path(folder) / "untold",
        preset="tiny",
        objective="unet",
        conditional=False,
        settings=settings | {"recipe.steps": steps},
        device="cpu",
        compile=False,
    )


def score_guides(bench: Bench, judge: Judge, model: Generator, each: int) -> None:
    """In how many images the judge finds the digit that was asked for."""
    size, asked = f"{10 * each:,} drawn", np.repeat(np.arange(10), each)
    for guide, scale in GUIDES.items():
        how = {"guide": guide} if scale else {}
        drawn = timed(bench, size, f"gdui, {guide}", model, each, guidance=scale, **how)
        found = float((judge.names(drawn) == asked).mean())
        bench.record(size, f"gdui, {guide}", "digit asked for", "share", [found])
        assert bench.quick or not scale or found >= 0.9, f"{guide}: only {found:.3f} are what was asked for"


def score_steps(bench: Bench, judge: Judge, model: Generator, each: int) -> None:
    """Twenty steps of DPM-Solver++ beside all five hundred ancestral ones, without a guide."""
    size, real = f"{10 * each:,} drawn, no guide", judge.features(images()[..., None])
    many = 50 if bench.quick else model.timesteps
    ways: dict[str, dict[str, Any]] = {
        "dpm 20": {},
        "dpm 20, no fresh noise": {"eta": 0.0},
        f"ancestral {many}": {"method": "ancestral", "steps": many},
    }
    distance = {}
    for name, how in ways.items():
        drawn = timed(bench, size, f"gdui, {name}", model, each, **{"guidance": 0, "steps": 20, **how})
        distance[name] = frechet_distance(real, judge.features(drawn))
        bench.record(size, f"gdui, {name}", "Frechet distance", "", [distance[name]])
    assert bench.quick or distance["dpm 20"] <= 1.1 * distance[f"ancestral {many}"], distance


def score_unnamed(bench: Bench, judge: Judge, models: dict[str, Generator], count: int) -> None:
    """What is drawn without a name, by a network that knows names and by one that doesn't."""
    real = judge.features(images()[..., None])
    for name, model in models.items():
        distance = frechet_distance(real, judge.features(model.sample(n=count, steps=20)))
        bench.record(f"{count:,} drawn, no name", name, "Frechet distance", "", [distance])


def timed(bench: Bench, size: str, name: str, model: Generator, each: int, **how: Any) -> npt.NDArray[np.uint8]:
    """`each` images of every digit, and a row with the seconds they took."""
    start = time.perf_counter()
    drawn = model.sample(NAMES, n=each, **how)
    bench.record(size, name, "time", "s", [time.perf_counter() - start])
    return drawn
