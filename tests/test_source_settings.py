"""How a source is read is said once, remembered with the run, and can be said otherwise of other sources."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import COUNT, Cli
from PIL import Image

import gdui as package
from gdui.config import Config, SourceConfig
from gdui.images import open_source
from gdui.labels import Labels
from gdui.runs import read_manifest

READ = ("--set", "source.image_column=photo", "--set", "source.id_column=name")
QUICK = [f"recipe.{name}" for name in ("steps=2", "batch=8")] + ["classifier_recipe.steps=2", "network.width=32"]


def called(at: int) -> str:
    return f"picture {at}"


def table(photos: Path, path: Path, photo: str = "photo", name: str = "name") -> Path:
    """The photos in one column, something that is no picture in another, names in a third, a few labels in a fourth."""
    files = sorted(photos.glob("*.png"))
    columns: dict[str, Any] = {photo: [file.read_bytes() for file in files], "mask": [b"no picture"] * len(files)}
    columns |= {name: [called(at) for at in range(len(files))], "colour": ["red"] + [None] * (len(files) - 1)}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def labelled(gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path) -> tuple[Path, Path]:
    """(a run, its source)."""
    source = table(photos, tmp_path / "all.parquet")
    command = ("label", source, "--classes", names, "--encoder", encoder, "--out", tmp_path / "run")
    code, _, err = gdui(*command)
    assert (code, (tmp_path / "run").exists()) == (1, False)
    assert "as --set source.image_column=photo" in err, "the mistake says how it is mended"
    assert gdui(*command, *READ, "--labels-column", "colour")[0] == 0
    return tmp_path / "run", source


def test_a_run_remembers_how_its_source_is_read(labelled: tuple[Path, Path]) -> None:
    run, _ = labelled
    labels = Labels.from_run(run)
    assert labels.ids.to_pylist() == [called(at) for at in range(COUNT)]
    assert labels.row(called(0))["rule"] == "pinned", "labels beside the images go by the same names"
    assert read_manifest(run)["settings"]["source"] == {"image_column": "photo", "id_column": "name"}
    assert '[source]\nimage_column = "photo"\nid_column = "name"\n' in (run / "config.toml").read_text()


def test_what_a_run_remembers_is_what_a_file_of_settings_says(
    gdui: Cli, labelled: tuple[Path, Path], names: Path, tmp_path: Path
) -> None:
    run, source = labelled
    again = ("label", source, "--classes", names, "--config", run / "config.toml", "--out", tmp_path / "again")
    assert gdui(*again)[0] == 0
    assert Labels.from_run(tmp_path / "again").ids.equals(Labels.from_run(run).ids)


def test_the_report_finds_the_pictures(gdui: Cli, labelled: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    run, _ = labelled
    assert gdui("report", run) == (0, f"the report is in {run / 'report.html'}: open it in a browser\n", "")
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") == COUNT
    other = table(photos, tmp_path / "other.parquet", photo="image", name="key")
    code, _, err = gdui("report", run, "--images", other)
    assert (code, "not 'name'" in err) == (1, True)
    otherwise = ("--set", "source.image_column=image", "--set", "source.id_column=key")
    assert gdui("report", run, "--images", other, *otherwise)[0] == 0
    assert (run / "report.html").read_text().count("data:image/webp") == COUNT


def test_new_images_are_read_as_the_runs_or_as_is_said(
    gdui: Cli, labelled: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    run, source = labelled
    assert gdui("predict", run, source)[0] == 0
    assert Labels.from_run(run / "predicted" / source.name).ids.equals(Labels.from_run(run).ids)
    other = table(photos, tmp_path / "other.parquet", photo="picture")
    assert "not 'photo'" in gdui("predict", run, other, "--out", tmp_path / "new")[2]
    assert not (tmp_path / "new").exists()
    said = ("predict", run, other, "--out", tmp_path / "new", "--set", "source.image_column=picture")
    assert gdui(*said)[0] == 0
    settings = read_manifest(tmp_path / "new")["settings"]
    assert settings["source"] == {"image_column": "picture", "id_column": "name"}
    code, out, _ = gdui(*said)
    assert (code, "nothing was left to do" in out) == (0, True)
    code, _, err = gdui("predict", run, other, "--set", "refine.sigma=0.4")
    assert (
        code,
        "only how a source is read can be set here" in err,
    ) == (1, True)


def test_a_generator_learns_from_the_pictures_that_were_labelled(
    gdui: Cli, labelled: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    run, source = labelled
    quick = ("--preset", "tiny", *(part for one in QUICK for part in ("--set", one)))
    assert gdui("train", run, source, "--out", tmp_path / "one", *quick)[0] == 0
    other = table(photos, tmp_path / "other.parquet", photo="picture")
    labels = run / "labels.parquet"
    assert "not 'photo'" in gdui("train", labels, other, "--out", tmp_path / "two", *quick)[2]
    assert not (tmp_path / "two").exists()
    said = (*quick, "--set", "source.image_column=picture")
    assert gdui("train", labels, other, "--out", tmp_path / "two", *said)[0] == 0
    assert np.array_equal(np.load(tmp_path / "one" / "pictures.npy"), np.load(tmp_path / "two" / "pictures.npy"))


def test_sets_of_images_are_scored_by_the_column_that_is_named(gdui: Cli, photos: Path, tmp_path: Path) -> None:
    source = table(photos, tmp_path / "all.parquet")
    command = ("evaluate", f"same={source}", "--reference", source, "--network", "digits", "--json")
    assert "as --set source.image_column=photo" in gdui(*command)[2]
    code, out, _ = gdui(*command, *READ)
    assert code == 0
    assert json.loads(out)["same"]["samples"] == COUNT


def test_a_labeler_remembers_it_too(photos: Path, encoder: str, tmp_path: Path) -> None:
    source = table(photos, tmp_path / "all.parquet")
    settings = {"source.image_column": "photo", "source.id_column": "name"}
    labeler = package.Labeler(["red", "green", "blue"], encoder, **settings).fit(source)
    labeler.save(tmp_path / "saved")
    labels = package.Labeler.load(tmp_path / "saved").predict(source)
    assert labels.ids.to_pylist() == [called(at) for at in range(COUNT)]
    page = labels.report(tmp_path / "report.html", images=source).read_text()
    assert page.count("data:image/webp") == COUNT


def test_an_array_of_another_layout_holds_other_pictures(
    gdui: Cli, photos: Path, names: Path, encoder: str, tmp_path: Path
) -> None:
    """Also where nothing but the layout tells: what was seen of the one is nothing to the other."""
    pixels = np.stack([np.asarray(Image.open(file).resize((3, 3))) for file in sorted(photos.glob("*.png"))])
    np.save(tmp_path / "pixels.npy", np.moveaxis(pixels, 3, 1))
    source = tmp_path / "pixels.npy"
    command = ("label", source, "--classes", names, "--encoder", encoder, "--out", tmp_path / "run")
    assert "as --set source.layout=NHWC" in gdui(*command)[2]
    assert gdui(*command, "--set", "source.layout=NCHW")[0] == 0
    assert 'source.layout: "NCHW" -> "NHWC"' in gdui(*command, "--set", "source.layout=NHWC")[2]
    one, other = (open_source(source, layout=layout).fingerprint for layout in ("NCHW", "NHWC"))
    assert one != other


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"'source.imagecolumn'; did you mean 'source.image_column'\?"):
        Config.named("default", **{"source.imagecolumn": "photo"})
    with pytest.raises(ValueError, match=r"source\.layout must be one of 'NHWC', 'NCHW', 'NHW', not 'HWC'"):
        SourceConfig(layout="HWC")
    with pytest.raises(ValueError, match=r"only how a source is read can be set here .* not 'seed'"):
        SourceConfig.remembered({}, {"seed": 1})
