"""The command that scores images and labels."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdui.cli import evaluating, main

COUNTED = """
import os, sys
from pathlib import Path
from gdui.cli import main
from gdui.evaluation.fidelity.networks import Network

looked, look = [], Network.look
Network.look = lambda self, pixels: looked.append(len(pixels)) or look(self, pixels)
code = main(sys.argv[1:])
Path.home().joinpath("looked" + os.environ.get("RANK", "")).write_text(str(sum(looked)))
sys.exit(code)
"""


def test_the_command_on_two_ranks_shares_the_images_and_prints_once_what_one_does(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """The first writes the reference's statistics, which one process then reads."""
    (tmp_path / "counted.py").write_text(COUNTED)
    for name in ("real", "drawn"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (200, 8, 8), dtype=np.uint8))
    command = [str(tmp_path / "counted.py"), "evaluate", f"mine={tmp_path / 'drawn.npy'}"]
    command += ["--reference", str(tmp_path / "real.npy"), "--network", "digits", "--json"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29733"]
    told: list[dict[str, Any]] = []
    for start, home, looked in ((torchrun, "two", [256, 144]), ([], "one", [400]), ([], "two", [200, 256, 144])):
        (tmp_path / home).mkdir(exist_ok=True)
        environment = os.environ | {"HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        line = [sys.executable, "-P", *start, *command]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout)["mine"])
        assert told[-1].pop("network") == "digits"
        assert [int(file.read_text()) for file in sorted((tmp_path / home).glob("looked*"))] == looked
        assert len(list((tmp_path / home).rglob("*.npz"))) == 1
    assert told[0] == pytest.approx(told[1], rel=1e-9)
    assert told[0] == pytest.approx(told[2], rel=1e-9)


def test_the_command_prints_a_table(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluating, "CACHE", tmp_path / "cache")
    for name, count in (("real", 40), ("drawn", 30), ("other", 20)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (count, 8, 8), dtype=np.uint8))
    real, drawn, other = (str(tmp_path / f"{name}.npy") for name in ("real", "drawn", "other"))
    command = ["evaluate", f"mine={drawn}", "--reference", real, "--network", "digits"]
    assert main(command) == 0
    assert "30 images a row beside 40 real ones, seen by digits" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["mine"]) >= {"fid", "sfid", "inception_score", "recall"}
    assert main(["evaluate", other, *command[1:]]) == 1
    assert "mine has 30: samples=20 looks at as many of each" in capsys.readouterr().err
    assert main(["evaluate", "mine=", *command[2:]]) == 1
    assert "sets must be NAME=SOURCE or a source, not 'mine='" in capsys.readouterr().err


def test_the_command_scores_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.repeat(np.eye(2, 4), 20, axis=0) + np.random.default_rng(0).normal(0, 0.05, (40, 4))
    np.save(tmp_path / "features.npy", features.astype(np.float32))
    np.save(tmp_path / "opinions.npy", np.repeat([[0.9, 0.1], [0.1, 0.9]], 20, axis=0).astype(np.float32))
    np.save(tmp_path / "truth.npy", np.repeat([0, 1], 20))
    (tmp_path / "names.txt").write_text("left\nright\n")
    run = str(tmp_path / "run")
    labelled = ["label", str(tmp_path / "features.npy"), "--features", "--opinions", str(tmp_path / "opinions.npy")]
    assert main([*labelled, "--classes", str(tmp_path / "names.txt"), "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1
    assert found["per class"] == {"left": 1, "right": 1}
    np.save(tmp_path / "truth.npy", np.zeros(40, int))
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per class"] == {"left": 0.5, "right": None}
    for content in (b"", b"id,label", b"PK\x03\x04"):
        (tmp_path / "other").write_bytes(content)
        assert main(["evaluate", run, "--truth", str(tmp_path / "other")]) == 1
        assert "an .npy file of class numbers" in capsys.readouterr().err
    assert main(["evaluate", run, "--truth", str(tmp_path / "none.npy")]) == 1
    assert "none.npy: No such file" in capsys.readouterr().err
    (tmp_path / "truth.csv").write_text("id,label\n0,left\n1,right\n20,right\n21,\n")
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per class"] == {"left": 1, "right": 0.5}
