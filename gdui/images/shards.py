"""A source is a list of shards, the unit of work; a shard knows how to be read and when its files have changed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from gdui.images.readers import Item

__all__ = ["ROWS", "Shard", "Source", "fingerprint", "stamp_files"]

ROWS = 4096  # of arrays and Parquet files; archives are shards as they come


@dataclass(frozen=True)
class Shard:
    """Some images of a source that are read, encoded and written together.

    count, names: how many there are and all their ids, None where only reading them tells; names may yet be damaged.
    """

    key: str
    read: Callable[[], Iterator[Item]]
    stamp: Callable[[], str]
    fingerprint: str
    count: int | None = None
    names: Callable[[], Iterable[str] | None] | None = None

    @classmethod
    def make(
        cls,
        key: str,
        read: Callable[[], Iterator[Item]],
        stamp: Callable[[], str],
        count: int | None = None,
        names: Callable[[], Iterable[str] | None] | None = None,
    ) -> "Shard":
        """A shard as its files stand now; its functions can be pickled, so that other processes may read it."""
        return cls(key, read, stamp, stamp(), count, names)

    def called(self) -> Iterable[str] | None:
        """All its images' ids, None where only reading them tells."""
        return None if self.names is None else self.names()

    def changed(self) -> bool:
        """Whether its files are no longer those it was made from."""
        try:
            return self.stamp() != self.fingerprint
        except OSError:
            return True


@dataclass(frozen=True)
class Source:
    """Shards in a fixed order, and the files that were left out because their suffix is no picture's."""

    name: str
    shards: list[Shard]
    ignored: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        """A hash that changes when its images do."""
        return fingerprint([shard.fingerprint for shard in self.shards])

    @property
    def example(self) -> str | None:
        """What an image is called, where that is known without reading."""
        return next((name for shard in self.shards for name in shard.called() or ()), None)

    def lacks(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that no image has; none where only reading the images would tell, as in packed archives."""
        missing = dict.fromkeys(ids)
        for shard in self.shards:
            if not missing or (called := shard.called()) is None:
                return []
            for name in called:
                missing.pop(name, None)
        return list(missing)


def fingerprint(*parts: Any) -> str:
    """A short hash of plain values."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def stamp_files(urls: Sequence[str], *what: Any) -> str:
    """A hash of `what`, and of the files' sizes and times or entity tags."""
    return fingerprint(what, *map(_file_stamp, urls))


def _file_stamp(url: str) -> list[str]:
    files, path = fsspec.core.url_to_fs(url)
    info = files.info(path)
    marks = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated", "created")
    return [str(info.get("size")), next((str(info[mark]) for mark in marks if info.get(mark) is not None), "")]
