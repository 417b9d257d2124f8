"""Run folders: files whole or absent, a changed configuration and a second process refused, dead owners outlived."""

import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gdui import __version__, toml
from gdui.runs import Run, atomic_path, flat, read_manifest

SETTINGS: dict[str, Any] = {"seed": 0, "classes": ["a", "b"], "refine": {"sigma": 0.5, "unvoted": "keep"}}


def changed(**refine: Any) -> dict[str, Any]:
    return SETTINGS | {"refine": SETTINGS["refine"] | refine}


def begin(folder: Path, settings: Any = SETTINGS) -> None:
    """A run in which something is done."""
    with Run(folder, settings) as run:
        run.finish("encode")


def write_half(path: Path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_whole_file_takes_the_place(tmp_path: Path) -> None:
    target = tmp_path / "file.npy"
    target.write_text("old")
    with atomic_path(target) as path:
        assert path.parent == target.parent
        assert path.suffix == ".npy"
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left"), atomic_path(target) as path:
        write_half(path)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_file_the_umask_decides_and_not_its_writer(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "learned.safetensors") as path:
            save_file({"x": np.zeros(2)}, path)
    finally:
        os.umask(before)
    assert (tmp_path / "learned.safetensors").stat().st_mode & 0o777 == mode


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name[:6])
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_path(tmp_path / "file") as path:
        path.write_text("x")
    assert events == ["sync .part-", "rename", "sync " + tmp_path.name[:6]]


def test_long_names_have_room_for_the_mark(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 250)
    with atomic_path(target) as path:
        path.write_text("x")
    assert target.exists()


@pytest.mark.parametrize("product", [None, "features/0.npy", "quarantine.parquet"])
@pytest.mark.parametrize("there_before", ["", "deep", "deep/run"])
def test_a_failed_run_takes_its_folder_along_unless_it_holds_something(
    tmp_path: Path, there_before: str, product: str | None
) -> None:
    def fail_after(run: Run) -> None:
        run.features.mkdir()
        run.log.touch()
        if product:
            (run.path / product).touch()
        raise ValueError("too bad")

    (tmp_path / there_before).mkdir(parents=True, exist_ok=True)
    with pytest.raises(ValueError, match="too bad"), Run(tmp_path / "deep" / "run", SETTINGS) as run:
        fail_after(run)
    stays = bool(product) or there_before == "deep/run"
    assert run.path.exists() == stays
    assert run.path.parent.exists() == (stays or there_before == "deep")
    with Run(tmp_path / "deep" / "run", SETTINGS) as again:
        assert again.stages == {}


def test_a_run_remembers_what_is_done(tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        assert not run.done("encode")
        run.finish("encode", images=3)
    with Run(tmp_path / "run", SETTINGS) as run:
        assert run.done("encode")
        assert run.stages == {"encode": {"images": 3}}
    manifest = read_manifest(tmp_path / "run")
    assert manifest["gdui"] == __version__
    assert manifest["settings"] == SETTINGS
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text()) == SETTINGS


