"""Labels that come with the images: they stand, they teach the network, and under torchrun every rank hears them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_spice import NAMES, SMALL, opinions, pictures

from gdui.config import Config
from gdui.labeling.spice import Spice, learn_source
from gdui.labeling.workflow import label_run, relabel_run
from gdui.labels import Labels
from gdui.labels.pins import read_pins

FEW = SMALL | {"represent.epochs": 1, "joint.epochs": 1, "clusterer": "spice"}


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save(folder: Path, count: int = 60) -> tuple[str, str, np.ndarray]:
    """Pictures as Parquet: the first ten have a label, number 1 wrongly; number 2 can't be read. Scores beside them."""
    pixels, truth = pictures(count)
    images = [encoded(one) for one in pixels]
    images[2] = b"no picture"
    labels = [NAMES[label] if at < 10 else None for at, label in enumerate(truth)]
    labels[1] = NAMES[(truth[1] + 1) % 3]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "photos.parquet")
    np.save(folder / "scores.npy", np.delete(opinions(truth), 2, axis=0))
    return str(folder / "photos.parquet"), str(folder / "scores.npy"), truth


def test_a_column_pins_and_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, scores, truth = save(tmp_path)
    taught: list[dict[str, str]] = []

    def learning(*arguments: object, **named: object) -> Spice:
        taught.append(named["pins"])
        return learn_source(*arguments, **named)

    def label(**given: object) -> Labels:
        config = Config.named("default", **FEW)
        return label_run(source, NAMES, tmp_path / "run", config, opinions=scores, **given).labels

    monkeypatch.setattr("gdui.labeling.job.learn_source", learning)
    label()
    assert taught == [{}]
    labels = label(labels_column="label")
    known = {f"photos/{at}": NAMES[truth[at]] for at in range(10)} | {"photos/1": NAMES[(truth[1] + 1) % 3]}
    assert taught[1:] == [known], "the network learns anew"
    for id_, name in known.items():
        if id_ != "photos/2":
            assert labels.row(id_)["label"] == name
            assert labels.row(id_)["rule"] == "pinned"
    assert (labels.table["rule"].to_numpy(zero_copy_only=False) == "pinned").sum() == 9, "all others stay unlabelled"
    (tmp_path / "more.csv").write_text(f"id,label\nphotos/1,{NAMES[truth[1]]}\nphotos/20,\n")
    more = label(labels_column="label", labels=tmp_path / "more.csv")
    assert more.row("photos/1")["label"] == NAMES[truth[1]]
    assert more.row("photos/20")["label"] is None
    label()
    assert len(taught) == 3, "what was given stays, and nothing is learned twice"
    (tmp_path / "said.csv").write_text(f"id,label\nphotos/0,{NAMES[(truth[0] + 1) % 3]}\n")
    relabelled = relabel_run(tmp_path / "run", corrections=tmp_path / "said.csv").labels
    assert relabelled.row("photos/0")["label"] == NAMES[(truth[0] + 1) % 3], "the last word is the person's"
    assert relabelled.row("photos/3")["rule"] == "pinned"
    assert read_pins(tmp_path / "run" / "corrections.csv") == {"photos/0": NAMES[(truth[0] + 1) % 3]}


def test_mistakes_are_named_before_anything_is_learned(tmp_path: Path) -> None:
    source, scores, _ = save(tmp_path)
    config = Config.named("default", **FEW)
    (tmp_path / "wrong.csv").write_text("id,label\nphotos/1,horse\n")
    for given, words in (
        ({"labels": tmp_path / "wrong.csv"}, "is 'horse', which is none of the classes"),
        ({"labels_column": "kind"}, "labels_column must be a column"),
        ({"labels_column": "label", "mode": "extend"}, "mode 'extend' learns nothing"),
        ({"labels_column": "label", "ready": True}, "features have none"),
    ):
        with pytest.raises(ValueError, match=words):
            label_run(source, NAMES, tmp_path / "run", config, opinions=scores, **given)
        assert not (tmp_path / "run").exists()


def test_two_ranks_label_as_one_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, scores, _ = save(tmp_path, 96)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    settings = [part for name, value in FEW.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = ["label", source, "--classes", str(tmp_path / "names.txt"), "--opinions", scores, "--json"]
    command += ["--labels-column", "label", *settings, "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29719", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_THREADS": "1", "GDUI_PRECISION": "float32"}
    for again in range(2):
        done = subprocess.run(
            [*torchrun, "gdui.cli", *command, str(tmp_path / "two")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert ("learn" in json.loads(line)["ledger"]) == (again == 0)
    subprocess.run([sys.executable, "-m", "gdui.cli", *command, str(tmp_path / "one")], env=environment, check=True)
    one, two = (Labels.from_run(tmp_path / name).table["cluster"].to_numpy() for name in ("one", "two"))
    assert (one == two).mean() > 0.95
    first, second = (Spice.load(tmp_path / name / "spice.safetensors").trunk.state_dict() for name in ("one", "two"))
    assert max(float((first[name] - second[name]).abs().max()) for name in first if "weight" in name) < 0.01
