"""The core compiles for arm64, without a warning, wherever there is a compiler for it."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
FLAGS = ("-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


@pytest.mark.skipif(COMPILER is None, reason="there is no compiler for arm64 on this machine")
def test_the_core_compiles_for_arm64() -> None:
    done = subprocess.run([str(COMPILER), *FLAGS, *sorted(CSRC.glob("*.cpp"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
