"""Labels that a person gave: a CSV of id and label, as the report exports it; an empty label says that none fits.

A cell that a spreadsheet would take for a formula has a quote in front wherever gdui writes one; it is read without.
"""

import csv
import os
import re
from collections.abc import Mapping

from gdui.places import place
from gdui.runs import atomic_path

__all__ = ["FORMULA", "read_pins", "write_pins"]

COLUMNS = ("id", "label")
# OWASP's list of signs to begin with, behind any quotes: so each quote that was put in front can be told.
FORMULA = r"^('*[=+\-@\t\r\n＝＋－＠])"  # noqa: RUF001 - the wide signs are meant


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
                pins[_unguarded(line["id"])] = _unguarded(line["label"])
            return pins
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path!s} is not a CSV file in UTF-8: {error}") from None


def write_pins(path: str | os.PathLike[str], pins: Mapping[str, str]) -> None:
    """Writes what `read_pins` reads, whole or not at all."""
    rows = [[re.sub(FORMULA, r"'\1", cell) for cell in row] for row in pins.items()]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and re.match(FORMULA, cell) else cell
