"""A hook of mkdocs: the page of commands is written from the parser that the command line itself uses."""

import argparse
from collections.abc import Iterator
from typing import Any

from gdui.cli.main import parser

PLACE = "<!-- commands -->"
EVERYWHERE = ("help", "json", "debug")  # options that the page names once


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for every page, before it is rendered."""
    return markdown.replace(PLACE, "\n\n".join(map(section, commands()))) if PLACE in markdown else markdown


def commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(name, what it does, its parser) of each command, in the order of `gdui --help`."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, helps[name], of_command) for name, of_command in action.choices.items())


def section(command: tuple[str, str, argparse.ArgumentParser]) -> str:
    """A command: how it is called, and a line for each argument."""
    name, about, of_command = command
    actions = [one for one in of_command._actions if one.dest not in EVERYWHERE]
    given = [called(one) for one in actions if one.required or not one.option_strings]
    usage = " ".join(["gdui", name, *given, *["[options]"][: len(actions) > len(given)]])
    rows = [f"| {names(one)} | {meaning(one)} |" for one in actions]
    lines = ["| | |", "| --- | --- |", *rows] if rows else []
    return "\n".join(
        [
            f"## gdui {name}",
            "",
            f"{about.capitalize()}.",
            "",
            "```text",
            usage,
            "```",
            "",
            *lines,
        ]
    )


def called(action: argparse.Action) -> str:
    """An argument as it is typed."""
    value = placeholder(action)
    if not action.option_strings:
        return {"?": f"[{value}]", "+": f"{value} ...", argparse.REMAINDER: "..."}.get(str(action.nargs), value)
    return f"{action.option_strings[-1]} {value}".strip()


def placeholder(action: argparse.Action) -> str:
    """What stands for an argument's value, "" where it takes none."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def names(action: argparse.Action) -> str:
    """All names of an argument, with its value."""
    typed = action.option_strings or [""]
    return ", ".join(f"`{f'{name} {placeholder(action)}'.strip()}`" for name in typed)


def meaning(action: argparse.Action) -> str:
    """The help of an argument, and its default where the help doesn't say it."""
    text = (action.help or "").replace("|", "\\|")
    plain = isinstance(action.default, int | float | str) and not isinstance(action.default, bool)
    if plain and "default" not in text and action.default != argparse.SUPPRESS:
        text += f" (default: {action.default})" if text else f"default: {action.default}"
    return text
