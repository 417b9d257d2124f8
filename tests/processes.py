"""Runs of a function of these modules in other processes: one that is killed, and two that work as one."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

HERE = Path(__file__).parent


def same_threads() -> dict[str, str]:
    """An environment in which PyTorch begins with as many threads as it has here: they decide a sum's last bits."""
    return os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))


def kill_after_first_checkpoint(module: str, function: str, folder: Path) -> None:
    """Calls `function(folder)` of a module here elsewhere, and kills it once a checkpoint stands there."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); from pathlib import Path; import {module}; "
    command = [sys.executable, "-c", f"{code}{module}.{function}(Path(sys.argv[1]))", str(folder)]
    process = subprocess.Popen(command, env=same_threads())
    while not list(folder.glob("step-*.json")) and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_on_two_ranks(module: str, function: str, folder: Path, *, port: int) -> None:
    """Calls `function(folder)` of a module here under torchrun, in float32, so that sums may be taken in any order."""
    script = folder.parent / f"{folder.name}.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(HERE)!r})
        from pathlib import Path
        import torch.distributed as dist
        import {module}
        dist.init_process_group("gloo")
        {module}.{function}(Path(sys.argv[1]))
        dist.destroy_process_group()
        """)
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_PRECISION": "float32"}
    subprocess.run([*torchrun, str(script), str(folder)], check=True, capture_output=True, env=environment)
