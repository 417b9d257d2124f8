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


def run_on_two_ranks(module: str, function: str, folder: Path) -> None:
    """Calls `function(folder)` of a module here on two ranks, in float32, so that sums may be taken in any order.

    They are forked from one process that has imported everything: torchrun would import PyTorch thrice.
    """
    code = textwrap.dedent(f"""
        import os, sys; sys.path.insert(0, {str(HERE)!r})
        from pathlib import Path
        import torch.distributed as dist
        import {module}
        folder = Path(sys.argv[1])
        other = os.fork()
        meeting = folder.with_name(f"{{folder.name}}.meeting").as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=int(not other), world_size=2)
        {module}.{function}(folder)
        dist.barrier()
        dist.destroy_process_group()
        if other:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
        """)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_PRECISION": "float32"}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, env=environment)
