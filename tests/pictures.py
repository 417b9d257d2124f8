"""Pictures and archives for the tests of sources, and all that comes out of a source."""

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gdui.images import Source, Transform, batches

SMALL = Transform(size=8)

Pixels = npt.NDArray[np.uint8]


def picture(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read(source: Source, **options: Any) -> tuple[list[str], Pixels, dict[str, str]]:
    """Every id, all pixels, and what was rejected."""
    found = list(batches(source.shards, SMALL, 4, **options))
    ids = [id_ for batch in found for id_ in batch.ids]
    rejected = {one.id: one.reason for batch in found for one in batch.rejected}
    assert sum(batch.last for batch in found) == len(source.shards)
    return ids, np.concatenate([batch.pixels for batch in found]), rejected


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w", extra: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra or []:
            tar.addfile(member)
    return path


def parquet(path: Path, rows: int = 5, column: str = "image", **more: Any) -> Path:
    cells = [{"bytes": encoded(picture(seed=at)), "path": f"{at}.png"} for at in range(rows)]
    cells[2:3] = [{"bytes": None, "path": "/etc/passwd"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(cells, kind), "label": pa.array(range(rows)), **more})
    pq.write_table(table, path, row_group_size=2)
    return path
