"""`gdui label`, `relabel`, `predict`, `explain` and `demo`."""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdui import checks, toml
from gdui.cli.progress import Progress
from gdui.cli.settings import READ_OTHERWISE, add_settings, given_settings
from gdui.encoder_names import check_encoder

if TYPE_CHECKING:
    from gdui.config import Config
    from gdui.labeling.summary import Outcome

__all__ = ["add_commands"]

# As the workflow knows them, which only a command imports.
MODES = ("continue", "overwrite", "extend")
ENGINES = ("local", "ray")

SOURCES = (
    "images: a folder, tar shards ('s3://box/s-{000..099}.tar'), Parquet, or an .npy of pixels; "
    "or vectors, see --features"
)
ENCODERS = (
    "what sees images and names: MODEL/TAG of open_clip (default: ViT-B-32/laion2b_s34b_b79k), MODEL/FILE with weights "
    "of your own, hf-hub:timm/ViT-B-16-SigLIP, local-dir:FOLDER, torchvision:resnet50/FILE (needs --opinions), or "
    "digits, which is shipped"
)

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
    parser.add_argument("source", nargs="?", help=SOURCES)
    _add_classes(parser)
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="the folder of the run; also on a store, as s3://bucket/run"
    )
    parser.add_argument("--encoder", metavar="NAME", help=ENCODERS)
    parser.add_argument("--cluster-by", metavar="NAME", help="another encoder, or NAME#LAYER as in digits#layer3")
    _add_ready(parser)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="what is known already: a CSV of id and label")
    parser.add_argument("--labels-column", metavar="NAME", help="the same from a column of the Parquet files")
    parser.add_argument("--preset", choices=("default", "paper"), help="default labels best, paper follows the text")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML, such as a run's config.toml")
    add_settings(parser, "STAGE.FIELD=VALUE", "one setting, as source.image_column=photo; may be repeated")
    parser.add_argument(
        "--mode", choices=MODES, default="continue", help="what to do with RUN; extend labels new images only"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="ray: on the machines of a Ray cluster; the same labels"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="with ray, how many encode at once; default: one a GPU or a machine"
    )
    parser.set_defaults(command=label)


