"""Where files lie: on this machine, or on a store that fsspec knows, such as s3://bucket, under the face of a path."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

__all__ = ["PART", "appended", "is_remote", "place", "readable", "remove", "uploaded"]

PART = ".part-"
Place = str | os.PathLike[str]


def is_remote(path: Any) -> bool:
    """Whether `path` is an address on a store, or what `place` makes of one."""
    return "://" in path if isinstance(path, str) else hasattr(path, "protocol")


def place(path: Place) -> Path:
    """A path on this machine, or for an address on a store what acts like one."""
    if not is_remote(path):
        return Path(path)
    if not isinstance(path, str):
        return cast(Path, path)
    try:
        from upath import UPath
    except ImportError:
        raise ImportError(f"{path} needs universal_pathlib, which is not installed: pip install 'gdui[ray]'") from None
    # Others write there at the same time: a list that was kept would not know of it.
    return cast(Path, UPath(path, use_listings_cache=False))


def readable(path: Path) -> Any:
    """What a reader of files takes: the path itself, or the open file where it lies on a store."""
    return path.open("rb") if is_remote(path) else path


def remove(folder: Path) -> None:
    """Takes a folder away with all that is in it, if it is there."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        store: Any = folder
        store.fs.rm(store.path, recursive=True)


@contextmanager
def uploaded(path: Path) -> Iterator[Path]:
    """A temporary file here that takes the place of `path` on its store once the block ends well.

    It is sent under another name and moved: not every store shows a file only once it is whole.
    """
    store: Any = path
    sent: Any = path.with_name(f"{PART}{secrets.token_hex(4)}-{path.name[-40:]}")
    with tempfile.TemporaryDirectory(prefix="gdui-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        store.fs.put_file(str(temporary), sent.path)
        store.fs.mv(sent.path, store.path)


@contextmanager
def appended(path: Path) -> Iterator[Path]:
    """A file here for what is to be added to `path`; few stores can add to a file."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gdui-") as folder:
        more = Path(folder) / path.name
        more.touch()
        try:
            yield more
        finally:
            before = path.read_bytes() if path.exists() else b""
            with uploaded(path) as whole:
                whole.write_bytes(before + more.read_bytes())