def test_paths_lie_in_the_folder(tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        paths = [run.features, run.labels, run.quarantine, run.log, run.report]
    names = ["features", "labels.parquet", "quarantine.parquet", "log", "report.html"]
    assert paths == [tmp_path / "run" / name for name in names]


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(ValueError, match="was begun with other settings") as caught:
        Run(tmp_path, changed(sigma=0.25) | {"k": 5, "seed": None})
    assert str(caught.value).splitlines()[1:] == [
        "  k: (none) -> 5",
        "  refine.sigma: 0.5 -> 0.25",
        "  seed: 0 -> (none)",
    ]
    Run(tmp_path, SETTINGS).close()


def test_where_nothing_is_done_settings_may_change(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS).close()
    Run(tmp_path, {"seed": 1}).close()
    assert read_manifest(tmp_path)["settings"] == {"seed": 1}
    (tmp_path / "features").mkdir()
    with pytest.raises(ValueError, match="other settings"):
        Run(tmp_path, SETTINGS)


def test_none_is_absent_and_a_tuple_a_list(tmp_path: Path) -> None:
    begin(tmp_path, {"k": None, "classes": ("a", "b")})
    Run(tmp_path, {"classes": ["a", "b"]}).close()


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    with Run(tmp_path, SETTINGS) as run:
        run.finish("encode")
        run.features.mkdir()
        (run.features / "shard").write_text("x")
        run.labels.write_text("x")
    with Run(tmp_path, changed(sigma=0.25), mode="overwrite") as run:
        assert not run.stages
        assert not run.features.exists()
        assert not run.labels.exists()
    assert read_manifest(tmp_path)["settings"] == changed(sigma=0.25)


def test_reopen_forgets_the_stages_named(tmp_path: Path) -> None:
    with Run(tmp_path, SETTINGS) as run:
        run.finish("encode")
        run.finish("label")
        run.reopen(changed(sigma=0.25), "label")
    with Run(tmp_path, changed(sigma=0.25)) as run:
        assert list(run.stages) == ["encode"]


def test_left_overs_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS).close()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / ".part-00-a.npy").write_text("half")
    (tmp_path / ".part-00-labels.parquet").write_text("half")
    Run(tmp_path, SETTINGS).close()
    assert not list(tmp_path.rglob(".part-*"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    for mode in ("continue", "overwrite"):
        with pytest.raises(ValueError, match=r"not a run folder \(it holds 'photo.jpg'\)"):
            Run(tmp_path, SETTINGS, mode=mode)
    assert (tmp_path / "photo.jpg").read_text() == "x"
    with pytest.raises(NotADirectoryError, match=r"photo\.jpg is a file"):
        Run(tmp_path / "photo.jpg", SETTINGS)
    with pytest.raises(ValueError, match="is not a run folder: it has no manifest"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="mode must be one of"):
        Run(tmp_path / "run", SETTINGS, mode="append")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"gdui": 1, "configuration": "", "settings": {}, "stages": {}}']
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    Run(tmp_path, SETTINGS).close()
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: start anew"):
        Run(tmp_path, SETTINGS)
    Run(tmp_path, SETTINGS, mode="overwrite").close()
    Run(tmp_path, SETTINGS).close()


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path, SETTINGS), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        Run(tmp_path, SETTINGS)
    Run(tmp_path, SETTINGS).close()


def test_a_refused_run_lets_go_of_the_lock(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        Run(tmp_path, {})
    Run(tmp_path, SETTINGS).close()


def test_the_lock_survives_no_dead_owner(tmp_path: Path) -> None:
    script = f"""
        import time
        from gdui.runs import Run
        run = Run({str(tmp_path)!r}, {SETTINGS!r})
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {owner.pid}"):
            Run(tmp_path, SETTINGS)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        Run(tmp_path, SETTINGS).close()


PLAIN = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
TABLE = st.dictionaries(st.text(), PLAIN | st.lists(st.text()))


@given(st.dictionaries(st.text(), PLAIN | st.lists(st.text()) | TABLE))
def test_toml_gives_back_what_it_was_given(nested: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(nested)) == nested


def test_toml_leaves_none_out() -> None:
    assert toml.dumps({"a": None, "b": {"c": None, "d": 1}}) == "[b]\nd = 1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("refine.sigma=0.25", ("refine.sigma", 0.25)),
        ("k = 5", ("k", 5)),
        ("k=auto", ("k", "auto")),
        ("k=none", ("k", None)),
        ("graph.enabled=false", ("graph.enabled", False)),
        ('encode.templates=["a {}", "b {}"]', ("encode.templates", ["a {}", "b {}"])),
        ("encode.encoder=ViT-B-32/laion2b", ("encode.encoder", "ViT-B-32/laion2b")),
        ("a.b=x=y", ("a.b", "x=y")),
        ("a=1\nb=2", ("a", "1\nb=2")),
    ],
)
def test_overrides_are_read(text: str, expected: tuple[str, Any]) -> None:
    assert toml.parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "k", "=5", " = "])
def test_an_override_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be given as stage\.field=value"):
        toml.parse_override(text)


def test_a_broken_configuration_file_is_named(tmp_path: Path) -> None:
    for content in (b"seed = ", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.toml is not a TOML file"):
            toml.read(tmp_path / "bad.toml")


def test_flat_names_are_dotted() -> None:
    assert flat({"a": 1, "b": {"c": (1, 2), "d": None}}) == {"a": 1, "b.c": [1, 2]}