def _add_relabel(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "relabel", parents=[common], help="give a run other classes, or corrections; no image is read"
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run of gdui label")
    _add_classes(parser)
    parser.add_argument("--corrections", type=Path, metavar="FILE", help="a CSV of id and label, as the report exports")
    _add_opinions(parser)
    parser.set_defaults(command=relabel)


def _add_predict(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("predict", parents=[common], help="label new images by what a run has learned")
    parser.add_argument("run", metavar="RUN", help="the folder of a run of gdui label")
    parser.add_argument("source", help="as for label")
    parser.add_argument("--out", metavar="RUN2", help="by default RUN/predicted/NAME")
    _add_ready(parser)
    add_settings(parser, "source.FIELD=VALUE", READ_OTHERWISE)
    parser.set_defaults(command=predict)


def _add_explain(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("explain", parents=[common], help="say why an image has its label")
    parser.add_argument("run", metavar="RUN", help="the folder of a run of gdui label")
    parser.add_argument("id", type=_written, help="the image's id, as labels.parquet has it, its end, or its path")
    parser.set_defaults(command=explain)


def _written(id_: str) -> str:
    """Of a file name that is not UTF-8 an id has the bytes written out."""
    return os.fsencode(id_).decode("utf-8", "backslashreplace")


def _add_demo(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("demo", parents=[common], help="label handwritten digits, then draw new ones")
    parser.add_argument("--out", type=Path, default=Path("demo-run"), metavar="RUN", help="default: demo-run")
    parser.add_argument("--labels-only", action="store_true", help="don't train a generator")
    parser.set_defaults(command=demo)


def _add_classes(parser: argparse.ArgumentParser) -> None:
    names = 'the names, one a line; or TOML of names and texts on each: cat = ["a tabby asleep"]'
    parser.add_argument("--classes", type=Path, metavar="FILE", help=names)


def _add_ready(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", action="store_true", help="SOURCE holds features: an .npy [N, d] or a store")
    _add_opinions(parser)


def _add_opinions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opinions", metavar="FILE", help="an .npy of scores [N, C], or of vectors of the classes [C, d]"
    )


def label(arguments: argparse.Namespace) -> None:
    """Labels a source into a run folder; mistakes in the settings are found before anything large is imported."""
    written = toml.read(arguments.config) if arguments.config else {}
    classes, inputs = _classes(arguments.classes, written, arguments.config), written.pop("inputs", {})
    if arguments.source is not None:
        inputs = {"source": arguments.source, "ready": arguments.features}
    if "source" not in inputs:
        raise ValueError("label needs a source of images: name a folder, or a --config that has inputs.source")
    config = _configuration(arguments, written)
    for name in (config.encode.encoder, config.encode.cluster_by):
        if name is not None:
            check_encoder(name)
    from gdui.labeling.workflow import label_run

    with Progress() as progress:
        outcome = label_run(
            inputs["source"],
            classes,
            arguments.out,
            config,
            ready=inputs.get("ready", False),
            opinions=arguments.opinions or inputs.get("opinions"),
            labels=arguments.labels,
            labels_column=arguments.labels_column,
            mode=arguments.mode,
            engine=arguments.engine,
            workers=arguments.workers,
            progress=progress,
        )
    if outcome is not None:
        _report(outcome, as_json=arguments.json)


def relabel(arguments: argparse.Namespace) -> None:
    """Names the images of a run anew."""
    from gdui.labeling.workflow import relabel_run

    if arguments.classes is None and arguments.corrections is None:
        raise ValueError("relabel needs other names (--classes) or what a person said of images (--corrections)")
    with Progress() as progress:
        outcome = relabel_run(
            arguments.run,
            None if arguments.classes is None else _classes(arguments.classes, {}),
            corrections=arguments.corrections,
            opinions=arguments.opinions,
            progress=progress,
        )
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
            settings=given_settings(arguments),
            progress=progress,
        )
    _report(outcome, as_json=arguments.json)


def explain(arguments: argparse.Namespace) -> None:
    """Says why one image has its label."""
    from gdui.labels import Labels

    labels = Labels.from_run(arguments.run)
    id_ = labels.find(arguments.id)
    text = labels.why(id_)
    print(json.dumps(labels.row(id_) | {"why": text}) if arguments.json else text)


def demo(arguments: argparse.Namespace) -> None:
    """Labels the embedded digits, then draws new ones."""
    from gdui import demo as package

    with Progress() as progress:
        found = package.run(arguments.out, progress=progress)
    told = {
        "scores": {score.way: score.accuracy for score in found.scores},
        "run": str(found.folder),
        "sheet": str(found.sheet),
    }
    if not arguments.json:
        print(found, flush=True)
    if not arguments.labels_only:
        with Progress() as progress:
            drawn = package.draw_digits(found.labels, arguments.out, progress=progress)
        told["drawn"] = str(drawn.grid)
        if not arguments.json:
            print(f"drew new digits by name: {drawn.grid}; draw more with: gdui sample {arguments.out / 'generator'}")
    if arguments.json:
        print(json.dumps(told))


def _classes(path: Path | None, written: dict[str, Any], config: Path | None = None) -> dict[str, list[str]]:
    """Names and the texts on each, from the file, or else taken out of what a configuration has `written`."""
    names, texts = written.pop("classes", None), written.pop("descriptions", {})
    if path is None and names is None:
        raise ValueError("label needs names: give --classes FILE, or a --config that has classes")
    if path is not None and path.suffix == ".toml":
        names = texts = toml.read(path)
    elif path is not None:
        names, texts = _lines(path), {}
    with _said_of(path or config):
        listed = checks.class_names(names)
        if unknown := sorted(set(texts) - set(listed)):
            raise ValueError(f"descriptions are given for {unknown}, which are no classes")
        checks.descriptions(texts)
    return {name: texts.get(name, []) for name in listed}


@contextmanager
def _said_of(file: Path | None) -> Iterator[None]:
    """Mistakes within are those of `file`, if there is one."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if file is None:
            raise
        raise ValueError(f"{file}: {error}") from None


def _lines(path: Path) -> list[str]:
    """One name a line; blank lines don't count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from None
    at: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, lines), 1):
        if name and at.setdefault(name, number) != number:
            raise ValueError(f"{path}, line {number}: the class {name!r} stands in line {at[name]} already")
    return list(at)


def _configuration(arguments: argparse.Namespace, written: dict[str, Any]) -> "Config":
    """The preset's settings, changed by what a file has `written`, and these by what the command line says."""
    from gdui.config import Config

    overrides = given_settings(arguments)
    asked = [one for one in (arguments.preset, overrides.pop("preset", None)) if one is not None]
    preset = Config.named(asked[0]).preset if asked else written.get("preset", "default")
    with _said_of(arguments.config):
        config = Config.from_dict({**written, "preset": preset})
    config = config.override(overrides)
    named = {"encode.encoder": arguments.encoder, "encode.cluster_by": arguments.cluster_by}
    return config.override({name: value for name, value in named.items() if value is not None})


def _report(outcome: "Outcome", *, as_json: bool) -> None:
    from gdui.labels.words import counted, summary

    if as_json:
        print(json.dumps(outcome.to_dict()))
        return
    print(summary(outcome.totals))
    if outcome.totals.quarantine.num_rows:
        print(f"{outcome.folder / 'quarantine.parquet'} says why")
    if outcome.left_out:
        rest = ", ..." if outcome.left_out > len(outcome.examples) else ""
        what = "file that is no image" if outcome.left_out == 1 else "files that are no images"
        print(f"left out {outcome.left_out:,} {what}: {', '.join(outcome.examples)}{rest}")
    if outcome.idle:
        said = counted(outcome.idle, "correction")
        print(f"{said} in {outcome.folder / 'corrections.csv'} without effect: the labels there are no classes now")
    if outcome.diff is not None:
        print(outcome.diff)
    print(_ledger(outcome))
    print(f"labels are in {outcome.folder / 'labels.parquet'}")


def _ledger(outcome: "Outcome") -> str:
    """A line a stage, and which of them took longest."""
    ledger = outcome.ledger
    if not ledger:
        return "nothing was left to do"
    lines = [f"{'stage':<12}{'seconds':>10}{'images':>12}{'images/s':>12}"]
    for stage, (seconds, images) in ledger.items():
        rate = f"{images / seconds:,.0f}" if images and seconds > 0 else "-"
        lines.append(f"{stage:<12}{seconds:>10.2f}{f'{images:,}' if images else '-':>12}{rate:>12}")
    return "\n".join([*lines, f"the bottleneck is {outcome.bottleneck}"])
