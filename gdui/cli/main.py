"""Which commands there are, and how each may end: 0 well, 1 with a mistake, 2 misused, 130 interrupted."""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gdui import __version__, checks
from gdui.cli import evaluating, generating, labeling, reporting, reproducing

__all__ = ["main", "parser"]

FAILED, INTERRUPTED = 1, 130
GROUPS = (labeling, generating, evaluating, reporting, reproducing)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else threads of PyTorch spin, and starve on shared cores
    arguments = parser().parse_args(argv)
    shown = logging.StreamHandler()
    shown.setLevel(logging.DEBUG if arguments.debug else logging.WARNING)
    logging.basicConfig(format="gdui: %(message)s", level=shown.level, handlers=[shown])
    try:
        with _said_once():
            arguments.command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one finds nothing left to interrupt
        words = str(interrupt) or "interrupted; run the same command again to continue"
        words += ", without --mode overwrite" * (getattr(arguments, "mode", None) == "overwrite")
        return _failed(arguments, words, INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return FAILED
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        return _failed(arguments, _words(error), FAILED)
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        return _failed(arguments, f"out of memory: {str(error).splitlines()[0]}", FAILED)
    return 0


def _words(error: Exception) -> str:
    """What went wrong; the system's own errors name the file first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".rstrip(": ")
    return str(error) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    """Where a choice or an option is misspelt it says which one may be meant."""

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Ends the command where something is left over: only the command's own parser knows what may be meant."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((one.partition("=")[0] for one in unknown if one.startswith("-")), "").lstrip("-")
            known_options = [one[2:] for one in self._option_string_actions if one.startswith("--")]
            meant = checks.did_you_mean(option, known_options, "--")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Ends the command with this message."""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += checks.did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    whole = _Parser(prog="gdui", description="Labels for a heap of unlabelled images.")
    whole.add_argument("--version", action="version", version=f"gdui {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add_commands(commands, common)
    return whole


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Under torchrun the first rank prints for all."""
    if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _failed(arguments: argparse.Namespace, message: str, code: int) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(f"gdui: error: {message}", file=sys.stderr)
    return code


def _silence_stdout() -> None:
    """Whoever read our output has left: what is still buffered goes nowhere, and Python need not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
