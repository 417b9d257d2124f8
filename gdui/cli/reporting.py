"""`gdui report` and `doctor`."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from gdui.cli.settings import READ_OTHERWISE, add_settings, given_settings

__all__ = ["add_commands"]

Commands = Any  # argparse keeps the type of its sub-commands to itself


def add_commands(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the commands by which a person sees what there is."""
    _add_report(commands, common)
    _add_doctor(commands, common)


def _add_report(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("report", parents=[common], help="write a page by which a person can judge a run")
    parser.add_argument("run", metavar="RUN", help="the folder of a run of gdui label")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="by default RUN/report.html, or here for a run on a store"
    )
    parser.add_argument("--images", metavar="SOURCE", help="where the pictures are, if not where the run found them")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="a CSV of id and label to compare with")
    add_settings(parser, "source.FIELD=VALUE", READ_OTHERWISE)
    parser.set_defaults(command=report)


def _add_doctor(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("doctor", parents=[common], help="say what this machine can use, and what is missing")
    parser.set_defaults(command=doctor)


def report(arguments: argparse.Namespace) -> None:
    """Writes the report of a run."""
    from gdui.report import report_run

    path = report_run(
        arguments.run, arguments.out, images=arguments.images, truth=arguments.truth, settings=given_settings(arguments)
    )
    print(json.dumps({"report": str(path)}) if arguments.json else f"the report is in {path}: open it in a browser")


def doctor(arguments: argparse.Namespace) -> None:
    """Says what this machine can use."""
    from gdui.doctor import examine

    findings = examine()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in findings]))
        return
    width = max(len(one.name) for one in findings)
    for one in findings:
        print(f"{'yes' if one.usable else ' no'}  {one.name:<{width}}  {one.what}")
        if one.advice:
            print(f"     {'':<{width}}  {one.advice}")
