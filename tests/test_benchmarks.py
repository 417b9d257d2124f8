"""The harness refuses to time what disagrees, and the documents say what the rows say."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import harness, report, run
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


def test_a_new_run_replaces_rows_of_the_same_key_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    first, second = Bench("toy", threads=1), Bench("toy", threads=1)
    first.record("n=1", "gdui", "time", "s", [1.0])
    first.record("n=2", "gdui", "time", "s", [2.0])
    second.record("n=1", "gdui", "time", "s", [3.0])
    harness.write_rows("toy", first.rows)
    harness.write_rows("toy", second.rows)
    assert [(row.size, row.p50) for row in harness.read_rows("toy")] == [("n=1", 3.0), ("n=2", 2.0)]


def test_the_documents_say_what_the_rows_say() -> None:
    assert report.stale() == [], "run: python benchmarks/report.py"
