"""Archives as sources: WebDataset, damaged and hostile ones, and the patterns that name many."""

import contextlib
import io
import tarfile
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture, read, tar_of

from gdui.images import UnreadableError, open_source
from gdui.images.files import expand_braces, open_files
from gdui.images.readers import _unused
from gdui.images.tar import DamagedError, members


def test_archives_follow_webdataset(tmp_path: Path) -> None:
    image = encoded(picture())
    members = {
        "x/001.png": image,
        "x/001.json": b"{}",
        "002.left.jpg": encoded(picture(), "JPEG"),
        "002.right.jpg": encoded(picture(), "JPEG"),
        "003.cls": b"3",
        "bad.jpg": b"text",
        "._004.png": b"resource fork",
    }
    tar_of(tmp_path / "t-0.tar", members)
    ids, _, rejected = read(open_source(tmp_path / "t-0.tar"))
    assert ids == ["t-0/x/001", "t-0/002", "t-0/002.right.jpg"]
    assert rejected == {"t-0/bad": "not in an image format that can be read"}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_archives_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    mode = {"tar": "w", "tgz": "w:gz"}.get(suffix, "w:" + suffix[4:])
    path = tar_of(tmp_path / f"t.{suffix}", {"a.png": encoded(picture())}, mode)
    assert read(open_source(path))[0] == ["t/a"]


