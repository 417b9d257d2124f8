"""Settings on a command line: `--set NAME=VALUE`, as often as wanted."""

import argparse
from typing import Any

from gdui import toml

__all__ = ["READ_OTHERWISE", "add_settings", "given_settings"]

READ_OTHERWISE = "how the source is read where not as the run's, as source.image_column=photo; may be repeated"


def add_settings(parser: argparse.ArgumentParser, form: str, meaning: str) -> None:
    """Adds the option; `form` is what stands behind it."""
    parser.add_argument("--set", action="append", default=[], metavar=form, help=meaning)


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings by dotted name."""
    return dict(map(toml.parse_override, arguments.set))
