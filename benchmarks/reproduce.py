"""The seed paper's tables, made again: `python benchmarks/reproduce.py digits [--minutes 8] [--curves] [--sigmas]`.

Every row is a way of labelling; all train the same network on the same images for as many steps, draw as many images
with the same sampler and seed, and are seen by the same network. A row is trained once a seed, its figures are appended
to results/reproduction/digits.csv, and what is there is never made again: a killed run goes on with the next row.
"""

import argparse
import os
import sys
import time
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import set_threads, versions  # noqa: E402
from benchmarks.judge import Judge  # noqa: E402
from benchmarks.measured import (  # noqa: E402
    CURVE,
    CURVED,
    DEFAULT,
    KMEANS,
    METHODS,
    NAMELESS,
    PLG,
    PLM,
    SEEDS,
    SIGMAS,
    STEPS,
    TRUTH,
    UNCONDITIONAL,
    ZERO_SHOT,
    Measured,
    append,
    read_measured,
)
from gdui.demo.digits import NAMES, images  # noqa: E402
from gdui.diffusion.averages import put_on  # noqa: E402
from gdui.diffusion.generator import Generator  # noqa: E402
from gdui.diffusion.grid import write_grid  # noqa: E402
from gdui.diffusion.losses import denoiser_loss  # noqa: E402
from gdui.diffusion.pictures import Pictures  # noqa: E402
from gdui.diffusion.plan import Plan  # noqa: E402
from gdui.diffusion.schedule import Schedule  # noqa: E402
from gdui.diffusion.train import train_network  # noqa: E402
from gdui.diffusion.unet import UNet  # noqa: E402
from gdui.evaluation.agreement import accuracy, best_mapping  # noqa: E402
from gdui.evaluation.fidelity import evaluate, load_network  # noqa: E402
from gdui.labeling.labeler import Labeler  # noqa: E402

# Everything that is equal for all rows.
SETTINGS: dict[str, Any] = {"channels": 1, "network.width": 32, "recipe.warmup": 50, "recipe.save_every": 75}
AVERAGE, GUIDANCE, EACH, SAMPLER_STEPS = 0.99, 1.0, 179, 10
SHOWN = 2
FIGURE = HERE.parent / "docs" / "figures" / "reproduction.png"
Labels = npt.NDArray[np.int64]


def labels_of(method: str, seed: int, work: Path) -> Labels:
    """The labels that a method gives; those that come from one run of the labeller are kept together."""
    if method in (UNCONDITIONAL, TRUTH):
        truth = load_digits().target.astype(np.int64)
        return truth if method == TRUTH else np.full_like(truth, -1)
    settings = {DEFAULT: {}, KMEANS: {"clusterer": "kmeans"}}.get(method, {})
    if method.startswith("sigma"):
        settings = {"refine.sigma": float(method.split()[1])}
    run = method if method in (DEFAULT, KMEANS) or method.startswith("sigma") else "paper"
    path = work / f"labels-{_slug(run)}-{seed}.npz"
    if not path.exists():
        preset = "default" if method == DEFAULT else "paper"
        labels = Labeler(NAMES, "digits", preset, seed=seed, **settings).fit_predict(images())
        np.savez(
            path,
            cluster=labels.numbers("cluster"),
            named=labels.indices("matched_label"),
            opinion=labels.indices("clip_label"),
            label=labels.label_index,
        )
    column = {KMEANS: "cluster", PLG: "cluster", PLM: "named", ZERO_SHOT: "opinion"}.get(method, "label")
    with np.load(path) as kept:
        return np.asarray(kept[column], np.int64)


