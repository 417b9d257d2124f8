"""Settings as TOML: in a run folder, in a configuration file, and as `stage.field=value` on a command line."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["dumps", "parse_override", "read"]


def dumps(nested: Mapping[str, Any]) -> str:
    """TOML of strings, numbers, booleans, lists of them, and tables one level deep; None is left out."""
    plain = {name: value for name, value in nested.items() if not isinstance(value, Mapping)}
    tables = {name: value for name, value in nested.items() if isinstance(value, Mapping)}
    blocks = [_lines(plain)] + [f"[{_key(name)}]\n{_lines(table)}" for name, table in tables.items()]
    return "\n".join(block for block in blocks if block)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in the file `path`."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a TOML file: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """The dotted name and the value of `stage.field=value`: a TOML value, `none`, or else the text as it stands."""
    name, sign, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not sign or not name:
        raise ValueError(f"a setting must be given as stage.field=value, not {text!r}")
    if value.lower() == "none":
        return name, None
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return name, value
    return name, parsed["value"] if len(parsed) == 1 else value


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings, numbers and booleans are TOML's, but for the one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
