"""What a command of labelling is handed: images or their features, and perhaps scores."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gdui import checks
from gdui.config import SourceConfig
from gdui.images import Source, open_source
from gdui.images.shards import fingerprint, stamp_files
from gdui.labeling.features.matrix import load_features, read_manifest
from gdui.places import is_remote

__all__ = ["Inputs", "address"]


@dataclass(frozen=True)
class Inputs:
    """What is to be labelled: images, or with `ready` their features; and the file of scores, if there is one."""

    source: str
    ready: bool
    opinions: str | None = None

    @classmethod
    def of(cls, source: str, ready: bool, opinions: str | None) -> Self:
        for name, path in (("source", source), ("opinions", opinions)):
            if path is not None:
                checks.utf8(name, address(path) or "")
        return cls(str(address(source)), ready, address(opinions))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def open(self, out: Path, reading: SourceConfig) -> Source | None:
        """The images, unless their features are ready; a run that wrote among them would take its files for images."""
        if not (self.ready or is_remote(out)) and out.resolve().is_relative_to(self.source):
            raise ValueError(f"the run's folder {out} lies within the source {self.source}: choose another one")
        return None if self.ready else open_source(self.source, **reading.given())

    def check_opinions(self, classes: int, images: int) -> None:
        """Refuses scores that can't be of so many images (0 where nobody knows), before any of them is encoded."""
        given = None if self.opinions is None else load_features(self.opinions, name="opinions")
        if given is None or len(given) == classes:  # these may be vectors of the classes
            return
        if given.dim != classes:
            raise ValueError(f"opinions must have {classes} columns, one a class, not {given.dim}")
        if len(given) > images > 0:
            raise ValueError(f"opinions must have {images} rows, not {len(given)}")

    def stamp(self, images: Source | None) -> dict[str, str]:
        """For each input a text that changes when it does."""
        stamps = {} if self.opinions is None else {"opinions": stamp_files([self.opinions])}
        if self.ready and Path(self.source).is_dir():
            read_manifest(Path(self.source))
        if self.ready:
            return stamps | {"source": stamp_files([_whole(self.source)])}
        return stamps | {"source": images.fingerprint if images else fingerprint([])}


def address(path: str | None) -> str | None:
    """The same text wherever the command is called from; what is no local file stays as it is."""
    return path if path is None or not Path(path).exists() else str(Path(path).resolve())


def _whole(path: str) -> str:
    """The file that tells whether a file or a feature store has changed."""
    return str(Path(path) / "manifest.json") if Path(path).is_dir() else path
