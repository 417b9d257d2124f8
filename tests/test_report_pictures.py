"""The report's pictures: found, small, read once, and beside the page where they are many."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture, tar_of
from PIL import Image
from reports import data_of, make_labels, opened

from gdui.images import Source, open_source
from gdui.images.readers import Item
from gdui.images.shards import Shard
from gdui.labels import Labels
from gdui.report import pictures, placed, write
from gdui.report.pictures import thumbnails


def test_pictures_come_from_folders_and_arrays_small_and_square(rng: np.random.Generator, tmp_path: Path) -> None:
    pixels = rng.integers(0, 256, (3, 50, 200, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    wanted = {"a.png": 96, "broken.png": 96, "missing.png": 96, "../secret.png": 96, str(tmp_path / "secret.png"): 96}
    found = thumbnails(tmp_path / "in", wanted)
    assert list(found) == ["a.png"]
    assert opened(found["a.png"]).size == (50, 50)
    assert opened(thumbnails(tmp_path / "in", {"a.png": 120})["a.png"]).size == (120, 30)
    of_array = thumbnails(pixels, {"y": 96}, ["x", "y", "z"])
    assert list(of_array) == ["y"]
    tiny = thumbnails(np.full((1, 8, 8), 77, np.uint8), {"0": 96})["0"]
    assert opened(tiny).size == (8, 8)
    assert np.asarray(opened(tiny)).tolist() == np.full((8, 8, 3), 77).tolist()


def test_names_that_are_no_utf8_are_found(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\\xfe.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(encoded(picture()))
    assert list(thumbnails(tmp_path, {"\\xff.png": 96, "\\xfe.png": 96, "\\xfd.png": 96})) == [
        "\\xfe.png",
        "\\xff.png",
    ]


def test_missing_pictures_are_counted_with_the_place(
    rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "00001.png").write_bytes(encoded(picture()))
    labels = make_labels(rng, 5, ["a", "b"])
    head = data_of(labels.report(tmp_path / "report.html", images=tmp_path))["head"]
    assert (head["missing"], head["sought"]) == (4, str(tmp_path))
    assert caplog.messages == [f"4 of 5 pictures were not found in {tmp_path}"]
    assert data_of(labels.report(tmp_path / "report.html"))["head"]["missing"] == 0
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_archive_is_read_once_until_nothing_is_wanting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pictures are asked for, no more of them wait in memory than the threads can use."""
    files = [encoded(picture(30, 30, seed)) for seed in range(60)]
    for shard in range(3):
        part = files[20 * shard : 20 * shard + 20]
        if kind == "tar":
            tar_of(tmp_path / f"s-{shard}.tar", {f"{at}.png": file for at, file in enumerate(part)})
        else:
            pq.write_table(pa.table({"image": pa.array(part, pa.binary())}), tmp_path / f"s-{shard}.parquet")
    reads, waiting, most = list[str](), 0, 0

    def watched(source: Any, **kind: Any) -> Source:
        found = open_source(source, **kind)
        return replace(found, shards=[replace(shard, read=partial(noted, shard)) for shard in found.shards])

    def noted(shard: Shard) -> Iterator[Item]:
        nonlocal waiting, most
        for item in shard.read():
            reads.append(item[0])
            waiting += 1
            most = max(most, waiting)
            yield item

    def slow(raw: Any, size: int) -> Image.Image:
        nonlocal waiting
        time.sleep(0.002)
        image = decoded(raw, size)
        waiting -= 1
        return image

    decoded = pictures._opened
    monkeypatch.setattr(pictures, "open_source", watched)
    monkeypatch.setattr(pictures, "_opened", slow)
    monkeypatch.setenv("GDUI_THREADS", "1")
    wanted = {f"s-0/{at}": 96 for at in range(20)} | {"s-1/9": 96}
    found = thumbnails(f"{tmp_path}/s-{{0..2}}.{kind}", wanted)
    assert list(found) == list(wanted)
    picked = opened(found["s-1/9"]).convert("RGB")
    assert np.array_equal(np.asarray(picked), np.asarray(opened(files[29])))
    assert reads == [f"s-{at // 20}/{at % 20}" for at in range(30)]
    assert most <= pictures.AHEAD + 11, "the ten unwanted before the last, and those in work"


def pictured(rng: np.random.Generator, n: int) -> tuple[Labels, np.ndarray[Any, Any]]:
    return make_labels(rng, n, ["a", "b"]), rng.integers(0, 256, (n, 20, 20, 3), np.uint8)


def addresses(page: Path) -> list[str]:
    return list(data_of(page)["images"]["picture"])


def test_many_pictures_lie_beside_the_page(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, pixels = pictured(rng, 40)
    monkeypatch.setattr(placed, "INLINED", 1000)
    page = labels.report(tmp_path / "my report?.html", images=pixels)
    folder = tmp_path / "my report?_pictures"
    assert "img-src 'self' data:;" in page.read_text()
    assert "base64" not in page.read_text()
    files = [tmp_path / unquote(one) for one in addresses(page)]
    assert [np.array_equal(opened(file.read_bytes()), pixels[at]) for at, file in enumerate(files)] == [True] * 40
    assert sorted(folder.iterdir()) == sorted(files)

    (folder / "mine.txt").write_text("not the report's")
    (folder / f".part-{files[0].name}").write_bytes(b"left by a killed process")
    labels.take(np.arange(10)).report(page, images=pixels[:10])
    assert sorted(folder.iterdir()) == sorted([*files[:10], folder / "mine.txt"])
    (folder / "mine.txt").unlink()
    monkeypatch.setattr(placed, "INLINED", 10**9)
    labels.report(page, images=pixels)
    assert not folder.exists()
    assert addresses(page)[0].startswith("data:image/webp;base64,")


def test_a_page_keeps_its_pictures_when_the_next_one_fails(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, pixels = pictured(rng, 12)
    monkeypatch.setattr(placed, "INLINED", 1000)
    page = labels.report(tmp_path / "report.html", images=pixels)
    before = page.read_bytes()

    def full(*_: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(write, "page", full)
    with pytest.raises(OSError, match="no space left"):
        labels.report(page, images=pixels[::-1].copy())
    assert page.read_bytes() == before
    assert all((tmp_path / one).is_file() for one in addresses(page))
    assert not list(tmp_path.glob(".part-*"))
