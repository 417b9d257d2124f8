"""A folder of images, cut into shards that a new file disturbs as little as possible."""

import logging
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from gdui.labeling.images.decode import readable_suffixes
from gdui.labeling.images.readers import printable, read_files
from gdui.labeling.images.shards import Shard, Source, fingerprint

__all__ = ["open_folder"]

MEAN_FILES = 2048

log = logging.getLogger(__name__)


def open_folder(root: Path) -> Source:
    """Every picture below `root` by its suffix, and every file without one; hidden files are left alone."""
    ignored: Counter[str] = Counter()
    names = sorted(_walk(root, "", (_identity(root),), ignored))
    listed = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5))
    if not names:
        found = f"only {listed}; name archives by a pattern: 'folder/*.tar'" if listed else "and nothing else either"
        raise ValueError(f"source {str(root)!r} holds no images, {found}")
    if listed:
        log.info("%s: left out what is no image by its suffix: %s", root, listed)
    return Source(str(root), [_shard(root, part) for part in _cut(names)], ignored)


def _shard(root: Path, names: Sequence[str]) -> Shard:
    return Shard.make(names[0], partial(read_files, root, names), partial(_stamp, root, names), len(names))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(root: Path, below: str, ancestors: tuple[tuple[int, int], ...], ignored: Counter[str]) -> Iterator[str]:
    """Relative paths of what may be images; links to folders are followed, but never back to an ancestor."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                identity = _identity(root / name)
                if identity in ancestors:
                    yield name
                else:
                    yield from _walk(root, f"{name}/", (*ancestors, identity), ignored)
            elif (suffix := PurePosixPath(name).suffix.lower()) in readable_suffixes() or not suffix:
                yield name
            else:
                ignored[suffix] += 1


def _cut(names: Sequence[str]) -> Iterator[list[str]]:
    """Runs of names that end where a name's own hash says so: a new file changes one shard, not all that follow."""
    part: list[str] = []
    for name in names:
        part.append(name)
        if zlib.crc32(os.fsencode(name)) % MEAN_FILES == 0 or len(part) == 2 * MEAN_FILES:
            yield part
            part = []
    if part:
        yield part


def _stamp(root: Path, names: Sequence[str]) -> str:
    return fingerprint([(printable(name), *_size_and_time(root / name)) for name in names])


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-2, -2)