def test_members_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    image = encoded(picture())
    link, hard, device = tarfile.TarInfo("link.png"), tarfile.TarInfo("hard.png"), tarfile.TarInfo("device.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "good.png"
    device.type = tarfile.CHRTYPE
    path = tar_of(
        tmp_path / "t.tar", {"good.png": image, "../up.png": image, "/root.png": image}, extra=[link, hard, device]
    )
    ids, _, rejected = read(open_source(path))
    assert ids == ["t/good"]
    assert rejected == {
        "t/../up": "its name points outside the archive",
        "t//root": "its name points outside the archive",
        "t/link": "a link, a device or a sparse file inside an archive",
        "t/hard": "a link, a device or a sparse file inside an archive",
        "t/device": "a link, a device or a sparse file inside an archive",
    }
    assert not (tmp_path.parent / "up.png").exists()


def test_a_name_that_stands_twice_keeps_both(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as tar:
        for seed in range(3):
            data = encoded(picture(seed=seed))
            member = tarfile.TarInfo("a.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert read(open_source(path))[0] == ["t/a", "t/a.png", "t/a.png#2"]


def three_in_a_tar() -> tuple[bytes, int]:
    """The archive, and where its second member begins."""
    whole, offsets = io.BytesIO(), []
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for at in range(3):
            data = encoded(picture(seed=at))
            member = tarfile.TarInfo(f"{at}.png")
            member.size = len(data)
            offsets.append(tar.offset)
            tar.addfile(member, io.BytesIO(data))
    return whole.getvalue(), offsets[1]


TAR, SECOND = three_in_a_tar()


@pytest.mark.parametrize(
    ("data", "readable"),
    [
        pytest.param(TAR[: SECOND + 600], 1, id="cut-in-a-member"),
        pytest.param(TAR[: SECOND + 100], 1, id="cut-in-a-header"),
        pytest.param(TAR[:SECOND], 1, id="cut-between"),
        pytest.param(TAR[:SECOND] + b"\xff" * 512 + TAR[SECOND + 512 :], 1, id="damaged-header"),
        pytest.param(b"", 0, id="empty"),
        pytest.param(b"\x1f\x8b\x08\0" + b"\0" * 40, 0, id="damaged-gzip"),
        pytest.param(b"no archive" * 100, 0, id="text"),
    ],
)
def test_damaged_archives_give_what_they_have_and_say_so(tmp_path: Path, data: bytes, readable: int) -> None:
    (tmp_path / "t.tar").write_bytes(data)
    ids, _, rejected = read(open_source(tmp_path / "t.tar"))
    assert ids == [f"t/{at}" for at in range(readable)]
    assert list(rejected)[-1] == "t"
    assert "archive is damaged after" in rejected["t"]


def test_a_giant_header_is_not_read(tmp_path: Path) -> None:
    giant = tarfile.TarInfo("pax")
    giant.type, giant.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "t.tar").write_bytes(giant.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    assert "a header of 1,099,511,627,776 bytes" in read(open_source(tmp_path / "t.tar"))[2]["t"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_archives_never_crash_or_hang(data: st.DataObject) -> None:
    broken = bytearray(TAR)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedError):
        for name, contents in members(io.BytesIO(broken), frozenset([".png"])):
            assert isinstance(name, str)
            assert isinstance(contents, (bytes, UnreadableError))


def test_long_names_of_both_kinds(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo(f"{'d' * 150}/{'ü' * 90}.png")
        data = encoded(picture())
        member.size = len(data)
        with tarfile.open(tmp_path / "t.tar", "w", format=form) as tar:
            tar.addfile(tarfile.TarInfo("z.txt"))
            tar.addfile(member, io.BytesIO(data))
            tar.addfile(member.replace(name="short.png"), io.BytesIO(data))
        assert read(open_source(tmp_path / "t.tar"))[0] == [f"t/{'d' * 150}/{'ü' * 90}", "t/short"]


def test_giant_members_are_skipped_unread(tmp_path: Path) -> None:
    giant = tarfile.TarInfo("a.png")
    giant.size = 1 << 40
    (tmp_path / "t.tar").write_bytes(giant.tobuf(tarfile.GNU_FORMAT))
    rejected = read(open_source(tmp_path / "t.tar"))[2]
    assert rejected["t/a"] == "the file is larger than 268,435,456 bytes"
    assert "it breaks off" in rejected["t"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a-{00..02}.tar", ["a-00.tar", "a-01.tar", "a-02.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a,}x", ["ax", "x"]),
        ("{plain}", ["{plain}"]),
        ("no braces", ["no braces"]),
        ("{x..y}", ["x..y"]),
    ],
)
def test_braces(pattern: str, wanted: list[str]) -> None:
    assert expand_braces(pattern) == wanted


@given(st.integers(0, 9999), st.integers(0, 60), st.integers(4, 6))
def test_brace_ranges_keep_their_width(low: int, more: int, width: int) -> None:
    found = expand_braces(f"s{{{low:0{width}d}..{low + more:0{width}d}}}")
    assert found == [f"s{n:0{width}d}" for n in range(low, low + more + 1)]


@given(st.text(alphabet="{}.,ab01", max_size=30))
def test_any_pattern_expands_or_is_refused(pattern: str) -> None:
    assert expand_braces(pattern)


@pytest.mark.parametrize("bomb", ["{0..99999999999}", "{1..999}" * 5, "{0..1}" * 64])
def test_brace_bombs_are_refused(bomb: str) -> None:
    with pytest.raises(ValueError, match="stands for more than 1,000,000 files"):
        expand_braces(bomb)


def test_patterns_and_lists_of_archives(tmp_path: Path) -> None:
    image = encoded(picture())
    for name in ("p/s-0.tar", "p/s-1.tar", "q/s-0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tar_of(tmp_path / name, {"a.png": image})
    assert read(open_source(f"{tmp_path}/p/s-{{0..1}}.tar"))[0] == ["s-0/a", "s-1/a"]
    assert read(open_source(f"{tmp_path}/*/s-0.tar"))[0] == ["p/s-0/a", "q/s-0/a"]
    assert read(open_source([tmp_path / "q" / "s-0.tar", tmp_path / "p" / "s-1.tar"]))[0] == ["q/s-0/a", "p/s-1/a"]
    with pytest.raises(ValueError, match=r"s-2\.tar' does not exist"):
        open_source(f"{tmp_path}/p/s-{{0..2}}.tar")
    with pytest.raises(ValueError, match="more than once"):
        open_source([tmp_path / "q" / "s-0.tar"] * 2)


def test_relative_archives_of_one_name_have_ids_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("p", "q"):
        Path(folder).mkdir()
        tar_of(Path(folder) / "s.tar", {"a.png": encoded(picture())})
    assert read(open_source("*/s.tar"))[0] == ["p/s/a", "q/s/a"]
    assert read(open_source(["p/s.tar", tmp_path / "q" / "s.tar"]))[0] == ["p/s/a", f"{tmp_path}/q/s/a"]


def test_a_file_of_nothing_says_so_once(tmp_path: Path) -> None:
    tar_of(tmp_path / "t.tar", {"a.json": b"{}", "b.txt": b"hello"})
    with pq.ParquetWriter(tmp_path / "groups.parquet", pa.schema([("image", pa.binary())])):
        pass
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "rows.parquet")
    for name, reason in (
        ("t.tar", "the archive holds no images"),
        ("groups.parquet", "the file holds no rows"),
        ("rows.parquet", "the file holds no rows"),
    ):
        ids, _, rejected = read(open_source(tmp_path / name))
        assert (ids, rejected) == ([], {name.partition(".")[0]: reason})


def test_many_files_and_members_of_one_name_take_time_by_their_number(tmp_path: Path) -> None:
    """Each of these took time by the square: minutes, at these sizes."""
    start = time.perf_counter()
    seen: dict[str, int] = {}
    for _ in range(30_000):
        seen[_unused("a.png", "t", seen)] = 1
    assert {"t/a", "t/a.png", "t/a.png#2", "t/a.png#29999"} <= set(seen)
    assert len(seen) == 30_000
    records = b"".join(b"%d k%05d=v\n" % (12, at) for at in range(80_000))
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    path = tmp_path / "pax.tar"
    path.write_bytes((header.tobuf() + records + b"\0" * (-len(records) % 512)) * 3 + b"\0" * 1024)
    assert read(open_source(path))[2] == {"pax": "the archive holds no images"}
    with pytest.raises(ValueError, match=r"names 'x\.tar' more than once"):
        open_files("many", [*(f"{at}.tar" for at in range(100_000)), "x.tar", "x.tar"], None, None)
    assert time.perf_counter() - start < 20


def test_remote_archives(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    local = tar_of(tmp_path / "s-0.tar", {"a.png": encoded(picture())})
    for name in ("/heap/s-0.tar", "/heap/s-1.tar"):
        memory.pipe(name, local.read_bytes())
    try:
        assert read(open_source("memory://heap/s-{0..1}.tar"))[0] == ["s-0/a", "s-1/a"]
        assert read(open_source("memory://heap/*.tar"))[0] == ["s-0/a", "s-1/a"]
        assert read(open_source(local.as_uri()))[0] == ["s-0/a"]
        shard = open_source("memory://heap/s-0.tar").shards[0]
        memory.pipe("/heap/s-0.tar", local.read_bytes() + b"\0" * 512)
        assert shard.changed()
    finally:
        memory.rm("/heap", recursive=True)
