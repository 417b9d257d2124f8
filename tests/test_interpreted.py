"""Every op's tests once more with its Triton kernels, interpreted on the CPU.

Triton decides at import whether it interprets, so each file runs in a process of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("test_ops_*.py")), ids=lambda path: path.stem)
def test_kernels_agree_with_the_reference_when_interpreted(path: Path) -> None:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-k", "triton", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert "skipped" not in done.stdout, done.stdout
