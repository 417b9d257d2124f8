"""Shards and features that vanish, change or are damaged: one clear line, and the run goes on to the same bytes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import labelling, one_line, run, seeing
from test_parts import contents

from gdui.labeling.features import FeatureStore


def test_a_shard_that_vanishes_underway(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(given, tmp_path / "given")
    write = FeatureStore.write

    def stealing(self: FeatureStore, *args: Any) -> None:
        write(self, *args)
        (tmp_path / "given" / "2.tar").rename(tmp_path / "stolen")

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "write", stealing)
        code, err = run(capsys, *seeing(tmp_path / "given"), tmp_path / "run")
    assert code == 1
    assert "2.tar" in one_line(err)
    (tmp_path / "stolen").rename(tmp_path / "given" / "2.tar")
    for out in ("run", "other"):
        assert run(capsys, *seeing(tmp_path / "given"), tmp_path / out)[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "other")


def test_a_shard_that_changes_underway(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(given, tmp_path / "given")
    write = FeatureStore.write

    def changing(self: FeatureStore, *args: Any) -> None:
        write(self, *args)
        shutil.copy(tmp_path / "given" / "1.tar", tmp_path / "given" / "2.tar")

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "write", changing)
        code, err = run(capsys, *seeing(tmp_path / "given"), tmp_path / "run")
    assert code == 1
    assert one_line(err).endswith("shard '2' of the source changed while it was read: run again to continue")
    assert not (tmp_path / "run" / "labels.parquet").exists()
    for out in ("run", "other"):
        assert run(capsys, *seeing(tmp_path / "given"), tmp_path / out)[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "other")


def test_a_corrupt_shard_in_the_middle(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(given, tmp_path / "given")
    middle = tmp_path / "given" / "1.tar"
    good = middle.read_bytes()
    middle.write_bytes(good[:700] + bytes(len(good) - 700)[::-1].replace(b"\0", b"\xff"))
    assert run(capsys, *seeing(tmp_path / "given"), tmp_path / "run")[0] == 0
    assert "could not be read" in said(tmp_path / "run", capsys)
    middle.write_bytes(good)
    for out in ("run", "other"):
        assert run(capsys, *seeing(tmp_path / "given"), tmp_path / out)[0] == 0
        assert "could not be read" not in said(tmp_path / out, capsys)
    one, other = contents(tmp_path / "run"), contents(tmp_path / "other")
    assert {name: data for name, data in one.items() if name in other} == other


def said(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    from gdui.labels import Labels

    capsys.readouterr()
    return Labels.from_run(folder).summary()


def test_a_truncated_feature_file(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *seeing(given), tmp_path / "run")[0] == 0
    whole = contents(tmp_path / "run")
    victim = next((tmp_path / "run" / "features").glob("*.npy"))
    victim.write_bytes(victim.read_bytes()[:-7])
    code, err = run(capsys, "relabel", tmp_path / "run", "--classes", given / "digits.txt")
    assert code == 1
    assert victim.name in one_line(err)
    for suffix in (".npy", ".parquet"):
        victim.with_suffix(suffix).unlink()
    assert run(capsys, *seeing(given), tmp_path / "run")[0] == 0
    assert contents(tmp_path / "run") == whole
    np.save(tmp_path / "short.npy", np.load(given / "features.npy"))
    with (tmp_path / "short.npy").open("r+b") as file:
        file.truncate(9000)
    code, err = run(capsys, *labelling(given)[:1], tmp_path / "short.npy", *labelling(given)[2:], tmp_path / "short")
    assert code == 1
    assert "short.npy' can't be read" in one_line(err)


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("labeler/learned.safetensors", "is damaged: its bytes are not those that were written"),
        ("labels.parquet", "can't be read as labels"),
        ("manifest.json", "is damaged: start anew"),
    ],
)
def test_a_flipped_bit_in_a_finished_run(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], victim: str, words: str
) -> None:
    assert run(capsys, *labelling(given), tmp_path / "run")[0] == 0
    path = tmp_path / "run" / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x80
    path.write_bytes(data)
    commands: list[list[object]] = [["explain", tmp_path / "run", "7"]]
    features = ["--features", "--opinions", given / "opinions.npy", "--out", tmp_path / "out"]
    commands.append(["predict", tmp_path / "run", given / "features.npy", *features])
    told = [run(capsys, *command) for command in commands]
    assert any(words in err for code, err in told if code == 1), told
    assert all(len(err.splitlines()) <= 1 for _, err in told)
    assert run(capsys, *labelling(given), tmp_path / "run", "--mode", "overwrite")[0] == 0
    assert run(capsys, "explain", tmp_path / "run", "7")[0] == 0


def test_a_flipped_bit_in_a_part_underway(
    given: Path, tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("gdui.labeling.parts.write_parquet", None)
        assert run(capsys, *labelling(given), tmp_path / "run")[0] == 1
    for victim in ("000000.parquet", "learned.parquet"):
        path = tmp_path / "run" / "parts" / victim
        data = bytearray(path.read_bytes())
        data[len(data) // 4] ^= 1
        path.write_bytes(data)
        code, err = run(capsys, *labelling(given), tmp_path / "run")
        assert code == 1
        assert "delete it and run the same command again" in one_line(err)
        assert victim in err
        path.unlink()
    assert run(capsys, *labelling(given), tmp_path / "run")[0] == 0
    assert contents(tmp_path / "run") == undisturbed
