"""`gdui evaluate`: how faithful images are, and how well labels agree with the truth."""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gdui.cli.progress import Progress
from gdui.cli.settings import add_settings, given_settings

if TYPE_CHECKING:
    from gdui.evaluation.fidelity import Fidelity
    from gdui.labels import Labels

__all__ = ["add_commands"]

Commands = Any  # argparse keeps the type of its sub-commands to itself
CACHE = Path.home() / ".cache" / "gdui" / "references"


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command of evaluation."""
    parser = commands.add_parser(
        "evaluate", parents=[common], help="score images beside real ones, or labels beside the truth"
    )
    parser.add_argument(
        "sets", nargs="+", metavar="[NAME=]SOURCE", help="sets of images, a row each; or with --truth one run"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--reference", metavar="SOURCE", help="the real images")
    against.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="a CSV of id and label, or an .npy of class numbers in the run's order",
    )
    parser.add_argument("--network", default="inception", metavar="NAME", help="inception, digits or an encoder")
    parser.add_argument("--weights", metavar="FILE", help="Inception's weights; without it they are downloaded once")
    parser.add_argument("--size", type=int, metavar="N", help="the side all images are brought to")
    parser.add_argument("--samples", type=int, metavar="N", help="how many images of every set count")
    add_settings(parser, "source.FIELD=VALUE", "how sources are read, as source.image_column=photo; may be repeated")
    parser.set_defaults(command=evaluate)


def evaluate(arguments: argparse.Namespace) -> None:
    """Scores what it is given."""
    if arguments.truth is not None:
        _labels(arguments)
        return
    from gdui.config import SourceConfig
    from gdui.evaluation import fidelity
    from gdui.images import open_source

    reading = SourceConfig.remembered({}, given_settings(arguments)).given()
    with Progress() as progress:
        rows = fidelity.evaluate(
            {name: open_source(source, **reading) for name, source in _named(arguments.sets).items()},
            open_source(arguments.reference, **reading),
            arguments.network,
            weights=arguments.weights,
            size=arguments.size,
            samples=arguments.samples,
            cache=CACHE,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps({name: asdict(row) for name, row in rows.items()}))
    else:
        print(_table(rows))


def _named(sets: list[str]) -> dict[str, str]:
    """NAME=SOURCE, or a source that is its own name."""
    found: dict[str, str] = {}
    for one in sets:
        name, _, source = one.partition("=") if "=" in one and not Path(one).exists() else (one, "", one)
        if not source:
            raise ValueError(f"sets must be NAME=SOURCE or a source, not {one!r}")
        if name in found:
            raise ValueError(f"sets must have different names, but {name!r} stands there twice: use NAME=SOURCE")
        found[name] = source
    return found


def _table(rows: "dict[str, Fidelity]") -> str:
    from gdui.evaluation.fidelity import COLUMNS

    shown = [column for column in COLUMNS if any(getattr(row, column) is not None for row in rows.values())]
    width = max(map(len, rows))
    lines = [" ".join([f"{'':<{width}}", *(f"{COLUMNS[column]:>18}" for column in shown)])]
    for name, row in rows.items():
        lines.append(" ".join([f"{name:<{width}}", *(f"{getattr(row, column):>18.4f}" for column in shown)]))
    first = next(iter(rows.values()))
    return "\n".join(
        [*lines, f"{first.samples:,} images a row beside {first.references:,} real ones, seen by {first.network}"]
    )


def _labels(arguments: argparse.Namespace) -> None:
    from gdui.evaluation.agreement import agreement, calibration
    from gdui.labels import Labels

    if len(arguments.sets) != 1:
        raise ValueError(f"with --truth there must be one run, not {len(arguments.sets)}")
    labels = Labels.from_run(arguments.sets[0])
    known, truth = _truth(arguments.truth, labels)
    found = agreement(truth, labels.label_index[known])
    error = calibration(truth, labels.label_index[known], labels.numbers("confidence")[known]).error
    facts = {
        "accuracy": found.accuracy,
        "accuracy of the best renaming": found.mapped_accuracy,
        "NMI": found.nmi,
        "ARI": found.ari,
        "coverage": found.coverage,
        "accuracy where not abstained": found.kept_accuracy,
        "calibration error": error,
    }
    per_class = dict.fromkeys(labels.classes, math.nan)
    per_class |= dict(zip(labels.classes, found.per_class.tolist(), strict=False))
    if arguments.json:
        print(json.dumps(_known(facts) | {"per class": _known(per_class)}))
        return
    width = max(map(len, [*facts, *per_class]))
    print("\n".join(f"{name:<{width}}  {value:7.4f}" for name, value in (facts | per_class).items()))


def _truth(path: Path, labels: "Labels") -> tuple[npt.NDArray[np.integer], Any]:
    """The rows whose class is known, and their classes: all of them where it is an array."""
    if path.suffix != ".csv":
        return np.arange(len(labels)), _numbers(path)
    from gdui.labels.pins import read_pins
    from gdui.report.write import class_indices

    named = class_indices(labels, read_pins(path))
    known = np.flatnonzero(named >= 0)
    return known, named[known]


def _numbers(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except Exception:  # numpy's reader of headers has errors of many kinds
            raise ValueError(
                f"--truth must be a .csv of id and label or an .npy file of class numbers, and {path} is none"
            ) from None


def _known(scores: dict[str, float]) -> dict[str, float | None]:
    """None for a score that there is not: JSON has no NaN."""
    return {name: None if math.isnan(score) else score for name, score in scores.items()}
