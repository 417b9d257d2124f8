"""The seed paper's tables, made again: `python benchmarks/reproduce.py digits [--minutes 8] [--curves] [--sigmas]`.

Every row is a way of labelling; all train the same network on the same images for as many steps, draw as many images
with the same sampler and seed, and are seen by the same network. A row is trained once a seed, its figures are appended
to results/reproduction/, and what is there is never made again: a killed run goes on with the next row.

`stl10 --data FILE_OR_FOLDER` is the paper's own set, for a machine with a GPU: --steps and --each say how short it is.
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import set_threads, versions  # noqa: E402
from benchmarks.measured import (  # noqa: E402
    CURVED,
    DEFAULT,
    KMEANS,
    METHODS,
    NAMELESS,
    PLG,
    PLM,
    SEEDS,
    SIGMAS,
    TRUTH,
    UNCONDITIONAL,
    ZERO_SHOT,
    Measured,
    Swept,
    append,
    grid_file,
    keep_alike,
    options_file,
    read_measured,
    rows_file,
    sweep_file,
    write_sweep,
)
from benchmarks.subjects import Subject, digits, stl10  # noqa: E402
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
from gdui.evaluation.fidelity import evaluate  # noqa: E402
from gdui.report.measures import sigma_sweep  # noqa: E402
from gdui.training.history import History  # noqa: E402

SHOWN = 2
INTERRUPTED = 130  # the exit code, as of gdui's commands
Labels = npt.NDArray[np.int64]
Key = tuple[str, int, int]


def labels_of(subject: Subject, method: str, seed: int, work: Path) -> Labels:
    """The labels that a method gives; those that come from one run of the labeller are kept together."""
    if method in (UNCONDITIONAL, TRUTH):
        return subject.truth if method == TRUTH else np.full_like(subject.truth, -1)
    settings: dict[str, Any] = {DEFAULT: {}, KMEANS: {"clusterer": "kmeans"}}.get(method, {})
    if method.startswith("sigma"):
        settings = {"refine.sigma": float(method.split()[1])}
    run = method if method in (DEFAULT, KMEANS) or method.startswith("sigma") else "paper"
    path = work / f"labels-{_slug(run)}-{seed}.npz"
    if not path.exists():
        labels = subject.label("default" if method == DEFAULT else "paper", seed, **settings)
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


def swept(subject: Subject) -> list[Swept]:
    """Preset `paper` at every sigma from 0 to 1, from one run of it."""
    found = sigma_sweep(subject.label("paper", 0), subject.truth)
    assert found is not None
    moved, right = found["curves"]["relabelled"], found["curves"]["accuracy"]
    return [Swept(at / (len(moved) - 1), *both) for at, both in enumerate(zip(moved, right, strict=True))]


def meanings(subject: Subject, clusters: Labels) -> Labels:
    """For every cluster the class that it stands for, by the best mapping; -1 where none does, or it has no picture."""
    found = best_mapping(subject.truth, clusters)
    return np.append(found, np.full(len(subject.classes) - len(found), -1))


class Workshop:
    """What all rows of a subject share, and how a row is made."""

    def __init__(self, subject: Subject, work: Path) -> None:
        self.subject, self.work = subject, work
        self.network, self.judge = subject.network(), subject.judge()

    def measure(self, method: str, seed: int, steps: int) -> Measured:
        """Trains, draws and scores; training goes on from fewer steps where there were some."""
        start, subject = time.perf_counter(), self.subject
        labels = labels_of(subject, method, seed, self.work)
        model = self._trained(method, seed, steps, labels)
        named, count = method != UNCONDITIONAL, len(subject.classes)
        drawn = model.sample(
            subject.classes if named else None,
            subject.each if named else subject.each * count,
            guidance=subject.guidance if named else 0,
            steps=subject.sampler_steps,
            seed=seed,
            batch=256,
        )
        scores = evaluate({method: drawn}, subject.pixels, self.network, cache=self.work / "reference")[method]
        if seed == 0 and steps == subject.steps:
            shown = drawn.reshape(count, subject.each, *drawn.shape[1:])[:, :SHOWN]
            np.save(self.work / f"drawn-{_slug(method)}.npy", shown.reshape(-1, *drawn.shape[1:]))
        means = meanings(subject, labels) if method in NAMELESS else np.arange(count)
        asked, seen = np.repeat(means, subject.each), np.where(labels < 0, -1, means[labels])
        known = {k: v for k, v in asdict(scores).items() if k in {one.name for one in fields(Measured)}}
        return Measured(
            method=method,
            seed=seed,
            steps=steps,
            **known,
            label_accuracy=accuracy(subject.truth, seen) if named else float("nan"),
            asked_accuracy=float((self.judge.names(drawn) == asked).mean()) if named else float("nan"),
            judge_accuracy=self.judge.accuracy,
            seconds=time.perf_counter() - start,
            versions=versions(),
            date=date.today().isoformat(),
        )

    def _trained(self, method: str, seed: int, steps: int, labels: Labels) -> Generator:
        named, subject = method != UNCONDITIONAL, self.subject
        plan = Plan.named(
            subject.preset, len(subject.classes), conditional=named, seed=seed, changes=dict(subject.settings)
        )
        recipe = replace(plan.recipe, steps=steps)
        schedule = Schedule.from_name(plan.schedule, plan.timesteps)
        folder = self.work / f"{_slug(method)}-{seed}"
        set_aside(folder, steps)
        torch.manual_seed(seed)
        network = UNet(plan.network, null_class=named).to(subject.device, memory_format=torch.channels_last)
        loss = denoiser_loss(schedule, recipe, classes=plan.network.classes)
        pictures = Pictures(subject.pixels, labels, subject.classes)
        compiled = subject.device.type == "cuda"
        trained = train_network(network, loss, pictures, plan.timesteps, recipe, folder, compile=compiled)
        put_on(network, trained.averages[min(recipe.ema)])
        return Generator(
            network.eval(), subject.classes, plan.schedule, plan.timesteps, recipe.target, mixed=recipe.mixed
        )


def set_aside(folder: Path, steps: int) -> None:
    """Renames a folder whose training went beyond `steps`: what it was then can be made again, but not gone back to."""
    saved = History(folder).newest() if folder.exists() else None
    if saved is not None and saved.step > steps:
        folder.rename(folder.with_name(f"{folder.name}-to-{saved.step}"))


def _slug(method: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in method)


def side_by_side(subject: Subject, work: Path, path: Path) -> None:
    """What every method's first seed drew, a line each, once all have: the same noise, a few of each class in turn."""
    files = {method: work / f"drawn-{_slug(method)}.npy" for method in METHODS}
    if all(file.exists() for file in files.values()):
        drawn = {method: np.load(file) for method, file in files.items()}
        title = f"drawn after {subject.steps:,} steps: {SHOWN} of each class, where one could be asked for"
        write_grid(path, np.concatenate(list(drawn.values())), list(drawn), title=title)


