"""A run folder on a store that fsspec knows holds what one on this machine would, and goes on in the same way."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import archives, one_line, run
from test_labeler import NAMES, heap
from test_parts import contents

from gdui import cli
from gdui.config import Config
from gdui.demo import NAMES as DIGITS
from gdui.demo import images
from gdui.labeling import parts
from gdui.labeling.features import load_features
from gdui.labeling.workflow import label_run, relabel_run
from gdui.labels import Labels
from gdui.places import appended, is_remote, place, remove
from gdui.runs import Run, atomic_path

PICTURES = 60


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty folder on a store."""
    pytest.importorskip("upath")
    folder = place(f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store")
    folder.mkdir(parents=True)
    yield folder
    remove(folder)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Archives of pictures of digits."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for at, picture in enumerate(images()[:PICTURES]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{at:03d}.png")
    archives(tmp_path)
    return str(tmp_path / "*.tar")


def stored(folder: Path) -> dict[str, bytes]:
    """As `contents` of a folder on this machine."""
    names = ("log", "manifest.json")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in names)
    return {str(path).removeprefix(f"{folder}/"): path.read_bytes() for path in files}


def test_what_is_an_address() -> None:
    assert is_remote("s3://bucket/run")
    assert not is_remote("a/b")
    assert not is_remote(Path("a"))
    assert place("a/b") == Path("a/b")
    assert place(Path("a/b")) == Path("a/b")


def test_a_file_is_whole_or_absent(store: Path) -> None:
    assert place(store / "a") == store / "a"
    with atomic_path(store / "a") as temporary:
        temporary.write_text("first")
        assert not (store / "a").exists()
    with pytest.raises(FileNotFoundError), atomic_path(store / "a"):
        pass  # nothing was written
    assert [path.name for path in store.iterdir()] == ["a"]
    assert (store / "a").read_text() == "first"


def test_lines_are_added(store: Path) -> None:
    for line in ("one\n", "two\n"):
        with appended(store / "log") as path, path.open("a") as file:
            file.write(line)
    assert (store / "log").read_text() == "one\ntwo\n"


def test_left_overs_are_swept_and_what_is_foreign_stays(store: Path) -> None:
    with Run(store / "run", {}):
        (store / "run" / ".part-1-features").write_text("half")
    with Run(store / "run", {}):
        assert not (store / "run" / ".part-1-features").exists()
    (store / "other").mkdir(exist_ok=True)
    (store / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="not a run folder"):
        Run(store / "other", {})


def test_a_run_on_a_store_is_that_of_a_folder(
    store: Path, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config().override({"encode.encoder": "digits"})
    label_run(shards, list(DIGITS), tmp_path / "here", config)
    with monkeypatch.context() as patched:
        patched.setattr("gdui.labeling.parts.write_parquet", None)
        with pytest.raises(TypeError):
            label_run(shards, list(DIGITS), str(store / "run"), config)
    assert (store / "run" / "parts").exists()
    done = label_run(shards, list(DIGITS), str(store / "run"), config)
    assert "encode" not in done.ledger, "the call before had done that"
    assert stored(store / "run") == contents(tmp_path / "here")
    assert not label_run(shards, list(DIGITS), str(store / "run"), config).ledger
    assert "neighbors" in (store / "run" / "log").read_text()
    with pytest.raises(ValueError, match="begun with other settings"):
        label_run(shards, list(DIGITS), str(store / "run"), config.override({"seed": 1}))
    for folder in (tmp_path / "here", store / "run"):
        relabel_run(folder, ["round", "straight"])
    assert stored(store / "run") == contents(tmp_path / "here")
    assert done.labels.classes == ["round", "straight"]


def test_a_run_on_a_store_is_reported_here(
    store: Path, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config().override({"encode.encoder": "digits"})
    for run_folder in (store / "run", tmp_path / "run"):
        label_run(shards, list(DIGITS), str(run_folder), config)
    on_store = stored(store / "run")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(store / "run"), "--out", "named.html"]) == 0
    assert cli.main(["report", str(store / "run")]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert "the report is in report.html" in capsys.readouterr().out
    pages = [(tmp_path / name).read_text() for name in ("report.html", "named.html", "run/report.html")]
    assert pages[0] == pages[1]
    shown = [re.findall('data:image/webp;base64,[^"]+', page) for page in pages]
    assert shown[0] == shown[2]
    assert len(shown[0]) == PICTURES
    assert "<title>run: gdui</title>" in pages[0]
    assert stored(store / "run") == on_store


def test_features_on_a_store_are_read_piece_by_piece(store: Path, shards: str, tmp_path: Path) -> None:
    config = Config().override({"encode.encoder": "digits"})
    label_run(shards, list(DIGITS), str(store / "run"), config)
    features = load_features(store / "run" / "features", verify=True)
    assert len(features) == PICTURES
    rows = np.array([59, 0, 30])
    np.testing.assert_array_equal(features.gather(rows), features.array()[rows])
    victim = next(path for path in (store / "run" / "features").iterdir() if path.name.endswith(".npy"))
    short = io.BytesIO()
    np.save(short, np.load(io.BytesIO(victim.read_bytes()))[:-1])
    victim.write_bytes(short.getvalue())
    with pytest.raises(ValueError, match="are damaged: delete"):
        load_features(store / "run" / "features").array()


def test_extend_and_parts_on_a_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 128)
    features, opinions, _ = heap()
    arrays = {"features": features, "opinions": opinions}
    for folder in (tmp_path / "here", store / "run"):
        for rows, mode in ((500, "continue"), (600, "extend")):
            for name, values in arrays.items():
                np.save(tmp_path / f"{name}.npy", values[:rows].astype(np.float16))
            given = {"ready": True, "opinions": str(tmp_path / "opinions.npy"), "mode": mode}
            label_run(str(tmp_path / "features.npy"), NAMES, folder, Config(fit_rows=400), **given)
    assert stored(store / "run") == contents(tmp_path / "here")
    assert len(Labels.from_run(store / "run")) == 600


def test_without_universal_pathlib_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "upath", None)
    (tmp_path / "names.txt").write_text("a\nb\n")
    label = ["label", tmp_path, "--classes", tmp_path / "names.txt", "--out", "memory://run"]
    code, err = run(capsys, *label)
    assert code == 1
    assert one_line(err) == (
        "gdui: error: memory://run needs universal_pathlib, which is not installed: pip install 'gdui[ray]'"
    )


def test_what_keeps_checkpoints_stays_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("upath")
    (tmp_path / "names.txt").write_text("a\nb\n")
    label = ["label", str(tmp_path), "--classes", str(tmp_path / "names.txt"), "--out", "memory://run"]
    assert cli.main([*label, "--set", "clusterer=spice"]) == 1
    assert "out can't be on a store: memory://run" in one_line(capsys.readouterr().err)
