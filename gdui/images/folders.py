"""A folder of images, cut into shards that a new file disturbs as little as possible."""

import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from gdui.images.decode import readable_suffixes
from gdui.images.readers import printable, read_files
from gdui.images.shards import Shard, Source, fingerprint

__all__ = ["DRAWN_FACTS", "DRAWN_GRID", "open_folder"]

MEAN_FILES = 2048
DRAWN_FACTS, DRAWN_GRID = "drawing.json", "grid.png"  # what stands beside drawn images


def open_folder(root: Path) -> Source:
    """Every picture below `root` by its suffix, and every file without one; hidden files are left alone.

    Where the images were drawn by a generator, the grid that shows them all is none of them.
    """
    ignored: list[str] = []
    names = sorted(_walk(root, ignored))
    if not names:
        suffixes = Counter(PurePosixPath(name).suffix.lower() for name in ignored)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
        found = f"only {listed}; name archives by a pattern: 'folder/*.tar'" if listed else "nor any other file"
        raise ValueError(f"source {str(root)!r} holds no images, {found}")
    return Source(str(root), [_shard(root, part) for part in _cut(names)], sorted(ignored))


def _shard(root: Path, names: Sequence[str]) -> Shard:
    called = partial(map, printable, names)
    return Shard.make(names[0], partial(read_files, root, names), partial(_stamp, root, names), len(names), called)


def _walk(root: Path, ignored: list[str]) -> Iterator[str]:
    """Relative paths of what may be images, and of folders that can't be opened or are read under another name.

    Links to folders are followed once all other folders are known, so each folder is read once, by its own name if it
    has one here.
    """
    folders, links, visited = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        below = folders.pop() if folders else links.pop(0)
        try:
            status = (root / below).stat()
            if (status.st_dev, status.st_ino) in visited:
                yield below.removesuffix("/")
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(root / below) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            if not below:
                raise
            yield below.removesuffix("/")
            continue
        drawn = any(entry.name == DRAWN_FACTS for entry in entries)
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.name == DRAWN_GRID and drawn:
                ignored.append(printable(name))
            elif _is_folder(entry):
                (links if entry.is_symlink() else folders).append(f"{name}/")
            elif (suffix := PurePosixPath(name).suffix.lower()) in readable_suffixes() or not suffix:
                yield name
            else:
                ignored.append(printable(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one as far as can be told; what can't be looked at, such as a link to itself, is said later."""
    try:
        return entry.is_dir()
    except OSError:
        return False


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