def wanted(subject: Subject, curves: bool, sigmas: bool) -> list[Key]:
    """All rows to be made, the first seed of every method first."""
    rows = [(method, seed, subject.steps) for seed in SEEDS for method in METHODS]
    if curves:
        rows = [(method, 0, steps) for method in CURVED for steps in subject.curve] + rows
    if sigmas:
        rows += [(f"sigma {sigma:g}", 0, subject.steps) for sigma in SIGMAS]
    return rows


def make(subject: Subject, keys: list[Key], *, work: Path, rows: Path, figure: Path, minutes: float) -> None:
    """Makes the rows that are missing and adds each to the file of `rows`; begins none after so many minutes."""
    work.mkdir(parents=True, exist_ok=True)
    done, start = {row.key for row in read_measured(rows)}, time.monotonic()
    missing = [key for key in keys if key not in done]
    workshop = Workshop(subject, work) if missing else None
    for key in missing:
        if workshop is None or time.monotonic() - start > 60 * minutes:
            break
        row = workshop.measure(*key)
        append(row, rows)
        print(f"{row.method}, seed {row.seed}, {row.steps} steps: FID {row.fid:.2f} asked {row.asked_accuracy:.3f} "
              f"labels {row.label_accuracy:.3f} in {row.seconds:.0f} s", flush=True)  # fmt: skip
        side_by_side(subject, work, figure)


def options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--minutes", type=float, default=1e9, help="begin no row after this long")
    common.add_argument("--work", type=Path, default=HERE.parent / "build" / "reproduce", help="checkpoints and labels")
    common.add_argument("--curves", action="store_true", help="also the scores over training steps")
    common.add_argument("--sigmas", action="store_true", help="also labels and generators over sigma")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True)
    subjects.add_parser("digits", parents=[common], help="the whole table on two cores")
    stl = subjects.add_parser("stl10", parents=[common], help="the paper's own data, for a GPU")
    stl.add_argument("--data", type=Path, required=True, help="an .npz of its JPEG files, or a folder a class")
    stl.add_argument("--preset", default="stl96", choices=["stl64", "stl96"])
    stl.add_argument("--encoder", default="ViT-B-32/laion2b_s34b_b79k", help="what names the pictures, or mobilenet")
    stl.add_argument("--network", default="inception", help="what the scores look through")
    stl.add_argument("--weights", help="a file of Inception's weights")
    stl.add_argument("--steps", type=int, default=200_000, help="of training")
    stl.add_argument("--each", type=int, default=1300, help="pictures drawn of each class")
    return parser


def main() -> None:
    given = vars(options().parse_args())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(given.pop("subject"), **given)
    except (ValueError, OSError) as error:
        sys.exit(f"reproduce: error: {error}")
    except KeyboardInterrupt as interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one finds nothing left to interrupt
            signal.signal(number, signal.SIG_IGN)
        words = str(interrupt) or "interrupted; finished rows are kept, run the same command again to continue"
        print(f"reproduce: error: {words}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run(name: str, *, minutes: float, work: Path, curves: bool, sigmas: bool, **given: Any) -> None:
    """What the command does; other options are those of the subject."""
    set_threads(len(os.sched_getaffinity(0)))
    subject = digits() if name == "digits" else stl10(**given)
    keep_alike(given | subject.budget, options_file(subject.name), work / subject.name / "begun.json")
    if sigmas:
        write_sweep(swept(subject), sweep_file(subject.name))
    keys = wanted(subject, curves, sigmas)
    make(
        subject,
        keys,
        work=work / subject.name,
        rows=rows_file(subject.name),
        figure=grid_file(subject.name),
        minutes=minutes,
    )


if __name__ == "__main__":
    main()
