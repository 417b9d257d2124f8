"""Mistakes on the command line: one clear line each, and nothing lost."""

import json
import logging
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import COUNT, Cli

from gdui.labels import Labels


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
    code, _, err = gdui("explain", tmp_path / "run", "empty.jpg")
    assert code == 1
    assert "'empty.jpg' has no label, since the image could not be read: " in err


MISTAKES: list[tuple[str, list[str], str, str]] = [
    ("a source that is not there", ["{tmp}/nowhere"], "a\nb", "nowhere"),
    ("an empty folder", ["{tmp}/empty"], "a\nb", "holds no images, nor any other file"),
    ("one class", ["{photos}"], "a\n", "names.txt: classes must name at least 2 classes, not 1"),
    ("no class", ["{photos}"], "\n", "names.txt: classes must name at least 2 classes, not 0"),
    ("a class twice", ["{photos}"], "a\n\nb\na\n", "names.txt, line 4: the class 'a' stands in line 1 already"),
    (
        "a text that is none",
        ["{photos}", "--classes", "{tmp}/texts.toml"],
        "",
        "texts.toml: the descriptions of class 'a'",
    ),
    ("one class with texts", ["{photos}", "--classes", "{tmp}/one.toml"], "", "one.toml: classes must name at least 2"),
    ("more classes than images", ["{photos}"], "\n".join(map(str, range(COUNT + 1))), f"{COUNT}"),
    ("an unknown setting", ["{photos}", "--set", "refine.zeta=1"], "a\nb", "'refine.zeta'"),
    ("a setting of the wrong type", ["{photos}", "--set", "seed=x"], "a\nb", "seed must be a whole number, not 'x'"),
    ("a setting out of range", ["{photos}", "--set", "refine.sigma=2"], "a\nb", "refine.sigma must be between 0"),
    ("a setting without a value", ["{photos}", "--set", "seed"], "a\nb", "stage.field=value, not 'seed'"),
    ("an encoder nobody knows", ["{photos}", "--encoder", "nothing"], "a\nb", "encoder must be"),
    ("an encoder misspelt", ["{photos}", "--encoder", "ViT-B32/openai"], "a\nb", "did you mean 'ViT-B-32'?"),
    ("a setting misspelt", ["{photos}", "--set", "refine.sigm=1"], "a\nb", "did you mean 'refine.sigma'?"),
    (
        "a setting misspelt in a file",
        ["{photos}", "--config", "{tmp}/key.toml"],
        "a\nb",
        "key.toml: no setting is named",
    ),
    (
        "a preset misspelt beside a file",
        ["{photos}", "--config", "{tmp}/seed.toml", "--set", "preset=papper"],
        "a\nb",
        "error: preset must be one of",
    ),
    ("a damaged configuration", ["{photos}", "--config", "{tmp}/bad.toml"], "a\nb", "bad.toml is not a TOML file"),
    ("a run folder that is none", ["{photos}", "--out", "{tmp}"], "a\nb", "not a run folder"),
    (
        "a run where nothing can be written",
        ["{photos}", "--out", "/proc/xx"],
        "a\nb",
        "the run's folder /proc/xx can't be",
    ),
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
    (
        "names as opinions",
        ["{photos}", "--opinions", "{tmp}/names.txt"],
        "a\nb",
        "as an .npy file of numbers: This file",
    ),
    ("features that are none", ["{tmp}/bad.toml", "--features"], "a\nb", "bad.toml"),
    (
        "a text on no class",
        ["{photos}", "--config", "{tmp}/odd.toml"],
        "",
        "odd.toml: descriptions are given for ['c']",
    ),
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
    (tmp_path / "key.toml").write_text("[refine]\nsigm = 0.3\n")
    (tmp_path / "seed.toml").write_text("seed = 3\n")
    (tmp_path / "texts.toml").write_text("a = [1]\nb = []\n")
    (tmp_path / "one.toml").write_text('a = ["a sea"]\n')
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
    assert "choose from 'label', " in gdui("lable", "x")[2]
    assert gdui("lable", "x")[2].endswith("; did you mean 'label'?\n")
    assert gdui("label", "x", "--out", "y", "--preset", "defualt")[2].endswith("; did you mean 'default'?\n")
    misspelt = gdui("label", "x", "--out", "y", "--clases=z", "--json")[2]
    assert misspelt.startswith("usage: gdui label ")
    assert misspelt.endswith("gdui label: error: unrecognized arguments: --clases=z; did you mean '--classes'?\n")
    assert gdui("sample", "x", "--out", "y", "--sampler", "dpm")[2].endswith("unrecognized arguments: --sampler dpm\n")
    assert gdui("doctor", "now")[2].endswith("unrecognized arguments: now\n")
    assert gdui("--version")[0] == 0


def test_a_run_that_is_not_there_is_told_from_a_folder_that_is_none(gdui: Cli, photos: Path, tmp_path: Path) -> None:
    missing = f"gdui: error: {tmp_path / 'no'} is not a run folder: there is no such folder\n"
    assert gdui("report", tmp_path / "no") == (1, "", missing)
    assert gdui("explain", tmp_path / "no", "x") == (1, "", missing)
    assert "it has no manifest.json" in gdui("report", photos)[2]
    assert gdui("train", tmp_path / "no", photos, "--out", tmp_path / "new")[2].endswith("no does not exist\n")
    assert not (tmp_path / "new").exists()


def test_a_prediction_that_fails_leaves_nothing(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    assert gdui("label", photos, "--classes", names, "--out", tmp_path / "run", "--encoder", encoder)[0] == 0
    np.save(tmp_path / "f.npy", np.ones((4, 3), np.float32))
    code, _, err = gdui("predict", tmp_path / "run", tmp_path / "f.npy", "--features", "--out", tmp_path / "new")
    assert (code, "not [4, 3]" in err) == (1, True)
    for shape, words in (((COUNT, 4), "3 columns, one a class, not 4"), ((COUNT + 1, 3), f"{COUNT} rows, not")):
        np.save(tmp_path / "scores.npy", np.ones(shape))
        with_scores = ("--opinions", tmp_path / "scores.npy", "--out", tmp_path / "new")
        assert f"opinions must have {words}" in gdui("predict", tmp_path / "run", photos, *with_scores)[2]
        assert f"opinions must have {words}" in gdui("label", photos, "--classes", names, *with_scores)[2]
    assert not (tmp_path / "new").exists()
