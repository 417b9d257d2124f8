"""`gdui train` and `sample`."""

import argparse
import json
from pathlib import Path
from typing import Any

from gdui.cli.progress import Progress
from gdui.cli.settings import add_settings, given_settings

__all__ = ["add_commands"]

DEVICES = "cpu or cuda (default: the GPU where there is one)"
COMPILE = "GDUI_COMPILE=1 compiles on a CPU too, 0 nowhere"
Commands = Any  # argparse keeps the type of its sub-commands to itself


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the commands of the generator."""
    _add_train(commands, common)
    _add_sample(commands, common)


def _add_train(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("train", parents=[common], help="train a generator of the labels' classes")
    parser.add_argument("labels", type=Path, help="the folder of a labelling run, or its labels.parquet")
    parser.add_argument("source", help="the pictures that were labelled")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "--preset", default="small", metavar="NAME", help="tiny (8 pixels), small (32), medium (64), stl96, adm64, ..."
    )
    parser.add_argument("--objective", choices=("unet", "classifier", "both"), default="both", help="what to train")
    parser.add_argument("--unconditional", action="store_true", help="a UNet that is not told the classes")
    parser.add_argument("--classifier", choices=("adm", "spice"), default="adm", help="which network steers")
    parser.add_argument("--weigh", action="store_true", help="let the labels' confidence weigh the loss")
    parser.add_argument(
        "--average", type=float, metavar="DECAY", help="the running average to keep (default: the best)"
    )
    parser.add_argument("--start", type=Path, metavar="RUN", help="the generator whose UNet to begin with")
    add_settings(parser, "NAME=VALUE", "one setting, as recipe.steps=9000 or source.image_column=photo; repeatable")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="everything random follows from it (default: 0)"
    )
    parser.add_argument("--device", metavar="NAME", help=DEVICES)
    parser.add_argument("--no-compile", action="store_true", help=f"on a GPU start at once, run slower; {COMPILE}")
    parser.add_argument("--mode", choices=("continue", "overwrite"), default="continue", help="what to do with RUN")
    parser.set_defaults(command=train)


def _add_sample(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("sample", parents=[common], help="draw images from a trained generator")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a training run, or of a saved model")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder a class, and grid.png")
    parser.add_argument("--class", dest="classes", action="append", metavar="NAME", help="repeatable (default: all)")
    parser.add_argument("--unnamed", action="store_true", help="images of no named class")
    parser.add_argument("-n", type=int, action="append", help="of each class; or repeated, for each class its own")
    parser.add_argument(
        "--guidance", type=float, action="append", metavar="X", help="how hard to steer; may be repeated like -n"
    )
    parser.add_argument(
        "--guide", action="append", metavar="NAME[=SHARE]", help="classifier, free or auto; repeated they combine"
    )
    parser.add_argument("--weaker", type=Path, metavar="RUN", help="the generator that guide auto moves away from")
    parser.add_argument(
        "--grad-at", choices=("x", "mean"), default="x", help="where the classifier's gradient is taken"
    )
    parser.add_argument(
        "--method", choices=("dpm", "heun", "ddim", "ancestral"), default="dpm", help="the sampler (default: dpm)"
    )
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of the sampler (default: 20)")
    parser.add_argument(
        "--eta", type=float, metavar="SHARE", help="share of fresh noise; by default 1 with dpm, 0 with ddim"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="everything random follows from it (default: 0)"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at once (default: 64)")
    parser.add_argument("--device", metavar="NAME", help=DEVICES)
    parser.add_argument("--compile", action="store_true", help=f"on a GPU run faster after a slow start; {COMPILE}")
    parser.set_defaults(command=sample)


def train(arguments: argparse.Namespace) -> None:
    """Trains a generator into a run folder."""
    from gdui.diffusion.curves import ledger
    from gdui.diffusion.generator import Generator
    from gdui.diffusion.train import DivergedError
    from gdui.diffusion.workflow import train as train_generator

    try:
        with Progress() as progress:
            train_generator(
                arguments.labels,
                arguments.source,
                arguments.out,
                preset=arguments.preset,
                objective=arguments.objective,
                conditional=not arguments.unconditional,
                classifier=arguments.classifier,
                weigh=arguments.weigh,
                average=arguments.average,
                start=Generator.load(arguments.start) if arguments.start else None,
                settings=given_settings(arguments),
                seed=arguments.seed,
                device=arguments.device,
                compile=not arguments.no_compile,
                mode=arguments.mode,
                progress=progress,
            )
    except DivergedError as error:
        raise ValueError(str(error)) from error
    files = {name: arguments.out / name / "losses.csv" for name in ("unet", "classifier")}
    told = {name: ledger(file) for name, file in files.items() if file.exists()}
    if arguments.json:
        print(json.dumps({"run": str(arguments.out), "model": str(arguments.out / "model"), "networks": told}))
        return
    for name, one in told.items():
        print(
            f"{name}: {one['steps']:,} steps, loss {one['loss']:.4f}, {one['pictures_per_second']:,.0f} pictures/s, "
            f"{one['waited']:.1f} of {one['seconds']:.1f} s spent waiting for pictures"
        )
    print(f"the model is in {arguments.out / 'model'}, the losses in {arguments.out / 'losses.png'}")


def sample(arguments: argparse.Namespace) -> None:
    """Draws images into a folder."""
    from gdui.diffusion.album import GRID, draw_into
    from gdui.diffusion.generator import Generator
    from gdui.diffusion.workflow import device_of

    device = device_of(arguments.device)
    model = Generator.load(arguments.run).to(device)
    named = model.unet.config.classes is not None or model.classifier is not None
    classes = arguments.classes or (list(model.names) if named else None)
    with Progress() as progress:
        drawn = draw_into(
            arguments.out,
            model,
            None if arguments.unnamed else classes,
            _one_or_each(arguments.n, 1),
            guidance=_one_or_each(arguments.guidance, None),
            guide=dict(map(_share, arguments.guide)) if arguments.guide else None,
            weaker=Generator.load(arguments.weaker).to(device) if arguments.weaker else None,
            grad_at=arguments.grad_at,
            method=arguments.method,
            steps=arguments.steps,
            eta=arguments.eta,
            seed=arguments.seed,
            batch=arguments.batch,
            compile=arguments.compile,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps({"folder": str(arguments.out), "new": drawn, "grid": str(arguments.out / GRID)}))
        return
    print(f"drew {drawn:,} images into {arguments.out}; {arguments.out / GRID} shows them")


def _one_or_each(given: list[Any] | None, otherwise: Any) -> Any:
    return otherwise if not given else given[0] if len(given) == 1 else given


def _share(text: str) -> tuple[str, float]:
    """A guide and its share of the guidance, one where none is given."""
    name, sign, share = text.partition("=")
    try:
        return name, float(share) if sign else 1.0
    except ValueError:
        raise ValueError(f"guide must be a name, or a name and a share as in classifier=0.5, not {text!r}") from None
