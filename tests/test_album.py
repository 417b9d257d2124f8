"""Images on disk: a killed or repeated call draws only what is missing, and never mixes two ways of drawing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from weights import fill

from gdui import cli
from gdui.diffusion import album
from gdui.diffusion.album import draw_into
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.generator import Generator
from gdui.diffusion.grid import write_grid
from gdui.diffusion.unet import UNet, preset
from gdui.images import open_source

NAMES = ("cat", "a/b", "owl")
HOW: dict[str, Any] = {"steps": 2, "batch": 4, "seed": 3, "guidance": 1.0}


@pytest.fixture(scope="module")
def model() -> Generator:
    torch.manual_seed(0)
    unet = UNet(preset("tiny", width=32, channels=1, classes=3), null_class=True).eval()
    classifier = Classifier(
        ClassifierConfig(8, 32, 1, (1, 2), attention_at=(4,), channels=1, classes=3, head_width=32)
    ).eval()
    fill(unet)
    fill(classifier)
    return Generator(unet, NAMES, timesteps=20, classifier=classifier, mixed=False)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {str(file.relative_to(folder)): np.array(Image.open(file)) for file in sorted(folder.glob("*/*.png"))}


def names_in(folder: Path) -> list[str]:
    return [name for shard in open_source(folder).shards if shard.names for name in shard.names()]


def test_files_hold_what_sample_draws(model: Generator, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    assert draw_into(tmp_path, model, ["owl", "a/b"], [3, 2], **HOW, progress=lambda *told: seen.append(told)) == 5
    drawn = pixels(tmp_path)
    assert [Path(name).name for name in drawn] == ["000000.png", "000001.png", "000000.png", "000001.png", "000002.png"]
    expected = model.sample(["owl", "a/b"], [3, 2], **HOW)[..., 0]
    np.testing.assert_array_equal([drawn[f"owl/00000{place}.png"] for place in range(3)], expected[:3])
    assert seen == [("steps for 5 images", step, 4) for step in range(1, 5)]
    assert Image.open(tmp_path / "grid.png").width > 200


def test_what_was_drawn_is_read_without_the_grid_that_shows_it(model: Generator, tmp_path: Path) -> None:
    draw_into(tmp_path / "drawn", model, ["owl", "cat"], 2, **HOW)
    for folder in (tmp_path, tmp_path / "drawn"):
        names = [name.removeprefix("drawn/") for name in names_in(folder)]
        assert names == [f"{name}/00000{place}.png" for name in ("cat", "owl") for place in (0, 1)]
        assert [Path(name).name for name in open_source(folder).ignored] == ["drawing.json", "grid.png"]
    (tmp_path / "drawn" / "drawing.json").unlink()
    assert "grid.png" in names_in(tmp_path / "drawn")  # anybody's picture of that name


def test_a_stopped_call_draws_only_what_is_missing(
    model: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_into(tmp_path / "whole", model, ["cat", "owl"], 3, **HOW)

    write = album._write

    def die_at_the_owl(path: Path, image: np.ndarray) -> None:
        if "owl" in str(path):
            raise KeyboardInterrupt
        write(path, image)

    monkeypatch.setattr(album, "_write", die_at_the_owl)
    with pytest.raises(KeyboardInterrupt):
        draw_into(tmp_path / "parts", model, ["cat", "owl"], 3, **HOW)
    monkeypatch.undo()
    assert len(pixels(tmp_path / "parts")) == 3
    assert draw_into(tmp_path / "parts", model, ["cat", "owl"], 3, **HOW) == 3
    whole, parts = pixels(tmp_path / "whole"), pixels(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    assert draw_into(tmp_path / "parts", model, "cat", 5, **HOW) == 2


def test_another_way_of_drawing_is_refused(model: Generator, tmp_path: Path) -> None:
    draw_into(tmp_path, model, "cat", 1, **HOW)
    for change in ({"seed": 4}, {"steps": 3}, {"batch": 5}, {"guidance": 2.0}):
        with pytest.raises(ValueError, match=f"drawn otherwise \\({next(iter(change))}"):
            draw_into(tmp_path, model, "cat", 1, **HOW | change)
    assert draw_into(tmp_path, model, "owl", 1, **HOW | {"guidance": 2.0}) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"seed": 3}'])
def test_a_note_that_says_nothing_is_named(model: Generator, tmp_path: Path, text: str) -> None:
    (tmp_path / "drawing.json").write_text(text)
    with pytest.raises(ValueError, match=r"drawing\.json is damaged and doesn't say how images were drawn"):
        draw_into(tmp_path, model, "cat", 1, **HOW)


def test_mistakes_write_nothing(model: Generator, tmp_path: Path) -> None:
    for wrong in ({"classes": "fish"}, {"guide": "auto"}, {"steps": 21}):
        with pytest.raises(ValueError, match=r"'fish'|weaker|steps"):
            draw_into(tmp_path / "out", model, **{"classes": "cat", "n": 1} | HOW | wrong)
    assert not (tmp_path / "out").exists()


def test_the_command_draws_and_says_where(model: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--steps", "2", "--batch", "4"]
    assert cli.main([*command, "--class", "cat", "--class", "owl", "-n", "1", "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] == 3
    assert cli.main([*command, "--class", "fish"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "gdui: error: classes must be one of 'cat', 'a/b', 'owl', not 'fish'"
    ]
    assert cli.main([*command, "--class", "owll"]) == 1
    assert capsys.readouterr().err.endswith("not 'owll'; did you mean 'owl'?\n")
    assert cli.main([*command, "--guide", "free=much"]) == 1
    assert "guide must be a name" in capsys.readouterr().err


def test_a_grid_without_names_has_lines_of_eight(tmp_path: Path) -> None:
    images = np.zeros((11, 40, 20, 3), np.uint8)
    write_grid(tmp_path / "grid.png", images, (), title="nothing yet")
    assert Image.open(tmp_path / "grid.png").height > 2 * 40
    with pytest.raises(ValueError, match="as many for each of 2 names, not 11"):
        write_grid(tmp_path / "grid.png", images, ("a", "b"))
