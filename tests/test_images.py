"""Sources: every broken, hostile or odd file is quarantined with its reason or becomes one well-defined RGB."""

import contextlib
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from gdui.images import Batch, Clock, Shard, Source, Transform, UnreadableError, batches, decode, open_source
from gdui.images import folders as folders_module
from gdui.images.files import expand_braces, open_files
from gdui.images.readers import _unused, read_files
from gdui.images.tar import DamagedError, members

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


# One well-defined RGB


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(half)).getpixel((0, 0)) == (127, 127, 127)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert decode(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    out = decode(encoded(image, transparency=0))
    assert out.mode == "RGB"
    assert out.getpixel((0, 0)) == (255, 255, 255)
    assert out.getpixel((1, 1)) == (0, 255, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32], ids=["I;16", "I"])
def test_sixteen_bits_become_eight(dtype: type) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype)
    kind = "PNG" if dtype == np.uint16 else "TIFF"
    out = np.asarray(decode(encoded(Image.fromarray(values), kind)))
    assert out[0, :, 0].tolist() == [0, 100, 255]
    assert (out[..., :1] == out).all()


def test_brightness_without_a_scale_is_rejected() -> None:
    with pytest.raises(UnreadableError, match=r"mode F outside 0 to 1 .* no defined brightness"):
        decode(encoded(Image.fromarray(np.full((2, 2), 7.5, np.float32)), "TIFF"))
    half = decode(encoded(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"))
    assert half.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture().convert(mode)
    out = decode(encoded(image, "TIFF" if mode == "YCbCr" else "JPEG" if mode == "CMYK" else "PNG"))
    assert out.mode == "RGB"
    assert np.abs(np.asarray(out, float) - np.asarray(image.convert("RGB"), float)).mean() < 6


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = np.zeros((6, 10, 3), np.uint8)
    upright[0, 0] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert np.array_equal(np.asarray(decode(data)), upright)


def test_damaged_metadata_does_not_cost_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data).size == (20, 16)


def test_large_jpegs_are_decoded_small() -> None:
    data = encoded(picture(1600, 1200), "JPEG", quality=95)
    assert decode(data, smallest=100).size == (400, 300)
    full, reduced = Transform(size=100)(decode(data)), Transform(size=100)(decode(data, 100))
    assert np.abs(full.astype(int) - reduced).mean() < 1


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (17, 400), (1000, 31), (5, 5)])
def test_transform_equals_resize_then_centre_crop(size: tuple[int, int]) -> None:
    image = picture(*size)
    wanted = v2.Compose([v2.Resize(48, v2.InterpolationMode.BICUBIC), v2.CenterCrop(48)])(image)
    got = Transform(size=48)(image)
    assert np.abs(got.astype(int) - np.asarray(wanted)).max() <= 1
    squashed = v2.Resize((48, 48), v2.InterpolationMode.BICUBIC)(image)
    assert np.array_equal(Transform(size=48, resize="squash")(image), np.asarray(squashed))


def test_a_ribbon_does_not_explode() -> None:
    assert Transform(size=224)(Image.new("RGB", (1, 10_000_000))).shape == (224, 224, 3)


