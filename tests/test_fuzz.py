"""Whatever bytes a file holds, its reader returns or refuses: no crash, no hang, no write anywhere.

GDUI_SOAK=1 (`make soak`) tries more than 10,000 inputs, and where atheris installs as many again for each reader, which
it leads into branches that no input has yet seen.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_labels import make

from gdui import toml
from gdui.cli.labeling import _classes
from gdui.config import Config
from gdui.images import open_source
from gdui.images.decode import UnreadableError
from gdui.labeling.features import load_features
from gdui.labels import Labels
from gdui.labels.pins import read_pins
from gdui.runs import Run, read_manifest

SOAK = bool(os.environ.get("GDUI_SOAK"))
EXAMPLES = 1500 if SOAK else 25
GUIDED = 12_000
SECONDS = 5
Reader = Callable[[Path], object]


def read_config(path: Path) -> object:
    return Config.from_dict(toml.read(path))


def read_tar(path: Path) -> object:
    return [(id_, raw) for shard in open_source(str(path)).shards for id_, raw in shard.read()]


def read_store(path: Path) -> object:
    return load_features(path.parent)


def a_config() -> bytes:
    return toml.dumps(Config().to_dict() | {"k": "auto", "encode": {"templates": ["a {}", "the {}"]}}).encode()


def a_tar() -> bytes:
    file, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "../b.png", "c" * 120 + ".png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    return file.getvalue()


def a_manifest() -> bytes:
    stages = {"encode": {"source": "x"}, "label": {"stamp": {}, "ledger": {"write": [0.1, 3]}}}
    return json.dumps({"gdui": "0", "configuration": "x", "settings": {"k": 3}, "stages": stages}).encode()


def some_labels(folder: Path) -> bytes:
    make(9, ids=[f"photo {row}" for row in range(9)]).to_parquet(folder / "seed.parquet")
    data = (folder / "seed.parquet").read_bytes()
    (folder / "seed.parquet").unlink()
    return data


def a_store() -> bytes:
    shard = {"file": "f", "key": "0", "count": 3, "rejected": 0, "checksum": ""}
    return json.dumps({"schema": 1, "encoder": "e", "hash": "h", "dim": 2, "shards": [shard]}).encode()


def an_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.eye(3, dtype=np.float16))
    return file.getvalue()


FORMATS: dict[str, tuple[Reader, Callable[[Path], bytes]]] = {
    "config.toml": (read_config, lambda _: a_config()),
    "names.txt": (lambda path: _classes(path, {}), lambda _: b"cat\ndog\n\xc3\xa9\n"),
    "names.toml": (lambda path: _classes(path, {}), lambda _: b'cat = ["a tabby"]\ndog = "it barks"\n'),
    "run/manifest.json": (lambda path: read_manifest(path.parent), lambda _: a_manifest()),
    "store/manifest.json": (read_store, lambda _: a_store()),
    "labels.parquet": (Labels.from_parquet, some_labels),
    "corrections.csv": (read_pins, lambda _: b"id,label\na.jpg,cat\n'=b.jpg,\n"),
    "shard.tar": (read_tar, lambda _: a_tar()),
    "features.npy": (lambda path: load_features(path).array(), lambda _: an_npy()),
}


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """The file with some bytes changed, put in or taken away; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=600))
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "insert", "cut", "repeat", "number"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 50))
        else:
            data[at : at + 4] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_returns_or_refuses(name: str, tmp_path: Path) -> None:
    read, make_seed = FORMATS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    seed = make_seed(tmp_path)
    path.write_bytes(seed)
    if name != "store/manifest.json":
        read(path)

    @settings(
        max_examples=EXAMPLES,
        deadline=SECONDS * 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=EXAMPLES < 100,
    )
    @given(damaged(seed))
    def tried(data: bytes) -> None:
        try_one(read, path, data, tmp_path)

    tried()


def try_one(read: Reader, path: Path, data: bytes, folder: Path) -> None:
    """Hands the reader the file `path`, the only one in `folder`."""
    path.write_bytes(data)
    try:
        read(path)
    except (ValueError, TypeError, OSError, UnreadableError) as error:
        assert str(error)  # noqa: PT017 - what is raised is looked at, whether it is raised is left open
    assert [one for one in folder.rglob("*") if one.is_file()] == [path]


# Of what is imported here, atheris sees which branches an input takes.
GUIDING = """
import sys
from pathlib import Path
import atheris

sys.path.insert(0, sys.argv.pop(1))
with atheris.instrument_imports(include=["gdui"]):
    from test_fuzz import FORMATS, try_one

name, path = sys.argv.pop(1), Path(sys.argv.pop(1))
atheris.Setup(sys.argv, lambda data: try_one(FORMATS[name][0], path, data, path.parent))
atheris.Fuzz()
"""


@pytest.mark.skipif(not SOAK, reason="atheris leads a reader for minutes: make soak")
@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_that_is_led_into_new_branches(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris does not install for this Python")
    path, corpus = tmp_path / "read" / Path(name).name, tmp_path / "corpus"
    path.parent.mkdir()
    corpus.mkdir()
    (corpus / "seed").write_bytes(FORMATS[name][1](tmp_path))
    limits = [f"-runs={GUIDED}", f"-timeout={SECONDS}", "-max_len=8192", "-rss_limit_mb=8192", "-seed=1"]
    where = [str(Path(__file__).parent), name, str(path)]
    command = [sys.executable, "-c", GUIDING, *where, *limits, f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Done" in done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["corpus", "read"]


HOSTILE = [
    "x" * 100_000,
    "\x1b[31mred\x07\b",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "../../up",
    "/etc/passwd",
    "a\u202eb",
    "😀" * 300,
    "'; DROP TABLE labels; --",
]


def test_hostile_class_names_go_through_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are texts like any other: in tables, in words, in the report, and never in a path or a page's code."""
    from gdui import cli

    random = np.random.default_rng(0)
    truth = np.arange(180) % len(HOSTILE)
    np.save(tmp_path / "features.npy", np.eye(len(HOSTILE), 16)[truth] + 0.1 * random.standard_normal((180, 16)))
    np.save(tmp_path / "opinions.npy", 5 * np.eye(len(HOSTILE))[truth])
    (tmp_path / "names.toml").write_text(toml.dumps({name: [] for name in HOSTILE}), encoding="utf-8")
    out = tmp_path / "runs" / "run"
    label = ["label", tmp_path / "features.npy", "--features", "--opinions", tmp_path / "opinions.npy", "--out", out]
    assert cli.main([*map(str, label), "--classes", str(tmp_path / "names.toml")]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert max(map(len, shown.splitlines())) < 1000
    labels = Labels.from_run(out)
    assert labels.classes == HOSTILE
    assert (labels.label_index == truth).mean() > 0.95
    labels.to_csv(tmp_path / "labels.csv")
    assert ",=cmd" not in (tmp_path / "labels.csv").read_text()
    page = labels.report(tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert toml.read(out / "config.toml")["classes"] == HOSTILE
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["features.npy", "opinions.npy", "names.toml", "runs", "labels.csv", "report.html"]
    )
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    with Run(out, read_manifest(out)["settings"]) as again:
        assert again.done("label")
