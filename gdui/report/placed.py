"""Where a page's pictures stand: in the page itself, or in a folder beside it where they are many."""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

__all__ = ["INLINED", "placed"]

INLINED = 16_000_000  # bytes of pictures; a page with more of them is slow to open and too large to send
PART = ".part-"
OURS = re.compile(r"(\.part-)?[0-9a-f]{32}\.webp")


@contextmanager
def placed(pictures: Sequence[bytes], page: Path) -> Iterator[tuple[list[str], str]]:
    """(the address of each picture, the name of the folder they lie in or ""); the page is written within the block.

    A file is named by what is in it, and those that the new page doesn't need go once it stands: until then the old
    page has its pictures.
    """
    folder = page.with_name(f"{page.stem}_pictures")
    if sum(map(len, pictures)) <= INLINED:
        yield [_inlined(picture) for picture in pictures], ""
        _clear(folder, set())
        return
    files = {_name(picture): picture for picture in pictures if picture}
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in files.items():
        temporary = folder / f"{PART}{name}"
        temporary.write_bytes(picture)
        temporary.replace(folder / name)
    yield [f"{quote(folder.name)}/{_name(picture)}" if picture else "" for picture in pictures], folder.name
    _clear(folder, set(files))


def _inlined(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}" if picture else ""


def _name(picture: bytes) -> str:
    return f"{hashlib.blake2b(picture, digest_size=16).hexdigest()}.webp"


def _clear(folder: Path, needed: set[str]) -> None:
    """Takes away what an older page had, and nothing that is not ours."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if OURS.fullmatch(file.name) and file.name not in needed:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