# What can't be read


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture at all", "not in an image format that can be read"),
        (encoded(picture(200, 200), "JPEG")[:-400], "truncated"),
        (encoded(picture(200, 200), "PNG")[:-4000], "truncated"),
        (png_header(60_000, 60_000), "decompression bomb"),
        (png_header(14_000, 12_700), "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in an image format that can be read"),
    ],
    ids=["empty", "text", "jpeg", "png", "bomb", "large-but-legal", "eps"],
)
def test_unreadable_bytes_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as first:
        decode(data)
    with pytest.raises(UnreadableError) as second:
        decode(data)
    assert first.value.reason == second.value.reason
    assert "\n" not in first.value.reason


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO", "TGA"]))
    good = bytearray(encoded(picture(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(good[: data.draw(st.integers(0, len(good)))])
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UnreadableError):
        patch.setattr(sys.modules[Transform.__module__], "MAX_PIXELS", 100_000)
        assert decode(broken, 8).mode == "RGB"


# Folders


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
    with pytest.raises(ValueError, match="holds no images, and nothing else"):
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


# Archives


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


# Patterns


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


# Parquet


def parquet(path: Path, rows: int = 5, column: str = "image", **more: Any) -> Path:
    cells = [{"bytes": encoded(picture(seed=at)), "path": f"{at}.png"} for at in range(rows)]
    cells[2:3] = [{"bytes": None, "path": "/etc/passwd"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(cells, kind), "label": pa.array(range(rows)), **more})
    pq.write_table(table, path, row_group_size=2)
    return path


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
    with pytest.raises(ValueError, match=r"image_column must be given: .*\['photo', 'thumb'\]"):
        open_source(path)
    assert read(open_source(path, image_column="thumb", id_column="name"))[0] == list("vwxyz")
    with pytest.raises(ValueError, match=r"image_column must hold bytes: .* not 'label'"):
        open_source(path, image_column="label")
    with pytest.raises(ValueError, match=r"id_column must be a column .* not 'nope'"):
        open_source(path, image_column="thumb", id_column="nope")


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


# Arrays


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays(convert: Callable[[Any], Any], dtype: str, rng: np.random.Generator) -> None:
    whole = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    given_ = whole if dtype == "uint8" else (whole / np.float32(255))
    for images in (given_, np.ascontiguousarray(np.moveaxis(given_, 3, 1))):
        ids, pixels, rejected = read(open_source(convert(images)))
        assert (ids, rejected) == (["0", "1", "2"], {})
        assert np.array_equal(pixels, whole)


def test_grey_arrays_and_alpha_arrays(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (2, 8, 8), np.uint8)
    assert np.array_equal(read(open_source(grey))[1], np.repeat(grey[..., None], 3, axis=3))
    assert (read(open_source(np.zeros((2, 8, 8, 4), np.uint8)))[1] == 255).all()


def test_npy_and_npz_files(tmp_path: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images=images, labels=np.arange(5))
    for name in ("a.npy", "b.npz"):
        source = open_source(tmp_path / name)
        assert np.array_equal(read(source)[1], images)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "d.npy").write_bytes(b"text")
    for name in ("c.npy", "d.npy"):
        with pytest.raises(ValueError, match="not an array that can be read"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("shape", [(4, 3, 8, 3), (4, 1, 1, 1), (8, 8, 3), (8, 8), (2, 8, 8, 5), (2, 2, 8, 8, 3)])
def test_ambiguous_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"is ambiguous, or no images: give layout="):
        open_source(np.zeros(shape, np.uint8))


def test_a_layout_settles_it() -> None:
    assert read(open_source(np.zeros((4, 3, 8, 3), np.uint8), layout="NCHW"))[1].shape == (4, 8, 8, 3)
    with pytest.raises(ValueError, match=r"layout must be .* not 'NHW'"):
        open_source(np.zeros((4, 3, 8, 3), np.uint8), layout="NHW")
    with pytest.raises(TypeError, match="must be uint8 or floats"):
        open_source(np.zeros((2, 8, 8, 3), np.int64))
    with pytest.raises(TypeError, match=r"source must be a path, .* not dict"):
        open_source({})


def test_floats_out_of_range_are_rejected() -> None:
    images = np.zeros((3, 8, 8, 3), np.float32)
    images[1, 0, 0, 0], images[2, 0, 0, 0] = -1, np.nan
    ids, _, rejected = read(open_source(images, ids=["a", "b", "c"]))
    assert ids == ["a"]
    assert rejected == {"b": "floats must be in [0, 1], not [-1, 0]", "c": "floats must be in [0, 1], not [nan, nan]"}


def test_ids_must_fit() -> None:
    with pytest.raises(ValueError, match="ids must be 2 different names, not 2 \\(1 different\\)"):
        open_source(np.zeros((2, 8, 8, 3), np.uint8), ids=["a", "a"])


def test_encoded_files_in_memory() -> None:
    ids, _, rejected = read(open_source([encoded(picture()), b"text"]))
    assert (ids, list(rejected)) == (["0"], ["1"])


# The pipeline


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
