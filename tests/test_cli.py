"""The command line: what it leaves in a run folder, how it goes on after a kill, and one clear line a mistake."""

import argparse
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gdui import cli, toml
from gdui.cli.labeling import _configuration
from gdui.cli.progress import Progress
from gdui.config import Config
from gdui.labels import Labels
from gdui.runs import Run, read_manifest

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
COUNT = 36
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**MODEL).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish, greenish and bluish pictures."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for at in range(COUNT):
        pixels = random.integers(0, 80, (20, 20, 3), np.uint8)
        pixels[..., at % 3] += 150
        Image.fromarray(pixels).save(folder / f"{at:02d}.png")
    return folder


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("red\n\n green \nblue\n")
    return path


@pytest.fixture
def gdui(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(one) for one in arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


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
    given = {"preset": None, "set": ["seed=3"], "encoder": None, "cluster_by": None}
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


def test_files_that_are_no_images_are_counted_and_logged(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    heap = tmp_path / "heap"
    shutil.copytree(photos, heap)
    for at in range(5):
        (heap / f"IMG_{at}.HEIC").touch()
    command = ("label", heap, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    _, out, _ = gdui(*command)
    assert "left out 5 files that are no images: IMG_0.HEIC, IMG_1.HEIC, IMG_2.HEIC, ...\n" in out
    assert json.loads(gdui(*command, "--json")[1])["left_out"] == 5
    for at in range(1, 5):
        (heap / f"IMG_{at}.HEIC").unlink()
    assert "left out 1 file that is no image: IMG_0.HEIC\n" in gdui(*command, "--mode", "overwrite")[1]
    assert "INFO neighbors: " in (tmp_path / "run" / "log").read_text()
    assert logging.getLogger("gdui").level == logging.NOTSET


def test_a_source_without_images_says_so(gdui: Cli, names: Path, encoder: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with tarfile.open(tmp_path / "notes.tar", "w") as archive:
        archive.add(tmp_path / "notes.txt", "notes.txt")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    for name, reason in (("notes.tar", "the archive holds no images"), ("none.parquet", "the file holds no rows")):
        out = tmp_path / f"run-{name}"
        code, _, err = gdui("label", tmp_path / name, "--classes", names, "--out", out, "--encoder", encoder)
        assert code == 1
        assert f"{name}' holds no images that can be read ({name.partition('.')[0]}: {reason}); {out}/quara" in err


def test_an_archive_without_images_beside_others_is_named(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    for number, suffix in enumerate((".png", ".json")):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as archive:
            for path in photos.iterdir():
                archive.add(path, f"{path.stem}{suffix}")
    source = tmp_path / "s-{0..1}.tar"
    code, out, _ = gdui("label", source, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert code == 0
    assert f"{COUNT} images, 3 classes" in out
    assert "1 image could not be read: s-1\n" in out
    found = pq.read_table(tmp_path / "run" / "quarantine.parquet").to_pylist()
    assert found == [{"id": "s-1", "reason": "the archive holds no images"}]


def test_unreadable_images_are_counted_and_named(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    heap = tmp_path / "heap"
    heap.mkdir()
    for path in photos.iterdir():
        (heap / path.name).write_bytes(path.read_bytes())
    (heap / "broken.png").write_bytes((photos / "00.png").read_bytes()[:200])
    (heap / "empty.jpg").touch()
    (heap / "text.png").write_text("hello")
    code, out, _ = gdui("label", heap, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert code == 0
    assert "3 images could not be read" in out
    found = pq.read_table(tmp_path / "run" / "quarantine.parquet").to_pylist()
    assert sorted(row["id"] for row in found) == ["broken.png", "empty.jpg", "text.png"]
    assert all(row["reason"] for row in found)
    assert len(Labels.from_parquet(tmp_path / "run" / "labels.parquet")) == COUNT


MISTAKES: list[tuple[str, list[str], str, str]] = [
    ("a source that is not there", ["{tmp}/nowhere"], "a\nb", "nowhere"),
    ("an empty folder", ["{tmp}/empty"], "a\nb", "holds no images"),
    ("one class", ["{photos}"], "a\n", "classes must name at least 2 classes, not 1"),
    ("no class", ["{photos}"], "\n", "classes must name at least 2 classes, not 0"),
    ("a class twice", ["{photos}"], "a\nb\na\n", "'a' stands there more than once"),
    ("more classes than images", ["{photos}"], "\n".join(map(str, range(COUNT + 1))), f"{COUNT}"),
    ("an unknown setting", ["{photos}", "--set", "refine.zeta=1"], "a\nb", "'refine.zeta'"),
    ("a setting of the wrong type", ["{photos}", "--set", "seed=x"], "a\nb", "seed must be int, not str"),
    ("a setting out of range", ["{photos}", "--set", "refine.sigma=2"], "a\nb", "refine.sigma must be between 0"),
    ("a setting without a value", ["{photos}", "--set", "seed"], "a\nb", "stage.field=value, not 'seed'"),
    ("an encoder nobody knows", ["{photos}", "--encoder", "nothing"], "a\nb", "encoder must be"),
    ("an encoder misspelt", ["{photos}", "--encoder", "ViT-B32/openai"], "a\nb", "did you mean 'ViT-B-32'?"),
    ("a setting misspelt", ["{photos}", "--set", "refine.sigm=1"], "a\nb", "did you mean 'sigma'?"),
    ("a damaged configuration", ["{photos}", "--config", "{tmp}/bad.toml"], "a\nb", "bad.toml is not a TOML file"),
    ("a run folder that is none", ["{photos}", "--out", "{tmp}"], "a\nb", "not a run folder"),
    ("a run within its source", ["{photos}", "--out", "{photos}/run"], "a\nb", "lies within the source"),
    ("only unreadable images", ["{tmp}/broken"], "a\nb", "holds no images that can be read (0.png: not"),
    ("a folder as features", ["{photos}", "--features"], "a\nb", "is no feature store: manifest.json can't be read"),
    ("pictures as a pattern", ["{photos}/*.png"], "a\nb", "for single images name the local folder they lie in"),
    ("a store nobody knows", ["what://box/s.tar"], "a\nb", "source 'what://box/s.tar' can't be opened"),
    ("features as pictures", ["{tmp}/f.npy"], "a\nb", "if it holds features, say so (features=, --features)"),
    ("a run that is not UTF-8", ["{photos}", "--out", "{tmp}/\udcff"], "a\nb", "folder must have a path in UTF-8"),
    ("a source that is not UTF-8", ["{tmp}/\udcff"], "a\nb", "source must have a path in UTF-8"),
    ("NaN in features", ["{tmp}/nan.npy", "--features"], "a\nb", "features must be finite numbers, but row 3 holds"),
    ("NaN in opinions", ["{tmp}/f.npy", "--features", "--opinions", "{tmp}/nan.npy"], "a\nb", "opinions holds NaN"),
    ("features that are none", ["{tmp}/bad.toml", "--features"], "a\nb", "bad.toml"),
    ("a text on no class", ["{photos}", "--config", "{tmp}/odd.toml"], "", "descriptions are given for ['c']"),
    ("an encoder's layer that is none", ["{photos}", "--cluster-by", "digits#no"], "a\nb", "layer must be a part of"),
    ("names that are no text", ["{photos}"], "\udcff", "is not a text file in UTF-8"),
]


@pytest.mark.parametrize(("arguments", "names", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes_get_one_line(
    gdui: Cli, photos: Path, encoder: str, tmp_path: Path, arguments: list[str], names: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "broken" / name).write_text("hello")
    (tmp_path / "bad.toml").write_text("seed = ")
    (tmp_path / "\udcff").mkdir()
    vectors = np.random.default_rng(0).random((COUNT, 2))
    np.save(tmp_path / "f.npy", vectors)
    vectors[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", vectors)
    (tmp_path / "names.txt").write_text(names, encoding="utf-8", errors="surrogateescape")
    given = [one.format(tmp=tmp_path, photos=photos) for one in arguments]
    (tmp_path / "odd.toml").write_text('classes = ["a", "b"]\n[descriptions]\nc = ["a sea"]\n')
    command = ["label", *given, *(["--classes", tmp_path / "names.txt"] if names else [])]
    command += [] if "--out" in given else ["--out", tmp_path / "run"]
    command += [] if "--encoder" in given else ["--encoder", encoder]
    code, out, err = gdui(*command)
    assert (code, out) == (1, "")
    assert err.startswith("gdui: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    run = tmp_path / "run"
    assert not run.exists() or str(run / "quarantine.parquet") in err, "a folder with nothing in it stayed"


def test_weights_that_cannot_be_had_get_one_line(
    gdui: Cli, photos: Path, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", fail)
    monkeypatch.setattr("gdui.labeling.encoders.load.hub_trouble", str)
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run")
    code, _, err = gdui(*command)
    assert code == 1
    assert err.startswith("gdui: error: encoder 'ViT-B-32/laion2b_s34b_b79k' could not be loaded")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mistake", [("--encoder", "digit"), ("--set", "refine.sigm=1"), ("--preset", "papers")])
def test_a_mistake_in_a_setting_is_told_before_large_libraries_load(
    photos: Path, names: Path, tmp_path: Path, mistake: tuple[str, str]
) -> None:
    command = ["label", str(photos), "--classes", str(names), "--out", str(tmp_path / "run"), *mistake]
    program = f"import sys\nfrom gdui.cli import main\ntry:\n main({command})\nfinally:\n print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n"
    assert "did you mean" in done.stderr or "invalid choice: 'papers'" in done.stderr


def test_an_encoder_that_fails_takes_no_earlier_run_away(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run")
    assert gdui(*command, "--encoder", encoder)[0] == 0
    assert gdui(*command, "--encoder", "nothing", "--mode", "overwrite")[0] == 1
    assert "nothing was left to do" in gdui(*command, "--encoder", encoder)[1]


def test_a_mistake_does_not_bind_the_run_folder(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    command = ("label", photos, "--classes", names, "--out", tmp_path / "run")
    assert gdui(*command, "--encoder", "nothing")[0] == 1
    assert gdui(*command, "--encoder", encoder)[0] == 0


def test_debug_shows_where_an_error_comes_from(gdui: Cli, names: Path, tmp_path: Path) -> None:
    code, _, err = gdui("label", tmp_path / "nowhere", "--classes", names, "--out", tmp_path / "run", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "gdui: error: " in err


def test_misuse_exits_with_two(gdui: Cli) -> None:
    for arguments in ([], ["label"], ["relabel"], ["label", "x", "--mode", "append"], ["fly"]):
        code, _, err = gdui(*arguments)
        assert code == 2
        assert "usage: gdui" in err
    assert gdui("--version")[0] == 0


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


def test_a_run_in_use_is_refused(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}):
        code, _, err = gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)
    assert code == 1
    assert f"is in use by process {os.getpid()}" in err


def test_interruption_exits_with_130(gdui: Cli, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gdui.labeling.workflow.label_run", interrupt)
    code, _, err = gdui("label", tmp_path, "--classes", names, "--out", tmp_path / "run")
    assert code == 130
    assert err == "gdui: error: interrupted; run the same command again to continue\n"


def test_unfinished_runs_say_so(gdui: Cli, names: Path, tmp_path: Path) -> None:
    Run(tmp_path / "run", {"classes": []}).close()
    for command in (("explain", tmp_path / "run", "x"), ("predict", tmp_path / "run", tmp_path)):
        code, _, err = gdui(*command)
        assert code == 1
        assert "run gdui label again" in err
    assert "is not a run folder" in gdui("relabel", tmp_path, "--classes", names)[2]


def test_a_closed_pipe_is_no_traceback(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    command = [sys.executable, "-m", "gdui.cli", "explain", str(tmp_path / "run"), "00.png"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


DYING = """
import functools, os, signal, sys
from pathlib import Path
from gdui.cli import main
from gdui.labeling import workflow

folder, encoder, *command = sys.argv[1:]
workflow.load_encoder = functools.cache(workflow.load_encoder)
workflow.load_encoder(encoder, batch=None)
replace = Path.replace

def forked(action):
    pid = os.fork()
    if not pid:
        os._exit(action())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die_at(moment, out):
    def dying(self, target):
        nonlocal moment
        moment -= 1
        if moment < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    Path.replace = dying
    return main([*command, out])

moment, status = 0, -signal.SIGKILL
with open(f"{folder}/ends", "w") as ends:
    while status == -signal.SIGKILL:
        out = f"{folder}/{moment}"
        status = forked(lambda: die_at(moment, out))
        print(moment, status, forked(lambda: main([*command, out])), file=ends, flush=True)
        moment += STRIDE
"""
STRIDE = 4


def test_a_killed_run_continues_to_the_same_bytes(photos: Path, names: Path, encoder: str, tmp_path: Path) -> None:
    """Dies where a file would take its place, at every fourth such moment; in the last run nobody dies."""
    for at in range(3):
        with tarfile.open(tmp_path / f"{at}.tar", "w") as archive:
            for path in sorted(photos.iterdir())[at::3]:
                archive.add(path, path.name)
    runs = tmp_path / "runs"
    runs.mkdir()
    label = ["label", tmp_path / "*.tar", "--classes", names, "--encoder", encoder, "--out"]
    script = DYING.replace("STRIDE", str(STRIDE))
    command = [sys.executable, "-c", script, *map(str, (runs, encoder, *label))]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    *killed, whole = [tuple(map(int, line.split())) for line in (runs / "ends").read_text().splitlines()]
    assert len(killed) >= 4
    assert {(first, second) for _, first, second in killed} == {(-9, 0)}
    assert whole[1:] == (0, 0)
    expected = contents(runs / str(whole[0]))
    assert {"labels.parquet", "quarantine.parquet", "config.toml"} < set(expected)
    for moment, _, _ in killed:
        assert contents(runs / str(moment)) == expected


def contents(run: Path) -> dict[str, bytes]:
    """Every file but those that hold times and process numbers."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in ("log", ".lock"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path != run / "manifest.json"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_renews_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        for done in (0, 10, 20, 40):
            progress("encode", done, 40)
        progress("match", 5, 0)
    lines = stream.getvalue().replace("\r", "\n").split("\n")
    assert "encode: 10 of 40, 10/s, 0:03 left" in lines
    assert any(line.startswith("encode: 40 of 40, 13/s") for line in lines)
    assert "match: 5" in lines
    assert stream.getvalue().endswith("\n")


def test_progress_elsewhere_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    with Progress(stream) as progress:
        for done in range(0, 5000, 500):
            progress("encode", done, 3_600_000)
    assert (
        stream.getvalue()
        == "encode: 2,000 of 3,600,000, 500/s, 1:59:56 left\nencode: 4,500 of 3,600,000, 500/s, 1:59:51 left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "step", "words"),
    [
        (1.0, 1, "unet: 2 of 40, 1.0/s, 0:38 left"),
        (0.5, 1, "unet: 2 of 40, 2.0/s, 0:19 left"),
        (2.5, 1, "unet: 2 of 40, 2.5 s each, 1:35 left"),
        (90.0, 1, "unet: 2 of 40, 90 s each, 57:00 left"),
        (1.0, 0, "unet: 1 of 40"),
    ],
)
def test_what_is_slow_is_told_in_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, step: int, words: str
) -> None:
    now = iter(np.arange(0, 9) * seconds)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        progress("unet", 1, 40)
        progress("unet", 1 + step, 40)
    assert stream.getvalue().strip().split("\r")[-1] == words


def test_a_stage_that_was_interrupted_by_another_keeps_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    stream = Terminal()
    with Progress(stream) as progress:
        for stage, done in [
            ("unet", 0),
            ("unet", 6),
            ("steps", 1),
            ("steps", 4),
            ("unet", 12),
            ("steps", 1),
            ("steps", 2),
        ]:
            progress(stage, done, 40)
    lines = stream.getvalue().replace("\r", "\n").split("\n")
    assert "unet: 12 of 40, 3.0/s, 0:09 left" in lines
    assert lines[-3:-1] == ["steps: 1 of 40", "steps: 2 of 40, 1.0/s, 0:38 left"]


def test_reproduce_explains_itself_and_passes_on_how_it_ended(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as explained:
        cli.main(["reproduce", "--help"])
    assert explained.value.code == 0
    assert "stl10" in capfd.readouterr().out
    with pytest.raises(SystemExit) as misused:
        cli.main(["reproduce", "stl10", "--steps", "5"])
    assert misused.value.code == 2
    assert "--data" in capfd.readouterr().err
