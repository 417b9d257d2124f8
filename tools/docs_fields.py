"""Shows the fields that a docstring explains, a line each as `name: what it is`, as a list in the documentation."""

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.+)$")


class Fields(griffe.Extension):
    """Puts list marks before such lines; those that go on below keep their indent."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every documented object."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """The text with each field as an item of a list; sections such as Args stay as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        found = FIELD.match(line)
        if not found:
            lines.append(line)
            continue
        if lines and lines[-1].strip() and not lines[-1].startswith(("- ", "    ")):
            lines.append("")
        names = ", ".join(f"`{name}`" for name in found["names"].split(", "))
        lines.append(f"- {names}: {found['text']}")
    return "\n".join(lines)
