"""The commands that train a generator and draw from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from generators import QUICK, make_labels
from PIL import Image
from processes import same_threads

from gdui import cli


def test_the_commands_train_and_draw_without_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(tmp_path / "photos" / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [f"--set={name}={value}" for name, value in QUICK.items()]
    command = ["train", str(tmp_path / "labels.parquet"), str(tmp_path / "photos"), "--out", str(tmp_path / "run")]
    options = ["--preset", "tiny", "--unconditional", "--objective", "unet"]
    assert cli.main([*command, *options, *settings]) == 0
    sample = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "drawn"), "--steps", "2"]
    assert cli.main([*sample, "-n", "3"]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*/*.png")) == [f"{at:06d}.png" for at in range(3)]
    assert cli.main([*sample, "--class", "dark"]) == 1
    assert "this model knows no classes and has no classifier to steer by" in capsys.readouterr().err


def test_the_command_trains_and_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    command = ["train", str(tmp_path / "labels.parquet"), str(photos), "--out", str(tmp_path / "run")]
    options = ["--preset", "tiny", "--no-compile", *settings]
    assert cli.main([*command, *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["networks"]
    assert {name: one["steps"] for name, one in told.items()} == {"unet": 4, "classifier": 2}
    assert cli.main([*command, *options]) == 0
    assert "unet: 4 steps, loss" in capsys.readouterr().out
    assert cli.main([*command, *options, "--set", "recipe.rate=0.5"]) == 1
    assert "begun with other settings" in capsys.readouterr().err
    lost = [*command[:-1], str(tmp_path / "other"), *options, "--set", "recipe.rate=1e30"]
    assert cli.main(lost) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "stopped; there is no checkpoint yet" in line


# A shell's background job, whose children are deaf to Ctrl-C, must not decide this.
ASKED = """
import os, signal, sys
from gdui.cli import main
from gdui.diffusion import workflow

def grid(*_, **__):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

workflow.write_grid = grid
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_command_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [f"--set={name}={value}" for name, value in (QUICK | {"recipe.save_every": 1}).items()]
    command = ["train", str(tmp_path / "labels.parquet"), str(photos), "--preset", "tiny", "--objective", "unet"]
    command += [*settings, "--out", str(tmp_path / "run")]
    asked = [sys.executable, "-c", ASKED, name, *command]
    done = subprocess.run(asked, capture_output=True, text=True, env=same_threads())
    assert done.returncode == 130
    where = tmp_path / "run" / "unet"
    told = [line for line in done.stderr.splitlines() if not line.startswith(("unet: ", "pictures: ", "steps for "))]
    assert told == [
        f"gdui: error: stopped after step 1 of 4, which is kept in {where}; run the same command again to continue"
    ]
    assert cli.main(command) == 0
    whole = [*command[:-1], str(tmp_path / "whole")]
    assert cli.main(whole) == 0
    one, two = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "whole"))
    assert one == two
