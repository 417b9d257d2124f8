"""The harness refuses to time what disagrees, and the documents say what the rows say."""

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import harness, paper, report, run
from benchmarks.harness import Bench


def test_disagreement_stops_the_benchmark_before_timing() -> None:
    calls = []

    def agree(results: dict[str, int]) -> None:
        assert results["gdui"] == results["peer"]

    bench = Bench("toy", threads=1, quick=True)
    ways = {"gdui": lambda: calls.append("gdui") or 1, "peer": lambda: 2}
    with pytest.raises(AssertionError):
        bench.compare("n=1", ways, agree=agree)
    assert calls == ["gdui"]
    assert bench.rows == []


def test_a_row_holds_order_roles_and_rate() -> None:
    bench = Bench("toy", threads=1, quick=True)
    ways = {"gdui": lambda: time.sleep(0.002), "slow": lambda: time.sleep(0.02)}
    medians = bench.compare("n=1", ways, agree=lambda _: None, peers=["slow"], work=10.0)
    assert medians["slow"] > 3 * medians["gdui"]
    rate = next(row for row in bench.rows if row.metric == "rate" and row.provider == "slow")
    assert rate.role == "peer"
    assert rate.p50 == pytest.approx(10 / medians["slow"], rel=1e-3)
    assert all(row.p20 <= row.p50 <= row.p80 for row in bench.rows)


@pytest.mark.parametrize("long", [False, True])
def test_the_call_that_is_watched_is_not_timed(long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def cold_at_first() -> None:
        calls.append(0)
        time.sleep(0.3 if len(calls) == 1 else 0.03)

    monkeypatch.setattr(harness, "LONG", 0.1 if long else 15.0)
    bench = Bench("toy", threads=1)
    bench.compare("n=1", {"gdui": cold_at_first}, agree=lambda _: None, repeats=2)
    row = next(row for row in bench.rows if row.metric == "time")
    assert row.repeats == (1 if long else 2) == len(calls) - 1
    assert row.p80 < 0.2


def test_a_timing_of_short_calls_is_their_mean_after_one_that_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def short() -> None:
        made.append(time.perf_counter())
        time.sleep(0.05 if len(made) == 2 else 0.001)

    monkeypatch.setattr(harness, "MOMENT", 0.05)
    bench = Bench("toy", threads=1)
    bench.compare("n=1", {"gdui": short}, agree=lambda _: None, repeats=1)
    time_row = next(row for row in bench.rows if row.metric == "time")
    assert len(made) > 10  # the one watched, the one that warms up, and those timed
    assert 0.001 < time_row.p50 < 0.004


def test_peak_memory_sees_what_was_freed_again() -> None:
    with harness.peak_memory() as peak:
        block = np.ones(50_000_000, dtype=np.uint8)
        time.sleep(0.01)
        del block
    assert 40e6 < peak[0] < 150e6


def test_memory_on_a_gpu_is_what_pytorch_held_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    with harness.gpu_peak_memory() as peak:
        pass
    assert peak == [250.0]


def test_a_component_that_knows_only_the_cpu_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "refine", "--device", "cuda", "--quick"])
    run.main()
    assert capsys.readouterr().out == "refine: skipped, it knows only cpu\n"


def test_a_run_that_was_cut_short_replaces_rows_of_the_same_key_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.write_rows("toy", rows_of(1, {"n=1": 1.0, "n=2": 2.0}))
    harness.write_rows("toy", rows_of(1, {"n=1": 3.0}))
    assert [(row.size, row.p50) for row in harness.read_rows("toy")] == [("n=1", 3.0), ("n=2", 2.0)]


def test_a_complete_run_drops_what_its_device_and_threads_no_longer_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.write_rows("toy", [*rows_of(1, {"n=1": 1.0, "gone": 2.0}), *rows_of(2, {"n=1": 4.0})])
    other = replace(rows_of(1, {"n=1": 5.0})[0], device="another")
    harness.write_rows("toy", [other])
    harness.write_rows("toy", rows_of(1, {"n=1": 3.0}), complete=True)
    left = {(row.size, row.threads, row.device): row.p50 for row in harness.read_rows("toy")}
    here = harness.device_name("cpu")
    assert left == {("n=1", 1, here): 3.0, ("n=1", 2, here): 4.0, ("n=1", 1, "another"): 5.0}


def rows_of(threads: int, times: dict[str, float]) -> list[harness.Row]:
    bench = Bench("toy", threads)
    for size, time_ in times.items():
        bench.record(size, "gdui", "time", "s", [time_])
    return bench.rows


@pytest.mark.parametrize("fails", [False, True])
def test_only_a_run_that_came_to_its_end_is_complete(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def toy(bench: Bench) -> None:
        bench.record("n=1", "gdui", "time", "s", [1.0])
        if fails:
            raise KeyboardInterrupt

    written = []
    monkeypatch.setattr(run, "write_rows", lambda *arguments, complete: written.append((*arguments, complete)))
    monkeypatch.setattr(run, "set_threads", lambda _: None)
    monkeypatch.setattr(run, "components", lambda: ["toy"])
    monkeypatch.setitem(sys.modules, "benchmarks.bench_toy", SimpleNamespace(run=toy, DEVICES=("cpu",)))
    monkeypatch.setattr(sys, "argv", ["run.py", "toy", "--threads", "1"])
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        run.main()
    [(component, rows, complete)] = written
    assert (component, [row.size for row in rows], complete) == ("toy", ["n=1"], not fails)


def test_the_documents_say_what_the_rows_say() -> None:
    assert report.stale() == [], "run: python benchmarks/report.py"


def test_a_billion_images_are_counted_from_the_rows_of_most_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(size: str, provider: str, metric: str, value: float, threads: int, role: str = "ours") -> harness.Row:
        values = (value, value, value, 1, threads)
        return harness.Row("toy", size, provider, role, metric, "", *values, "cpu", "", "")  # type: ignore[arg-type]

    rows = {
        "encode": [
            row("128 JPEG 640x480", "gdui", "rate", 50.0, 1),
            row("128 JPEG 640x480", "gdui", "rate", 72.0, 2),
            row("128 JPEG 640x480", "slow", "rate", 9.0, 2, "peer"),
            row("128 JPEG 640x480", "gdui", "time", 1.0, 2),
        ],
        "bytes": [row("N=9", paper.PICTURE, "bytes an image", 100_000.0, 2)],
    }
    monkeypatch.setattr(paper, "read_rows", lambda component: rows.get(component, []))
    encoding, pictures = paper.assumptions()
    assert encoding[2:] == ["36 images/s a core", "7,716 core hours"]
    assert pictures[2:] == ["100,000 bytes", "100.0 TB"]
    one, _, many = paper.machines()
    assert one == ["1", "5.0 days", "2,304", "0.23 GB/s"]
    assert many == ["256", "0.5 hours", "589,824", "58.98 GB/s"]