class Workshop:
    """What all rows share, and how a row is made."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.judge = Judge()
        self.network = load_network("digits", device="cpu")
        self.truth = load_digits().target.astype(np.int64)

    def measure(self, method: str, seed: int, steps: int) -> Measured:
        """Trains, draws and scores; training goes on from fewer steps where there were some."""
        start = time.perf_counter()
        labels = labels_of(method, seed, self.work)
        model = self._trained(method, seed, steps, labels)
        named = method != UNCONDITIONAL
        drawn = model.sample(
            NAMES if named else None, EACH if named else EACH * len(NAMES), guidance=GUIDANCE if named else 0,
            steps=SAMPLER_STEPS, seed=seed, batch=256,
        )  # fmt: skip
        scores = evaluate({method: drawn[..., 0]}, images(), self.network)[method]
        if seed == 0 and steps == STEPS:
            shown = drawn.reshape(len(NAMES), EACH, 8, 8, 1)[:, :SHOWN]
            np.save(self.work / f"drawn-{_slug(method)}.npy", shown.reshape(-1, 8, 8, 1))
        means = best_mapping(self.truth, labels) if method in NAMELESS else np.arange(len(NAMES))
        asked = np.repeat(means, EACH)
        known = {k: v for k, v in asdict(scores).items() if k in {one.name for one in fields(Measured)}}
        return Measured(
            method=method, seed=seed, steps=steps, **known,
            label_accuracy=accuracy(self.truth, np.where(labels < 0, -1, means[labels])) if named else float("nan"),
            asked_accuracy=float((self.judge.names(drawn) == asked).mean()) if named else float("nan"),
            judge_accuracy=self.judge.accuracy, seconds=time.perf_counter() - start,
            versions=versions(), date=date.today().isoformat(),
        )  # fmt: skip

    def _trained(self, method: str, seed: int, steps: int, labels: Labels) -> Generator:
        named = method != UNCONDITIONAL
        plan = Plan.named("tiny", len(NAMES), conditional=named, seed=seed, changes=SETTINGS)
        recipe = replace(plan.recipe, steps=steps)
        schedule = Schedule.from_name(plan.schedule, plan.timesteps)
        torch.manual_seed(seed)
        network = UNet(plan.network, null_class=named).to(memory_format=torch.channels_last)
        loss = denoiser_loss(schedule, recipe, classes=plan.network.classes)
        pictures, folder = Pictures(images()[..., None], labels, NAMES), self.work / f"{_slug(method)}-{seed}"
        trained = train_network(network, loss, pictures, plan.timesteps, recipe, folder, compile=False)
        put_on(network, trained.averages[AVERAGE])
        return Generator(network.eval(), NAMES, plan.schedule, plan.timesteps, recipe.target, mixed=recipe.mixed)


def _slug(method: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in method)


def side_by_side(work: Path, path: Path) -> None:
    """What every method's first seed drew, a line each: the same noise, a few of each digit in turn."""
    files = {method: work / f"drawn-{_slug(method)}.npy" for method in METHODS}
    drawn = {method: np.load(file) for method, file in files.items() if file.exists()}
    if drawn:
        title = f"drawn after {STEPS:,} steps: {SHOWN} of each digit, where one could be asked for"
        write_grid(path, np.concatenate(list(drawn.values())), list(drawn), title=title)


def wanted(curves: bool, sigmas: bool) -> list[tuple[str, int, int]]:
    """All rows to be made, the first seed of every method first."""
    rows = [(method, seed, STEPS) for seed in SEEDS for method in METHODS]
    if curves:
        rows = [(method, 0, steps) for method in CURVED for steps in CURVE] + rows
    if sigmas:
        rows += [(f"sigma {sigma:g}", 0, STEPS) for sigma in SIGMAS]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["digits"])
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no row after this long")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "reproduce", help="checkpoints and labels")
    parser.add_argument("--curves", action="store_true", help="also the scores over training steps")
    parser.add_argument("--sigmas", action="store_true", help="also the generators over values of sigma")
    options = parser.parse_args()
    set_threads(len(os.sched_getaffinity(0)))
    options.work.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(options.work)
    done, start = {row.key for row in read_measured()}, time.monotonic()
    for key in wanted(options.curves, options.sigmas):
        if key in done:
            continue
        if time.monotonic() - start > 60 * options.minutes:
            break
        row = workshop.measure(*key)
        append(row)
        print(f"{row.method}, seed {row.seed}, {row.steps} steps: FID {row.fid:.2f} asked {row.asked_accuracy:.3f} "
              f"labels {row.label_accuracy:.3f} in {row.seconds:.0f} s", flush=True)  # fmt: skip
        side_by_side(options.work, FIGURE)


if __name__ == "__main__":
    main()
