"""On a Ray cluster the same work ends in the same bytes: with any number of workers, and when one of them is killed."""

import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from faults import one_line, run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_labeler import NAMES, heap
from test_parts import contents
from test_places import stored

from gdui.config import Config
from gdui.demo import NAMES as DIGITS
from gdui.demo import images
from gdui.labeling import distribute, parts
from gdui.labeling.workflow import label_run
from gdui.places import place

PICTURES, SHARDS = 1200, 12
SIDE = 256  # large enough for a kill to find a worker at work
CONFIG = Config(fit_rows=600).override({"encode.encoder": "digits"})


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "PART_ROWS", 400)
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """More pictures than are learned from, in archives; one is none."""
    folder = tmp_path_factory.mktemp("shards")
    for at, picture in enumerate(images()[:PICTURES]):
        Image.fromarray(picture).resize((SIDE, SIDE)).save(folder / f"{at:04d}.png")
    (folder / "0007.png").write_bytes(b"no picture")
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as archive:
            for at in range(shard, PICTURES, SHARDS):
                archive.add(folder / f"{at:04d}.png", f"{at:04d}.png")
    return str(folder / "*.tar")


@pytest.fixture(scope="module")
def undisturbed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the engine of one process leaves."""
    folder = tmp_path_factory.mktemp("local") / "run"
    label_run(shards, list(DIGITS), folder, CONFIG)
    return contents(folder)


def label(shards: str, out: str | Path, **options: Any) -> Any:
    return label_run(shards, list(DIGITS), out, CONFIG, engine="ray", **options)


def test_one_worker_and_a_second_call(
    cluster: Any, shards: str, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[tuple[str, int, int]] = []
    done = label(shards, "run", workers=1, progress=lambda *said: told.append(said))
    assert contents(tmp_path / "run") == undisturbed
    assert done.totals.quarantine.num_rows == 1
    assert done.ledger["encode"][1] == PICTURES - 1
    assert {"neighbors", "cluster", "match", "predict", "write"} <= set(done.ledger)
    assert ("encode", PICTURES, 0) in told
    assert not label(shards, "run").ledger
    with pytest.raises(ValueError, match="begun with other settings"):
        label_run(shards, list(DIGITS), "run", CONFIG.override({"seed": 1}), engine="ray")


def test_four_workers_write_to_a_store(
    cluster: Any, shards: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("upath")
    label(shards, f"file://{tmp_path}/run", workers=4)
    assert stored(place(f"file://{tmp_path}/run")) == undisturbed


def test_a_killed_worker_changes_no_byte(
    cluster: Any, shards: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "run" / "features", killed))
    killer.start()
    label(shards, tmp_path / "run")
    killer.join()
    assert len(killed) == 1
    assert contents(tmp_path / "run") == undisturbed


def kill_a_worker(features: Path, killed: list[int]) -> None:
    """Kills one that encodes, once a first shard stands and before the last does."""
    while not workers():
        time.sleep(0.1)
    while not (done := len(list(features.glob("*.npy")))):
        time.sleep(0.005)
    if done < SHARDS:
        victim = workers()[-1]
        victim.kill()
        killed.append(victim.pid)


def workers() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if "ray::_Worker" in " ".join(one.info["cmdline"] or [])]


def test_ready_features_and_an_extension(cluster: Any, tmp_path: Path) -> None:
    features, opinions, _ = heap()
    for name, engine in (("here", "local"), ("there", "ray")):
        for rows, mode in ((500, "continue"), (600, "extend")):
            np.save(tmp_path / "features.npy", features[:rows].astype(np.float16))
            np.save(tmp_path / "opinions.npy", opinions[:rows].astype(np.float16))
            config, scores = Config(fit_rows=400), str(tmp_path / "opinions.npy")
            given: dict[str, Any] = {"ready": True, "opinions": scores, "mode": mode, "engine": engine}
            label_run(str(tmp_path / "features.npy"), NAMES, tmp_path / name, config, **given)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_mistake_on_a_worker_is_told_as_it_is(cluster: Any, shards: str, tmp_path: Path) -> None:
    import ray

    class Mistaken:
        def work(self, at: int) -> int:
            if at == 2:
                raise FileNotFoundError(2, "No such file or directory", "2.tar")
            return at

    workers = [ray.remote(num_cpus=0)(Mistaken).remote()]
    with pytest.raises(FileNotFoundError, match=r"2\.tar"):
        list(distribute._spread(workers, "work", range(4)))


def test_work_that_kills_its_workers_is_given_up(cluster: Any) -> None:
    import ray

    class Dying:
        def work(self, at: int) -> None:
            import os

            os._exit(1)

    workers = [ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=1)(Dying).remote()]
    with pytest.raises(OSError, match="the cluster gave a piece of work up, run again to continue"):
        list(distribute._spread(workers, "work", range(1)))


def test_what_a_lost_machine_had_is_done_by_another(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(distribute, "PATIENCE", 0.5)

    class Lost:
        def __init__(self, lost: bool) -> None:
            self.lost = lost

        def work(self, at: int) -> int:
            import time

            if self.lost:
                time.sleep(600)
            return at * at

    workers = [ray.remote(num_cpus=0)(Lost).remote(at == 0) for at in range(3)]
    try:
        assert sorted(distribute._spread(workers, "work", range(9))) == [(at, at * at) for at in range(9)]
    finally:
        for one in workers:
            ray.kill(one)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=6), st.integers(1, 40))
def test_shares_are_as_large_as_they_can_be(held: list[int], workers: int) -> None:
    each = distribute.share(held, workers)
    assert sum(int(one / each + 1e-6) for one in held) >= workers
    assert each < 1 or each == int(each), "Ray counts whole cores, or parts of one"
    if each >= 1:
        assert sum(one // (int(each) + 1) for one in held) < workers


def test_without_ray_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "names.txt").write_text("a\nb\n")
    label = ["label", tmp_path, "--classes", tmp_path / "names.txt", "--out", tmp_path / "run", "--engine", "ray"]
    code, err = run(capsys, *label)
    assert code == 1
    assert one_line(err) == "gdui: error: engine 'ray' needs Ray, which is not installed: pip install 'gdui[ray]'"
    assert not (tmp_path / "run").exists()


def test_workers_belong_to_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    label = ["label", tmp_path, "--classes", tmp_path / "names.txt", "--out", tmp_path / "run", "--workers", "2"]
    code, err = run(capsys, *label)
    assert code == 1
    assert "give engine 'ray'" in one_line(err)
