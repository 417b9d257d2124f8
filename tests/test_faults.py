"""What can go wrong with a machine does: each fault ends in one clear line, and the run goes on to the same bytes.

Elsewhere: what befalls the source and the features of a run (test_faulty_data), a flipped bit in a checkpoint
(test_history), kills of training (test_train), damaged and changing shards of a store (test_features), dead workers and
lost machines of a cluster (test_distribute), a second process and a dead owner (test_runs), a closed pipe and one
interruption (test_cli_interrupted), what is wrong with single pictures and archives (test_decode, test_archives).
GDUI_SOAK=1 (`make soak`) kills at 50 moments in place of 5.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import Told, labelling, one_line, run, seeing
from test_parts import contents

from gdui import cli

MOMENTS = 50 if os.environ.get("GDUI_SOAK") else 5


# A process that has imported everything calls commands in children of its own, which die as it is told.
FORKING = """
import json, os, random, signal, sys, time
from gdui.cli import main
from gdui.labeling import parts
import gdui.diffusion.album, gdui.diffusion.workflow, gdui.labeling.workflow
parts.PART_ROWS = 200

def forked(command, out, seconds=None):
    pid = os.fork()
    if not pid:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(main([*command, out]))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

folder, moments, commands = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
draw, took, ends = random.Random(0), {}, []
for name, command in commands.items():
    start = time.perf_counter()
    assert forked(command, f"{folder}/{name}") == 0, command
    took[name] = time.perf_counter() - start
for moment in range(moments):
    name = list(commands)[moment % len(commands)]
    out = f"{folder}/{name}-{moment}"
    killed = forked(commands[name], out, draw.random() * took[name])
    ends.append((name, out, killed, forked(commands[name], out)))
print(json.dumps(ends))
"""


def test_kills_at_random_moments_change_no_byte(given: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    photos, trained = str(given / "photos"), tmp_path / "train"
    quick = {"network.width": 32, "recipe.steps": 6, "recipe.batch": 4, "recipe.save_every": 2}
    quick |= {"classifier_recipe.steps": 4, "classifier_recipe.batch": 4, "classifier_recipe.save_every": 2}
    training = ["--preset", "tiny", "--no-compile", *(f"--set={name}={value}" for name, value in quick.items())]
    assert cli.main([*seeing(given)[:1], photos, *seeing(given)[2:], str(tmp_path / "photos-run")]) == 0
    predicting = [str(tmp_path / "label"), str(given / "features.npy"), "--features"]
    commands = {
        "label": labelling(given),
        "see": seeing(given),
        "predict": ["predict", *predicting, "--opinions", str(given / "opinions.npy"), "--out"],
        "train": ["train", str(tmp_path / "photos-run"), photos, *training, "--out"],
        "sample": ["sample", str(trained), "-n", "2", "--steps", "4", "--batch", "4", "--out"],
    }
    command = [sys.executable, "-c", FORKING, str(tmp_path), str(MOMENTS), json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert len(ends) == MOMENTS
    assert any(killed == -signal.SIGKILL for _, _, killed, _ in ends)
    for name, out, _, continued in ends:
        assert continued == 0, (name, out)
        assert lasting(Path(out)) == lasting(tmp_path / name), f"{name}: {out}"


def lasting(folder: Path) -> dict[str, bytes]:
    """Every file that says nothing of the time that it took."""
    timed = ("losses.csv", "losses.png")
    return {
        name: data
        for name, data in contents(folder).items()
        if Path(name).name not in timed and "tensorboard" not in name and ".part-" not in name
    }


def forked(work: Callable[[], int], told: Path) -> Told:
    """What `work` returns in a process of its own, and what it writes to stderr."""
    pid = os.fork()
    if not pid:
        error = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(error, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - it stays open until the process ends
        try:
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told.read_text()


LIMITED = """
import resource, sys
from gdui.cli import main
import gdui.labeling.workflow
limit = int(sys.argv[2])
if sys.argv[1] == "RLIMIT_AS":
    limit += 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
resource.setrlimit(getattr(resource, sys.argv[1]), (limit, limit))
sys.exit(main(sys.argv[3:]))
"""


def limited(kind: str, limit: int, *command: object) -> Told:
    """A command under a limit of the system's, in one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_THREADS": "1"}
    script = [sys.executable, "-c", LIMITED, kind, str(limit), *map(str, command)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr


def test_a_full_disk(
    given: Path, tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = limited("RLIMIT_FSIZE", 12_000, *labelling(given), tmp_path / "run")
    assert code == 1
    assert "File too large" in one_line(err)
    assert not (tmp_path / "run" / "labels.parquet").exists()
    assert run(capsys, *labelling(given), tmp_path / "run") == (0, "")
    assert contents(tmp_path / "run") == undisturbed


def test_too_little_memory(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = np.tile(np.load(given / "features.npy"), (2, 300))
    np.save(tmp_path / "wide.npy", wide)
    np.save(tmp_path / "vectors.npy", wide[:4])
    label = ["label", tmp_path / "wide.npy", "--features", "--opinions", tmp_path / "vectors.npy"]
    label += ["--classes", given / "names.txt", "--preset", "paper", "--set", "clusterer=kmeans", "--out"]
    code, err = limited("RLIMIT_AS", 40_000_000, *label, tmp_path / "run")
    assert code == 1
    assert "out of memory" in one_line(err)
    for out in ("run", "other"):
        assert run(capsys, *label, tmp_path / out)[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "other")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own can't be."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, whom the folder does not belong to")
def test_a_folder_that_can_not_be_written(given: Path, open_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("features.npy", "opinions.npy", "names.txt"):
        shutil.copy(given / name, open_folder / name)
    (open_folder / "runs").mkdir()
    import gdui.labeling.workflow  # noqa: F401 - as another user might not read it

    def as_nobody() -> int:
        os.setgid(65534)
        os.setuid(65534)
        return cli.main([*labelling(open_folder), str(open_folder / "runs" / "run")])

    code, err = forked(as_nobody, open_folder / "told")
    assert code == 1
    assert one_line(err).endswith("Permission denied")
    assert run(capsys, *labelling(open_folder), open_folder / "runs" / "run") == (0, "")


# A shell's background job, whose children are deaf to Ctrl-C, must not decide this.
WAITING = """
import signal, sys, time
from pathlib import Path
from gdui.cli import main
from gdui.labeling import graph

def wait(*_, **__):
    Path(sys.argv[1]).touch()
    time.sleep(60)

graph.modes = wait
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[2:]))
"""


def test_two_interruptions(
    given: Path, tmp_path: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", WAITING, tmp_path / "mark", *labelling(given), tmp_path / "run"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "mark").exists() and process.poll() is None:
            time.sleep(0.005)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.stderr is not None
        err = process.stderr.read()
    assert process.returncode == 130, err
    assert "interrupted; run the same command again to continue" in one_line(err)
    assert run(capsys, *labelling(given), tmp_path / "run") == (0, "")
    assert contents(tmp_path / "run") == undisturbed


def test_a_clock_that_jumps(
    given: Path,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(4e9 - 1e8 * at for at in range(1000))
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: next(now))
        assert run(capsys, *labelling(given), tmp_path / "run") == (0, "")
        assert next(now) < 4e9
        assert cli.main([*labelling(given), str(tmp_path / "run")]) == 0
        assert "nothing was left to do" in capsys.readouterr().out
    assert contents(tmp_path / "run") == undisturbed
