"""Runs that faults befall: what they are given, and what they say."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_labeler import NAMES, heap

from gdui import cli
from gdui.demo import images

PICTURES = 48
Told = tuple[int, str]


def give(folder: Path) -> Path:
    """Pictures of digits in three archives, features with their opinions, and names."""
    features, opinions, _ = heap()
    np.save(folder / "features.npy", features.astype(np.float16))
    np.save(folder / "opinions.npy", opinions.astype(np.float16))
    (folder / "names.txt").write_text("\n".join(NAMES))
    (folder / "digits.txt").write_text("\n".join(map(str, range(10))))
    (folder / "photos").mkdir()
    for at, picture in enumerate(images()[:PICTURES]):
        Image.fromarray(picture).save(folder / "photos" / f"{at:03d}.png")
    archives(folder)
    return folder


def archives(folder: Path) -> None:
    for at in range(3):
        with tarfile.open(folder / f"{at}.tar", "w") as archive:
            for path in sorted((folder / "photos").iterdir())[at::3]:
                archive.add(path, path.name)


def labelling(given: Path) -> list[str]:
    """Ready features, in several parts."""
    return [
        *("label", str(given / "features.npy"), "--features", "--opinions", str(given / "opinions.npy")),
        *("--classes", str(given / "names.txt"), "--set", "fit_rows=300", "--out"),
    ]


def seeing(given: Path) -> list[str]:
    """Archives of pictures, by the shipped encoder."""
    named = ["--classes", str(given / "digits.txt"), "--encoder", "digits", "--out"]
    return ["label", str(given / "*.tar"), *named]


def run(capsys: pytest.CaptureFixture[str], *command: object) -> Told:
    code = cli.main([str(one) for one in command])
    return code, capsys.readouterr().err


def one_line(err: str) -> str:
    (line,) = (line for line in err.splitlines() if line.startswith("gdui: error: "))
    assert "Traceback" not in err
    return line
