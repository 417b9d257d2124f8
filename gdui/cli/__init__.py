"""The command line: parses, calls the library, prints; nothing else."""

from gdui.cli.main import main

__all__ = ["main"]
