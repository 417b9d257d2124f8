"""Labels that a person gave: a CSV of id and label, as the report exports it; an empty label says that none fits."""

import csv
import os
from collections.abc import Mapping

from gdui.places import place
from gdui.runs import atomic_path

__all__ = ["read_pins", "write_pins"]

COLUMNS = ("id", "label")


def read_pins(path: str | os.PathLike[str]) -> dict[str, str]:
    """id -> class name, "" for none. Other columns are left alone, a later line corrects an earlier one."""
    try:
        with place(path).open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (lines.fieldnames or [])]
            if missing:
                raise ValueError(f"{path!s} must begin with a line that names the columns id and label")
            pins: dict[str, str] = {}
            for line in lines:
                if line["id"] is None or line["label"] is None:
                    raise ValueError(f"{path!s}, line {lines.line_num}, has too few columns")
                pins[line["id"]] = line["label"]
            return pins
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path!s} is not a CSV file in UTF-8: {error}") from None


def write_pins(path: str | os.PathLike[str], pins: Mapping[str, str]) -> None:
    """Writes what `read_pins` reads, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *pins.items()])
