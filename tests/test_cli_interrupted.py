"""The command line when it is stopped: what is left, what is said, and the same bytes after a kill."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

from gdui.runs import Run


def test_a_run_in_use_is_refused(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}):
        code, _, err = gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert code == 1
    assert f"is in use by process {os.getpid()}" in err


def test_interruption_exits_with_130(gdui: Cli, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gdui.labeling.workflow.label_run", interrupt)
    code, _, err = gdui("label", tmp_path, "--classes", names, "--out", tmp_path / "run")
    assert code == 130
    assert err == "gdui: error: interrupted; run the same command again to continue\n"
    _, _, err = gdui("label", tmp_path, "--classes", names, "--out", tmp_path / "run", "--mode", "overwrite")
    assert err == "gdui: error: interrupted; run the same command again to continue, without --mode overwrite\n"


def test_unfinished_runs_say_so(gdui: Cli, names: Path, tmp_path: Path) -> None:
    Run(tmp_path / "run", {"classes": []}).close()
    for command in (("explain", tmp_path / "run", "x"), ("predict", tmp_path / "run", tmp_path)):
        code, _, err = gdui(*command)
        assert code == 1
        assert "run gdui label again" in err
    assert "is not a run folder" in gdui("relabel", tmp_path, "--classes", names)[2]


def test_a_closed_pipe_is_no_traceback(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    command = [sys.executable, "-m", "gdui.cli", "explain", str(tmp_path / "run"), "00.png"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


DYING = """
import functools, os, signal, sys
from gdui.cli import main
from gdui.labeling import workflow

folder, encoder, *command = sys.argv[1:]
workflow.load_encoder = functools.cache(workflow.load_encoder)
workflow.load_encoder(encoder, batch=None)
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}

def forked(action):
    pid = os.fork()
    if not pid:
        os._exit(action())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die_at(moment, out):
    def dying(event, args):
        nonlocal moment
        if event in CHANGES and (out in str(args[0]) or args[-1] != -1):  # -1: not relative to an open folder
            moment -= 1
            if moment < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(dying)
    return main([*command, out])

moment, status = 0, -signal.SIGKILL
with open(f"{folder}/ends", "w") as ends:
    while status == -signal.SIGKILL:
        out = f"{folder}/{moment}"
        status = forked(lambda: die_at(moment, out))
        print(moment, status, forked(lambda: main([*command, out])), file=ends, flush=True)
        moment += STRIDE
"""

STRIDE = 1 if os.environ.get("GDUI_SOAK") else 4


def test_a_killed_run_continues_to_the_same_bytes(photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    """Dies as a file or folder is about to come, go or be renamed, at every fourth such moment; the last run lives."""
    for at in range(3):
        with tarfile.open(tmp_path / f"{at}.tar", "w") as archive:
            for path in sorted(photos.iterdir())[at::3]:
                archive.add(path, path.name)
    runs = tmp_path / "runs"
    runs.mkdir()
    label = ["label", tmp_path / "*.tar", "--classes", names, "--encoder", encoder, "--out"]
    script = DYING.replace("STRIDE", str(STRIDE))
    command = [sys.executable, "-c", script, *map(str, (runs, encoder, *label))]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    *killed, whole = [tuple(map(int, line.split())) for line in (runs / "ends").read_text().splitlines()]
    assert len(killed) >= 4
    assert {(first, second) for _, first, second in killed} == {(-9, 0)}
    assert whole[1:] == (0, 0)
    expected = contents(runs / str(whole[0]))
    assert {"labels.parquet", "quarantine.parquet", "config.toml"} < set(expected)
    for moment, _, _ in killed:
        assert contents(runs / str(moment)) == expected


def contents(run: Path) -> dict[str, bytes]:
    """Every file but those that hold times and process numbers."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in ("log", ".lock"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path != run / "manifest.json"}
