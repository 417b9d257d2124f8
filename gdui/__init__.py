"""Labels for a heap of unlabelled images, and a generator that draws new ones of any named class.

Public names are imported on first use, so `import gdui` costs milliseconds.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME: dict[str, str] = {
    "Labeler": "gdui.labeling.labeler",
    "Generator": "gdui.diffusion.generator",
    "Labels": "gdui.labels",
    "train": "gdui.diffusion.workflow",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gdui' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
