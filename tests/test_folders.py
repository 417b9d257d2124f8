"""Folders as sources, and the batches that are read from them ahead of the taker."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pictures import SMALL, encoded, parquet, picture, png_header, read, tar_of

from gdui.images import Batch, Clock, Shard, batches, open_source
from gdui.images import folders as folders_module
from gdui.images.readers import read_files


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    root = tmp_path / "heap"
    (root / "deep" / "er").mkdir(parents=True)
    picture(seed=1).save(root / "b.png")
    picture(seed=2).save(root / "a.JPG")
    picture(seed=3).save(root / "deep" / "er" / "c.webp")
    (root / "noext").write_bytes(encoded(picture(seed=4)))
    (root / "notes.txt").write_text("left out")
    (root / ".hidden.png").write_bytes(b"")
    (root / "text.jpg").write_text("hello")
    (root / "zero.png").write_bytes(b"")
    (root / "cut.jpg").write_bytes(encoded(picture(300, 300), "JPEG")[:-600])
    (root / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (root / "deep" / "loop").symlink_to(root)
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    return root


def test_a_folder_gives_every_file_an_image_or_a_reason(heap: Path) -> None:
    source = open_source(heap)
    ids, pixels, rejected = read(source)
    assert ids == ["a.JPG", "b.png", "deep/er/c.webp", "noext"]
    assert pixels.shape == (4, 8, 8, 3)
    assert rejected == {
        "bomb.png": "decompression bomb: more than 178,956,970 pixels",
        "cut.jpg": rejected["cut.jpg"],
        "dangling.png": "No such file or directory",
        "deep/loop": "a folder that is read under another name",
        "pipe.png": "not a regular file",
        "text.jpg": "not in an image format that can be read",
        "zero.png": "the file is empty",
    }
    assert "truncated" in rejected["cut.jpg"]
    assert source.ignored == ["notes.txt"]


def test_a_folder_is_read_once_by_its_own_name(tmp_path: Path) -> None:
    """Six folders that all link to each other have 6! paths."""
    root, outside = tmp_path / "heap", tmp_path / "outside"
    for at in range(6):
        (root / f"{at}").mkdir(parents=True)
        picture(seed=at).save(root / f"{at}" / "x.png")
        for other in range(6):
            (root / f"{at}" / f"link{other}").symlink_to(root / f"{other}")
    outside.mkdir()
    picture(seed=9).save(outside / "y.png")
    (root / "one").symlink_to(outside)
    (root / "two").symlink_to(outside)
    ids, _, rejected = read(open_source(root))
    assert ids == [*(f"{at}/x.png" for at in range(6)), "one/y.png"]
    assert set(rejected) == {f"{at}/link{other}" for at in range(6) for other in range(6)} | {"two"}


def test_what_cannot_be_looked_at_is_named(heap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (heap / "self.png").symlink_to("self.png")
    (heap / "self").symlink_to("self")
    scan = os.scandir

    def scan_or_fail(path: Path) -> Any:
        if str(path).rstrip("/").endswith("/er"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_or_fail)
    ids, _, rejected = read(open_source(heap))
    assert ids == ["a.JPG", "b.png", "noext"]
    assert {"self", "self.png", "deep/er"} < set(rejected)
    assert rejected["self"] == "Too many levels of symbolic links"


def test_names_that_are_not_unicode_become_ids(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(encoded(picture()))
    ids, _, rejected = read(open_source(tmp_path))
    assert (ids, rejected) == (["caf\\xe9.png"], {})
    pa.array(ids, pa.string())


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 3), (4, 2), (8, 64)])
def test_results_do_not_depend_on_workers_or_batch_size(heap: Path, workers: int, batch: int) -> None:
    wanted_ids, wanted, _ = read(open_source(heap), workers=2)
    found = list(batches(open_source(heap).shards, SMALL, batch, workers=workers))
    assert [id_ for one in found for id_ in one.ids] == wanted_ids
    assert np.array_equal(np.concatenate([one.pixels for one in found]), wanted)


def test_empty_folders_and_folders_of_archives_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images, nor any other file"):
        open_source(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"only 1 \.tar; name archives by a pattern"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere' does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a\.txt' must be a tar archive"):
        open_source(tmp_path / "a.txt")


def test_a_new_file_changes_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders_module, "MEAN_FILES", 8)
    for at in range(200):
        (tmp_path / f"{at:04}.png").touch()
    before = {shard.fingerprint for shard in open_source(tmp_path).shards}
    (tmp_path / "0003x.png").touch()
    after = {shard.fingerprint for shard in open_source(tmp_path).shards}
    assert len(before) > 12
    assert len(before - after) <= 3


def test_a_shard_knows_that_its_files_changed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
    shard = open_source(tmp_path).shards[0]
    assert not shard.changed()
    (tmp_path / "b.png").unlink()
    assert shard.changed()
    archive = open_source(tar_of(tmp_path / "x.tar", {"a.png": encoded(picture())})).shards[0]
    (tmp_path / "x.tar").unlink()
    assert archive.changed()


def test_shards_can_be_pickled(heap: Path, tmp_path: Path) -> None:
    tar_of(tmp_path / "t.tar", {"a.png": encoded(picture())})
    array = np.zeros((2, 8, 8, 3), np.uint8)
    for source in (heap, tmp_path / "t.tar", parquet(tmp_path / "t.parquet"), array):
        for shard in open_source(source).shards:
            again: Shard = pickle.loads(pickle.dumps(shard))  # noqa: S301
            assert [id_ for id_, _ in again.read()] == [id_ for id_, _ in shard.read()]
            assert not again.changed()


def test_an_error_of_the_reader_reaches_the_taker(heap: Path) -> None:
    def broken() -> Iterator[Any]:
        yield from read_files(heap, ["a.JPG"])
        raise PermissionError("the disk is gone")

    with pytest.raises(PermissionError, match="the disk is gone"):
        list(batches([Shard.make("x", broken, lambda: "x")], SMALL, 4))


def test_reading_ahead_is_bounded_and_stops_with_the_taker() -> None:
    seen = 0

    def endless() -> Iterator[Any]:
        nonlocal seen
        while True:
            seen += 1
            yield str(seen), np.zeros((8, 8, 3), np.uint8)

    stream = batches([Shard.make("x", endless, lambda: "x")], SMALL, 4, workers=2)
    first: Batch = next(stream)
    assert first.ids == ["1", "2", "3", "4"]
    stream.close()  # type: ignore[attr-defined]
    assert seen < 40
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gdui-")]


def test_the_clock_counts_reading_and_decoding(heap: Path) -> None:
    clock = Clock()
    read(open_source(heap), clock=clock)
    assert clock.read > 0
    assert clock.decode > 0


def test_no_shards_give_no_batches() -> None:
    assert list(batches([], SMALL, 4)) == []
    empty = open_source(np.zeros((0, 8, 8, 3), np.uint8))
    assert empty.shards == []
