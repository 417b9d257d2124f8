"""Labels of images that a source does not have are refused before any image is looked at."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Cli
from pictures import encoded, parquet, picture, read

from gdui import Labeler
from gdui.images import Source, open_source


def folder(where: Path) -> Source:
    for name in ("a.png", "deep/b.png", os.fsdecode(b"\xff.png")):
        (where / name).parent.mkdir(exist_ok=True)
        picture().save(where / name)
    return open_source(where)


def columns(where: Path, **options: Any) -> Source:
    return open_source(parquet(where / "t.parquet", name=pa.array(list("vwxyz"))), **options)


@pytest.mark.parametrize(
    "make",
    [
        folder,
        columns,
        lambda where: columns(where, id_column="name"),
        lambda where: open_source(archive(where / "a.tar")),
        lambda _: open_source(np.zeros((5, 8, 8, 3), np.uint8), ids=list("vwxyz")),
        lambda _: open_source([encoded(picture())] * 5),
    ],
    ids=["folder", "parquet", "parquet with names", "archive", "array", "files in memory"],
)
def test_a_source_knows_its_images_without_reading_them(
    make: Callable[[Path], Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdui.images.files.ROWS", 3)
    source = make(tmp_path)
    ids, _, rejected = read(source)
    assert sorted(name for shard in source.shards for name in (shard.names or list)()) == sorted([*ids, *rejected])
    assert source.lacks(ids) == []
    assert source.lacks([ids[0], "nobody", ids[-1], "none"]) == ["nobody", "none"]


def archive(path: Path) -> Path:
    """Pictures of one sample, of one name, in folders and by links, beside files that are none."""
    names = ["a.png", "a.seg.png", "a.png", "deep/ä.png", f"{'x' * 120}.png", "notes.txt"]
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as made:
        for name in names:
            one = tarfile.TarInfo(name)
            one.size = len(contents := encoded(picture()))
            made.addfile(one, io.BytesIO(contents))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        made.addfile(link)
    return path


def test_of_a_packed_archive_only_reading_tells(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "a.tar.gz"))
    assert source.lacks(["nobody"]) == []


def test_of_a_damaged_archive_only_reading_tells(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar")
    whole = path.read_bytes()
    assert open_source(path).lacks(["nobody"]) == ["nobody"]
    for cut in (100, 700, len(whole) // 2, whole.rindex(b"link.png") + 10):
        path.write_bytes(whole[:cut])
        source = open_source(path)
        assert source.lacks(["nobody"]) == []
        assert source.example is None


@pytest.mark.parametrize("left", [0.5, 0.99])
def test_a_damaged_file_names_nobody(tmp_path: Path, left: float) -> None:
    """Neither its footer nor its column of names need be whole: what it holds only reading tells."""
    whole = parquet(tmp_path / "a.parquet", name=pa.array(list("vwxyz"))).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: int(len(whole) * left)])
    source = open_source(str(tmp_path / "*.parquet"), id_column="name")
    assert source.lacks(["v", "z"]) == []
    assert source.lacks(["v", "nobody"]) == []
    assert source.example == "v"


def test_names_that_are_damaged_name_nobody(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", name=pa.array(list("vwxyz")))
    source, whole = open_source(path, id_column="name"), bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    at = group.column(group.num_columns - 1)
    first = at.dictionary_page_offset or at.data_page_offset
    whole[first : first + at.total_compressed_size] = bytes(at.total_compressed_size)
    path.write_bytes(whole)
    assert source.lacks(["nobody"]) == []
    assert source.example is None


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image may be encoded, and no network may learn."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the work has begun")

    for name in ("job.encode_source", "intake.encode_source", "job.learn_source", "labeler.learn_source"):
        monkeypatch.setattr(f"gdui.labeling.{name}", never)


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("settings", [[], ["--set", "clusterer=spice"]], ids=["default", "spice"])
def test_the_command_refuses_them_first(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path, settings: list[str]
) -> None:
    (tmp_path / "few.csv").write_text("id,label\n00.png,red\n0.png,red\n")
    command = ("label", photos, "--classes", names, "--encoder", encoder, "--labels", tmp_path / "few.csv", *settings)
    code, _, err = gdui(*command, "--out", tmp_path / "run")
    assert code == 1
    assert "a label is given for the image '0.png', which is not among the images; their ids look like '00.png'" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("settings", [{}, {"clusterer": "spice"}], ids=["default", "spice"])
def test_the_labeler_refuses_them_first(photos: Path, encoder: str, settings: dict[str, Any]) -> None:
    labeler = Labeler(["red", "green", "blue"], encoder, **settings)
    with pytest.raises(ValueError, match=r"a label is given for the image 'nobody', .* look like '00\.png'"):
        labeler.fit(photos, pins={"nobody": "red"})
