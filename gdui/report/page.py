"""One file that needs nothing else: the data, the style and the scripts within the template.

The page's own security policy lets it run these scripts alone, and load nothing but pictures that lie beside it. The
data are a block of JSON, and the scripts put text into the page as text, never as markup.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

__all__ = ["page"]

# In the order in which they build on each other.
SCRIPTS = (
    "dom",
    "look",
    "corrections",
    "inspect",
    "overview",
    "charts",
    "confusion",
    "map",
    "classes",
    "review",
    "main",
)


def page(data: Mapping[str, Any], title: str) -> str:
    """The whole page."""
    style = _read("style.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_read(f"{name}.js") for name in SCRIPTS) + "\n})();\n"
    parts = {
        "policy": _policy(style, script, "'self' data:" if data["head"]["folder"] else "data:"),
        "title": html.escape(title),
        "style": style,
        "data": _json(data),
        "script": script,
    }
    text = _read("template.html")
    head, *rest = text.split("{{")
    return head + "".join(parts[name] + tail for name, _, tail in (one.partition("}}") for one in rest))


def _read(name: str) -> str:
    return (files("gdui.report") / "page" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str, pictures: str) -> str:
    allowed = {
        "default-src": "'none'",
        "img-src": pictures,
        "style-src": _digest(style),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Mapping[str, Any]) -> str:
    """JSON in which no tag can end or begin."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
