"""The command line: what it leaves in a run folder and what it prints."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from commands import COUNT, MODEL, Cli, times
from safetensors.torch import save_file

from gdui import cli, toml
from gdui.cli.labeling import _configuration, _ledger
from gdui.config import Config
from gdui.labels import Labels
from gdui.runs import Run, read_manifest


@pytest.mark.parametrize(("given", "kept"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_told_otherwise(given: str | None, kept: str) -> None:
    """It must be said before PyTorch loads: OpenMP reads it once."""
    code = (
        "import os, sys; from gdui import cli; assert 'torch' not in sys.modules; cli.main(['explain', '/none', 'x']); "
    )
    code += "print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-1] == kept


def test_label_leaves_a_whole_run(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = gdui("label", photos, "--classes", names, "--out", run, "--encoder", encoder)
    assert (code, "error" in err) == (0, False)
    assert f"{COUNT} images, 3 classes" in out
    for stage in ("read", "decode", "encode", "write"):
        assert f"\n{stage} " in out
    assert "the bottleneck is " in out
    labels = Labels.from_parquet(run / "labels.parquet")
    assert labels.classes == ["red", "green", "blue"]
    assert labels.ids.to_pylist() == [f"{at:02d}.png" for at in range(COUNT)]
    assert {"manifest.json", "config.toml", "features", "quarantine.parquet", "log"} <= {p.name for p in run.iterdir()}
    assert list(read_manifest(run)["stages"]) == ["encode", "label"]


def test_a_finished_run_has_nothing_left_to_do(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert gdui(*command)[0] == 0
    before = (tmp_path / "run" / "labels.parquet").stat().st_mtime_ns
    code, out, _ = gdui(*command)
    assert code == 0
    assert "nothing was left to do" in out
    assert (tmp_path / "run" / "labels.parquet").stat().st_mtime_ns == before


def test_json_is_all_there_is_on_stdout(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    _, out, _ = gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder, "--json")
    found = json.loads(out)
    assert found["images"] == sum(found["classes"].values()) + found["abstained"] == COUNT
    assert found["quarantined"] == 0
    assert found["classes_without_cluster"] == []
    assert found["ledger"]["encode"]["images"] == COUNT
    assert found["bottleneck"] in found["ledger"]
    assert Path(found["labels"]).is_file()


def test_settings_come_from_file_and_line(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'seed = 7\n[encode]\nencoder = "{encoder}"\n[refine]\nsigma = 0.25\n')
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run", "--config", tmp_path / "config.toml")
    assert gdui(*command, "--set", "refine.sigma=0.75", "--set", "graph.neighbors=5")[0] == 0
    settings = read_manifest(tmp_path / "run")["settings"]
    assert settings["seed"] == 7
    assert settings["refine"]["sigma"] == 0.75
    assert settings["graph"]["neighbors"] == 5


@pytest.mark.parametrize("way", [("--set", "preset=paper"), ("--preset", "paper"), ("--config", "paper.toml")])
def test_a_preset_brings_its_settings_however_it_is_given(tmp_path: Path, way: tuple[str, str]) -> None:
    (tmp_path / "paper.toml").write_text('preset = "paper"\nseed = 3\n')
    given = {"preset": None, "set": ["seed=3"], "encoder": None, "cluster_by": None, "config": None}
    given |= {way[0].removeprefix("--"): ["seed=3", way[1]] if way[0] == "--set" else way[1]}
    written = toml.read(tmp_path / way[1]) if way[0] == "--config" else {}
    assert _configuration(argparse.Namespace(**given), written) == Config.named("paper", seed=3)


def test_other_settings_are_refused_with_the_difference(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert gdui(*command)[0] == 0
    code, out, err = gdui(*command, "--set", "seed=5")
    assert (code, out) == (1, "")
    assert "was begun with other settings" in err
    assert "  seed: 0 -> 5\n" in err
    assert "  encode.batch: (none) -> 7\n" in gdui(*command, "--set", "encode.batch=7")[2]
    assert gdui(*command, "--set", "seed=5", "--mode", "overwrite")[0] == 0


def test_relabel_reuses_features_and_prints_what_changed(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    shards = times(tmp_path / "run" / "features")
    (tmp_path / "new.txt").write_text("crimson\nazure\n")
    code, out, _ = gdui("relabel", tmp_path / "run", "--classes", tmp_path / "new.txt")
    assert code == 0
    assert f"{COUNT} of {COUNT} labels changed (100.0%)" in out
    assert " -> " in out
    assert "\nencode " not in out
    assert times(tmp_path / "run" / "features") == shards
    again = gdui("label", photos, "--classes", tmp_path / "new.txt", "--out", tmp_path / "run", "--encoder", encoder)
    assert "nothing was left to do" in again[1]


def test_relabel_gives_what_label_would_have(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    (tmp_path / "new.txt").write_text("crimson\nazure\n")
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "a", "--encoder", encoder)[0] == 0
    assert gdui("relabel", tmp_path / "a", "--classes", tmp_path / "new.txt")[0] == 0
    assert (
        gdui("label", photos, "--classes", tmp_path / "new.txt", "--out", tmp_path / "b", "--encoder", encoder)[0] == 0
    )
    assert (tmp_path / "a" / "labels.parquet").read_bytes() == (tmp_path / "b" / "labels.parquet").read_bytes()


def test_explain_says_why(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    code, out, _ = gdui("explain", tmp_path / "run", "07.png")
    assert code == 0
    assert out.startswith("07.png: ")
    assert ", because " in out
    found = json.loads(gdui("explain", tmp_path / "run", "07.png", "--json")[1])
    assert found["id"] == "07.png"
    assert found["why"] == out.strip()
    assert gdui("explain", tmp_path / "run", photos / "07.png") == (0, out, "")
    code, _, err = gdui("explain", tmp_path / "run", "99.png")
    assert code == 1
    assert err == "gdui: error: no image has the id '99.png'; they look like '00.png'\n"


def test_predict_labels_new_images(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    new = tmp_path / "new"
    new.mkdir()
    for at in range(5):
        (new / f"{at}.png").write_bytes((photos / f"{at:02d}.png").read_bytes())
    code, out, err = gdui("predict", tmp_path / "run", new)
    assert (code, "error" in err) == (0, False)
    assert "5 images, 3 classes" in out
    labels = Labels.from_parquet(tmp_path / "run" / "predicted" / "new" / "labels.parquet")
    assert labels.ids.to_pylist() == [f"{at}.png" for at in range(5)]
    assert "nothing was left to do" in gdui("predict", tmp_path / "run", new)[1]
    assert gdui("predict", tmp_path / "run", new, "--out", tmp_path / "elsewhere")[0] == 0
    assert Labels.from_parquet(tmp_path / "elsewhere" / "labels.parquet").table.equals(labels.table)


def test_a_stage_that_counts_no_images_claims_none() -> None:
    outcome: Any = SimpleNamespace(ledger={"learn": (2.0, 0), "read": (0.5, 10)}, bottleneck="learn")
    learn, read = _ledger(outcome).splitlines()[1:3]
    assert learn.split() == ["learn", "2.00", "-", "-"]
    assert read.split() == ["read", "0.50", "10", "20"]


def test_predict_follows_what_the_run_has_learned_since(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    run, new = tmp_path / "run", tmp_path / "new"
    label = ("label", photos, "--classes", names, "--out", run, "--encoder", encoder)
    assert gdui(*label)[0] == 0
    assert gdui("predict", run, photos, "--out", new)[0] == 0
    before, shards = Labels.from_run(new).table, times(new / "features")
    (tmp_path / "said.csv").write_text("id,label\n" + "".join(f"{at:02d}.png,blue\n" for at in range(COUNT)))
    assert gdui("relabel", run, "--corrections", tmp_path / "said.csv")[0] == 0
    assert gdui("predict", run, photos, "--out", new)[0] == 0
    assert gdui("predict", run, photos, "--out", tmp_path / "fresh")[0] == 0
    table = Labels.from_run(new).table
    assert table.equals(Labels.from_run(tmp_path / "fresh").table)
    assert not table.equals(before)
    shard = next(name for name in shards if name.endswith(".npy"))
    assert times(new / "features")[shard] == shards[shard], "no picture is seen again"
    assert "nothing was left to do" in gdui("predict", run, photos, "--out", new)[1]
    names.write_text("crimson\nazure\n")
    assert gdui("relabel", run, "--classes", names)[0] == 0
    assert gdui("predict", run, photos, "--out", new)[0] == 0
    assert Labels.from_run(new).classes == ["crimson", "azure"]
    assert gdui(*label, "--encoder", "digits", "--mode", "overwrite")[0] == 0
    assert gdui("predict", run, photos, "--out", new)[0] == 0
    assert Labels.from_run(new).facts.encoder == "digits"


def test_ready_features_and_opinions_need_no_encoder(
    gdui: Cli, names: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    truth = rng.integers(0, 3, 60)
    features = rng.standard_normal((3, 8))[truth] + 0.1 * rng.standard_normal((60, 8))
    np.save(tmp_path / "features.npy", features.astype(np.float32))
    np.save(tmp_path / "opinions.npy", np.eye(3, dtype=np.float32)[truth])
    command = ("label", tmp_path / "features.npy", "--features", "--opinions", tmp_path / "opinions.npy")
    code, _, err = gdui(*command, "--classes", names, "--out", tmp_path / "run")
    assert (code, "error" in err) == (0, False)
    labels = Labels.from_parquet(tmp_path / "run" / "labels.parquet")
    assert (labels.label_index == truth).mean() > 0.95
    np.save(tmp_path / "opinions.npy", np.eye(3, dtype=np.float32)[[2, 0, 1]][truth])
    code, out, _ = gdui("relabel", tmp_path / "run", "--classes", names, "--opinions", tmp_path / "opinions.npy")
    assert code == 0
    assert "60 of 60 labels changed" in out


def test_relabel_asks_for_the_opinions_of_other_classes(
    gdui: Cli, names: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    np.save(tmp_path / "features.npy", rng.standard_normal((30, 8)).astype(np.float32))
    np.save(tmp_path / "opinions.npy", rng.random((30, 3)).astype(np.float32))
    ready = (tmp_path / "features.npy", "--features", "--opinions", tmp_path / "opinions.npy")
    assert gdui("label", *ready, "--classes", names, "--out", tmp_path / "run")[0] == 0
    code, _, err = gdui("relabel", tmp_path / "run", "--classes", names)
    assert code == 1
    assert "give --opinions for the new classes, or label again with --encoder" in err


def test_only_a_labelled_run_can_be_taken_up(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    run, predicted, other = tmp_path / "run", tmp_path / "predicted", tmp_path / "demo"
    assert gdui("label", photos, "--classes", names, "--out", run, "--encoder", encoder)[0] == 0
    assert gdui("predict", run, photos, "--out", predicted)[0] == 0
    with Run(other, Config().to_dict()) as kept:
        kept.finish("label")
    for folder in (predicted, other):
        for command in (("relabel", folder, "--classes", names), ("predict", folder, photos)):
            code, _, err = gdui(*command)
            assert code == 1
            assert err.startswith(f"gdui: error: {folder} was not made by gdui label")


def test_predict_refuses_an_encoder_that_has_changed(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    source = Path(encoder.removeprefix("local-dir:"))
    copy = tmp_path / "clip"
    shutil.copytree(source, copy)
    assert (
        gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", f"local-dir:{copy}")[0] == 0
    )
    assert Labels.from_run(tmp_path / "run").facts.encoder_hash
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**MODEL).state_dict(), copy / "open_clip_model.safetensors")
    code, _, err = gdui("predict", tmp_path / "run", photos)
    assert code == 1
    assert "is not the one that the other features come from" in err


def test_demo_prints_its_scores(gdui: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, folder = SimpleNamespace(way="zero-shot", accuracy=0.75), tmp_path / "run"

    class Result(SimpleNamespace):
        def __str__(self) -> str:
            return "the table"

    result = Result(labels="labels", scores=[score], folder=folder, sheet=folder / "sheet.png", seconds=3.2)
    monkeypatch.setattr("gdui.demo.run", lambda out, progress: result if out == folder else None)
    drawn = SimpleNamespace(grid=folder / "drawn.png")
    monkeypatch.setattr("gdui.demo.draw_digits", lambda labels, out, progress: drawn if labels == "labels" else None)
    code, out, _ = gdui("demo", "--out", folder, "--labels-only")
    assert code == 0
    assert out == "the table\n"
    found = json.loads(gdui("demo", "--out", folder, "--labels-only", "--json")[1])
    assert found == {"scores": {"zero-shot": 0.75}, "run": str(folder), "sheet": f"{folder}/sheet.png"}
    assert f"drew new digits by name: {folder}/drawn.png" in gdui("demo", "--out", folder)[1]
    assert json.loads(gdui("demo", "--out", folder, "--json")[1])["drawn"] == f"{folder}/drawn.png"


def test_reproduce_explains_itself_and_becomes_its_script(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as explained:
        cli.main(["reproduce", "--help"])
    assert explained.value.code == 0
    assert "stl10" in capfd.readouterr().out
    command = [sys.executable, "-m", "gdui.cli", "reproduce", "stl10", "--steps", "5"]
    misused = subprocess.run(command, capture_output=True, text=True)
    assert misused.returncode == 2
    assert "reproduce.py stl10: error" in misused.stderr
    assert "--data" in misused.stderr
