"""`gdui label`, `relabel`, `predict`, `explain` and `demo`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdui.cli.progress import Progress

if TYPE_CHECKING:
    from gdui.config import Config
    from gdui.labeling.workflow import Outcome

__all__ = ["add_commands"]

Commands = Any  # argparse keeps the type of its sub-commands to itself


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the commands of labelling."""
    _add_label(commands, common)
    _add_relabel(commands, common)
    _add_predict(commands, common)
    _add_explain(commands, common)
    _add_demo(commands, common)


def _add_label(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("label", parents=[common], help="label images with the names of classes")
    parser.add_argument("source", help="a folder, tar shards, Parquet or arrays of images; see --features")
    parser.add_argument("--classes", type=Path, required=True, metavar="FILE", help="the names, one a line")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the folder of the run")
    parser.add_argument("--encoder", metavar="NAME", help="what turns images and names into features")
    _add_ready(parser)
    parser.add_argument("--preset", choices=("default", "paper"), help="default labels best, paper follows the text")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="one setting; may be repeated"
    )
    parser.add_argument("--mode", choices=("continue", "overwrite"), default="continue", help="what to do with RUN")
    parser.set_defaults(command=label)


def _add_relabel(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("relabel", parents=[common], help="give a run other classes; its features are reused")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--classes", type=Path, required=True, metavar="FILE", help="the names, one a line")
    _add_opinions(parser)
    parser.set_defaults(command=relabel)


def _add_predict(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("predict", parents=[common], help="label new images by what a run has learned")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("source", help="as for label")
    parser.add_argument("--out", type=Path, metavar="RUN2", help="by default RUN/predicted/NAME")
    _add_ready(parser)
    parser.set_defaults(command=predict)


def _add_explain(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("explain", parents=[common], help="say why an image has its label")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("id", help="the image's id, as labels.parquet has it")
    parser.set_defaults(command=explain)


def _add_demo(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("demo", parents=[common], help="label handwritten digits with what is on board")
    parser.add_argument("--out", type=Path, default=Path("demo-run"), metavar="RUN", help="default: demo-run")
    parser.set_defaults(command=demo)


def _add_ready(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", action="store_true", help="SOURCE holds features: an .npy [N, d] or a store")
    _add_opinions(parser)


def _add_opinions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--opinions", metavar="FILE", help="an .npy [N, C] of scores, instead of the encoder's")


def label(arguments: argparse.Namespace) -> None:
    """Labels a source into a run folder."""
    from gdui.labeling.workflow import label_run

    classes, config = _class_names(arguments.classes), _configuration(arguments)
    with Progress() as progress:
        outcome = label_run(
            arguments.source,
            classes,
            arguments.out,
            config,
            ready=arguments.features,
            opinions=arguments.opinions,
            mode=arguments.mode,
            progress=progress,
        )
    _report(outcome, as_json=arguments.json)


def relabel(arguments: argparse.Namespace) -> None:
    """Names the images of a run anew."""
    from gdui.labeling.workflow import relabel_run

    with Progress() as progress:
        classes = _class_names(arguments.classes)
        outcome = relabel_run(arguments.run, classes, opinions=arguments.opinions, progress=progress)
    _report(outcome, as_json=arguments.json)


def predict(arguments: argparse.Namespace) -> None:
    """Labels new images."""
    from gdui.labeling.workflow import predict_run

    with Progress() as progress:
        outcome = predict_run(
            arguments.run,
            arguments.source,
            arguments.out,
            ready=arguments.features,
            opinions=arguments.opinions,
            progress=progress,
        )
    _report(outcome, as_json=arguments.json)


def explain(arguments: argparse.Namespace) -> None:
    """Says why one image has its label."""
    from gdui.labels import Labels

    labels = Labels.from_run(arguments.run)
    text = labels.why(arguments.id)
    print(json.dumps(labels.row(arguments.id) | {"why": text}) if arguments.json else text)


def demo(arguments: argparse.Namespace) -> None:
    """Labels the embedded digits."""
    from gdui import demo as package

    found = package.run(arguments.out)
    if arguments.json:
        scores = {score.way: score.accuracy for score in found.scores}
        print(json.dumps({"scores": scores, "run": str(found.folder), "sheet": str(found.sheet)}))
        return
    print(found)


def _class_names(path: Path) -> list[str]:
    """One name a line; blank lines don't count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _configuration(arguments: argparse.Namespace) -> "Config":
    """The preset's settings, changed by the file's, and these by what the command line says."""
    from gdui import toml
    from gdui.config import Config

    written = toml.read(arguments.config) if arguments.config else {}
    overrides = dict(map(toml.parse_override, arguments.set))
    chosen = [arguments.preset, overrides.pop("preset", None), written.get("preset"), "default"]
    preset = next(one for one in chosen if one is not None)
    config = Config.from_dict({**written, "preset": preset}).override(overrides)
    return config.override({"encode.encoder": arguments.encoder}) if arguments.encoder else config


def _report(outcome: "Outcome", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.to_dict()))
        return
    print(outcome.labels.summary())
    if outcome.quarantined:
        print(f"{outcome.quarantined:,} images could not be read: {outcome.folder / 'quarantine.parquet'} says why")
    if outcome.left_out:
        rest = ", ..." if outcome.left_out > len(outcome.examples) else ""
        print(f"left out {outcome.left_out:,} files that are no images: {', '.join(outcome.examples)}{rest}")
    if outcome.diff is not None:
        print(outcome.diff)
    print(_ledger(outcome))
    print(f"labels are in {outcome.folder / 'labels.parquet'}")


def _ledger(outcome: "Outcome") -> str:
    """A line a stage, and which of them took longest."""
    ledger = outcome.labels.facts.ledger
    if not ledger:
        return "nothing was left to do"
    lines = [f"{'stage':<12}{'seconds':>10}{'images':>12}{'images/s':>12}"]
    for stage, (seconds, images) in ledger.items():
        rate = f"{images / seconds:,.0f}" if seconds > 0 else "-"
        lines.append(f"{stage:<12}{seconds:>10.2f}{images:>12,}{rate:>12}")
    return "\n".join([*lines, f"the bottleneck is {outcome.bottleneck}"])
