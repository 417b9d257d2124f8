"""The one rule for scores that stand side by side: they were made alike, or they don't."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["comparable"]


def comparable(rows: Mapping[str, object], facts: Sequence[str] = ("samples", "references", "network")) -> None:
    """Refuses rows of one table that were not made alike: other numbers of images, or another network.

    Args:
        rows: name -> scores; each has the `facts` as attributes.
    """
    for fact in facts:
        named: dict[Any, str] = {}
        for name, row in rows.items():
            named.setdefault(getattr(row, fact), name)
        if len(named) > 1:
            listed = ", ".join(f"{name} has {value}" for value, name in named.items())
            remedy = f": samples={min(named)} looks at as many of each" if fact == "samples" else ""
            raise ValueError(f"rows of one table must have the same {fact}, but {listed}{remedy}")
