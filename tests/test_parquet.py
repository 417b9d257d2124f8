"""Parquet files as sources of pictures."""

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, parquet, picture, read

from gdui.images import open_source


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    ids, _, rejected = read(open_source(parquet(tmp_path / "train.parquet")))
    assert ids == ["train/0", "train/1", "train/3", "train/4"]
    assert rejected == {"train/2": "no image bytes, and its path leads out of the file's folder"}


def test_parquet_may_have_left_the_pictures_where_they_are(tmp_path: Path) -> None:
    picture().save(tmp_path / "beside.png")
    (tmp_path / "deep").mkdir()
    picture(seed=1).save(tmp_path / "deep" / "far.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "out.png").symlink_to("/etc/passwd")
    paths = ["beside.png", str(tmp_path / "deep" / "far.png"), "gone.png", "deep", "pipe.png", "a\0b", None, "out.png"]
    rows = [{"bytes": None, "path": path} for path in paths] + [{"bytes": encoded(picture()), "path": "gone.png"}, None]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "t.parquet")
    ids, _, rejected = read(open_source(tmp_path / "t.parquet"))
    assert ids == ["t/0", "t/1", "t/8"]
    assert rejected == {
        "t/2": "no image bytes, and its path: No such file or directory",
        "t/3": "no image bytes, and its path: not a regular file",
        "t/4": "no image bytes, and its path: not a regular file",
        "t/5": "no image bytes, and its path: embedded null byte",
        "t/6": "no image bytes in this row",
        "t/7": "no image bytes, and its path leads out of the file's folder",
        "t/9": "no image bytes in this row",
    }
    memory = fsspec.filesystem("memory")
    memory.pipe("/left/t.parquet", (tmp_path / "t.parquet").read_bytes())
    try:
        assert read(open_source("memory://left/t.parquet"))[0] == ["t/8"], "no remote file may name files of ours"
    finally:
        memory.rm("/left", recursive=True)


def test_parquet_row_groups_become_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdui.images.files.ROWS", 3)
    source = open_source(parquet(tmp_path / "t.parquet"))
    assert [shard.key for shard in source.shards] == ["t/0", "t/4"]
    assert read(source)[0] == ["t/0", "t/1", "t/3", "t/4"]


def test_parquet_columns_can_be_named(tmp_path: Path) -> None:
    extra = {"thumb": pa.array([encoded(picture())] * 5), "name": pa.array(list("vwxyz"))}
    path = parquet(tmp_path / "t.parquet", column="photo", **extra)
    with pytest.raises(ValueError, match=r"image_column must be given, .*\.image_column=photo: .*\['photo', 'thumb'\]"):
        open_source(path)
    assert read(open_source(path, image_column="thumb", id_column="name"))[0] == list("vwxyz")
    with pytest.raises(ValueError, match=r"image_column must hold bytes: .* not 'label'"):
        open_source(path, image_column="label")
    with pytest.raises(ValueError, match=r"id_column must be a column .* not 'nope'"):
        open_source(path, image_column="thumb", id_column="nope")
    pq.write_table(pa.table({"words": ["a", "b"]}), tmp_path / "words.parquet")
    with pytest.raises(ValueError, match=r"holds no images: none of its columns \['words'\] holds bytes"):
        open_source(tmp_path / "words.parquet")


@pytest.mark.parametrize("where", ["footer", "page"])
def test_damaged_parquet_says_so(tmp_path: Path, where: str) -> None:
    path = parquet(tmp_path / "t.parquet")
    data = bytearray(path.read_bytes())
    if where == "footer":
        del data[-20:]
    else:
        data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    ids, _, rejected = read(open_source(path))
    assert ids == []
    assert "the file is damaged from this row on" in rejected["t/0"]
