"""The demo: what the shipped encoder knows, what its trainer does, and labels found without a label."""

import importlib.util
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from scipy.ndimage import label as components
from sklearn.datasets import load_digits

import gdui.demo
from gdui.demo import NAMES, contact_sheet, draw_digits, drawn, images
from gdui.demo import digits as demo
from gdui.demo.sheet import CELL, DRAWN
from gdui.diffusion.generator import Generator
from gdui.labeling import graph
from gdui.labeling.cluster import assign, fit_centroids
from gdui.labeling.encoders import Encoder, load_encoder, seen_by
from gdui.labeling.neighbors import neighbors
from gdui.labeling.opinions import class_embeddings, zero_shot
from gdui.labels import Labels
from gdui.labels.facts import Facts

FOLDER = Path(gdui.demo.__file__).parent
TRAINER = Path(__file__).resolve().parents[1] / "tools" / "train_digits.py"
ZERO_SHOT = (0.72, 0.84)
EVERYWHERE = np.ones((3, 3))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("digits", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", TRAINER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_digits"] = module
    spec.loader.exec_module(module)
    return module


def as_pixels(encoder: Encoder, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([encoder.transform(Image.fromarray(picture).convert("RGB")) for picture in pictures])


def make_labels(label: npt.ArrayLike, opinion: npt.ArrayLike, classes: list[str]) -> Labels:
    n = len(np.asarray(label))
    sure = np.linspace(1, 0, n)
    return Labels.from_arrays(
        [f"image {row}" for row in range(n)],
        classes,
        label_index=label,
        confidence=sure,
        matched_index=label,
        cluster=np.zeros(n, int),
        cluster_confidence=sure,
        consistency=sure,
        clip_index=opinion,
        clip_confidence=sure,
        clip_second_index=np.full(n, -1),
        rule=np.zeros(n, int),
        facts=Facts(),
    )


def test_the_weights_are_small_and_open_clip_reads_the_folder() -> None:
    size = sum(path.stat().st_size for path in FOLDER.glob("open_clip_*"))
    assert size < 4e6
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    image = preprocess(Image.new("L", (8, 8)))
    assert model.eval().encode_image(image[None]).shape == (1, model.text_projection.shape[1])


def test_image_and_text_vectors_meet(encoder: Encoder) -> None:
    pixels = as_pixels(encoder, images()[:5])
    assert encoder.encode_images(pixels).shape == (5, encoder.dim)
    assert encoder.encode_texts(["seven", "sieben", "七", ""]).shape == (4, encoder.dim)


def test_the_same_bytes_from_every_load(encoder: Encoder) -> None:
    again = load_encoder("digits", device="cpu", dtype="float32")
    pixels = as_pixels(encoder, images()[:40])
    assert again.hash == encoder.hash
    assert again.encode_images(pixels).tobytes() == encoder.encode_images(pixels).tobytes()
    assert again.encode_texts(NAMES).tobytes() == encoder.encode_texts(NAMES).tobytes()


@pytest.mark.parametrize("names", [NAMES, tuple("0123456789")], ids=["words", "numerals"])
def test_zero_shot_on_handwriting_is_as_stated(encoder: Encoder, names: tuple[str, ...]) -> None:
    features = encoder.encode_images(as_pixels(encoder, images()))
    opinion = zero_shot(features, class_embeddings(encoder, names), encoder.logit_scale).argmax(1)
    assert ZERO_SHOT[0] < (opinion == load_digits().target).mean() < ZERO_SHOT[1]


@pytest.mark.parametrize("dark_on_light", [False, True])
def test_it_reads_print_of_either_polarity(encoder: Encoder, trainer: ModuleType, dark_on_light: bool) -> None:
    masks = [trainer.glyph_mask(font, name) for font in trainer.FONTS for name in "0123456789"]
    middle = slice(trainer.FIELD // 4 - 2, 3 * trainer.FIELD // 4 + 2)
    pictures = np.stack([(mask[middle, middle] != dark_on_light) * np.uint8(255) for mask in masks])
    opinion = encoder.encode_images(as_pixels(encoder, pictures)) @ class_embeddings(encoder, NAMES).T
    assert (opinion.argmax(1) == np.tile(np.arange(10), len(trainer.FONTS))).mean() > 0.95


def test_the_layer_clustered_by_is_where_unlabelled_digits_stand_out_most(encoder: Encoder) -> None:
    pixels = as_pixels(encoder, images())

    def modularity(name: str) -> float:
        seen = load_encoder(name, device="cpu").encode_images(pixels)
        near, similarity, _ = neighbors(seen - seen.mean(0), 15, include_self=False)
        modes = graph.modes(graph.adjacency(near, similarity), 2 * len(NAMES))
        return graph.modularity(assign(fit_centroids(modes, len(NAMES), seed=0), modes).cluster, near)

    tower = ["digits", *(f"digits#layer{at}" for at in range(1, 5))]
    assert max(tower, key=modularity) == seen_by("digits")


def test_the_inner_layer_tells_shapes_apart(encoder: Encoder) -> None:
    inner = load_encoder(seen_by("digits"), device="cpu")
    features = inner.encode_images(as_pixels(encoder, images()))
    truth = load_digits().target
    cosine = features @ features.T
    np.fill_diagonal(cosine, -1)
    assert (truth[cosine.argmax(1)] == truth).mean() > 0.97
    assert inner.hash != encoder.hash
    with pytest.raises(TypeError, match="no text tower"):
        inner.encode_texts(["seven"])


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer must be a part of the image tower \(.*layer3.*\), not 'layer9'"):
        load_encoder("digits#layer9")


def test_the_trainer_never_sees_handwriting(trainer: ModuleType) -> None:
    assert "sklearn" not in TRAINER.read_text()
    assert json.loads((FOLDER / "open_clip_config.json").read_text()) == trainer.CONFIG


def test_a_skeleton_keeps_parts_and_holes(trainer: ModuleType) -> None:
    for digit in "0123456789":
        mask = trainer.glyph_mask("DejaVuSans-Bold", digit)
        thin = trainer.skeleton(mask)
        assert not (thin & ~mask).any()
        assert thin.sum() < mask.sum() / 3
        assert components(thin, EVERYWHERE)[1] == components(mask, EVERYWHERE)[1]
        assert components(~thin)[1] == components(~mask)[1]


def test_every_font_has_every_digit(trainer: ModuleType) -> None:
    fields = trainer.glyph_fields()
    assert fields.shape[:2] == (10, len(trainer.FONTS))
    assert (fields[:, :, 0].amin((2, 3)) < 0).all()
    assert (fields[:, :, 1].amin((2, 3)) == 0).all()
    pairs = fields[:, :, 0].flatten(1)
    assert torch.pdist(pairs).min() > 0


def test_training_lowers_the_loss_and_repeats_itself(
    trainer: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer.write_vocabulary(tmp_path / "vocabulary.txt.gz")
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(tmp_path / "vocabulary.txt.gz"), context_length=64)
    fields = trainer.glyph_fields(["DejaVuSans", "cmr10"])

    def train() -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = trainer.train(
            trainer.Press(fields, 32, 0), tokenizer, steps=12, batch=40, seed=0
        ).state_dict()
        return state

    with caplog.at_level(logging.INFO, logger="train_digits"):
        first = train()
    losses: list[Any] = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    assert losses[-1] < losses[0] - 0.3
    again = train()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (tmp_path / "vocabulary.txt.gz").read_bytes() == (FOLDER / "vocabulary.txt.gz").read_bytes()


def test_the_encoder_knows_the_words_of_its_captions(trainer: ModuleType, encoder: Encoder) -> None:
    captions = [template.format(number) for template in trainer.TEMPLATES for number in trainer.NUMBERS]
    assert encoder.words == set(re.findall(r"[\w-]+", " ".join(captions)))
    assert not load_encoder("digits#layer3", device="cpu").words


def test_the_sheet_takes_any_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    classes = ["a", "a very long name that no column can hold", "nobody's"]
    label = np.array([0, 1, 1, -1, 0, 1])
    pictures = rng.integers(0, 256, (6, 20, 30, 3), np.uint8)
    contact_sheet(pictures, make_labels(label, [0, 0, 1, 1, -1, 1], classes), tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.format == "PNG"
    assert sheet.height < sheet.width
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(ValueError, match="pictures must be as many as the labels, 6, not 5"):
        contact_sheet(pictures[:5], make_labels(label, label, classes), tmp_path / "sheet.png")


def test_drawn_images_stand_beside_their_class(tmp_path: Path) -> None:
    """White pictures of the second class are where nothing else is white, on a page of few shades."""
    labels = make_labels([0, 1, 1, 0], [0, 1, 1, 1], ["a", "b"])
    drawn = np.stack([np.zeros((DRAWN, 8, 8), np.uint8), np.full((DRAWN, 8, 8), 255, np.uint8)])
    contact_sheet(np.zeros((4, 8, 8), np.uint8), labels, tmp_path / "sheet.png", drawn)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.mode == "P"
    white = np.asarray(sheet.convert("L")) == 255
    across, down = white.any(0).nonzero()[0], white.any(1).nonzero()[0]
    assert across.min() > sheet.width / 2
    assert np.ptp(down) + 1 == CELL
    assert white.sum() == DRAWN * CELL * CELL


def test_the_demo_labels_handwriting_without_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded:
        images = load_digits().images

        @property
        def target(self) -> npt.NDArray[np.int64]:
            assert (tmp_path / "run" / "labels.parquet").exists(), "a true digit was read too early"
            return np.asarray(load_digits().target)

    monkeypatch.setattr(demo, "load_digits", Guarded)
    started = time.process_time()
    result = demo.run(tmp_path / "run")
    score = {one.way: one.accuracy for one in result.scores}
    assert score["preset default"] >= 0.93
    assert score["preset default"] >= score["zero-shot"] + 0.15
    assert ZERO_SHOT[0] < score["zero-shot"] < ZERO_SHOT[1]
    assert all(word in str(result) for word in [*score, "labels.parquet", "contact_sheet.png", "1,797 images"])
    assert Labels.from_parquet(tmp_path / "run" / "labels.parquet").table.equals(result.labels.table)
    assert Image.open(result.sheet).width > 1000
    assert time.process_time() - started < 2 * 60, "a minute of two cores"


def test_a_few_steps_draw_a_named_grid(tmp_path: Path) -> None:
    """How well it draws after all of them is benchmarks/bench_digits.py's to say."""
    some = np.arange(len(images())) % 10
    made = draw_digits(make_labels(some, some, list(NAMES)), tmp_path, steps=2)
    assert made.model.names == NAMES
    assert made.model.classifier is not None
    assert Image.open(made.grid).height > 11 * 64
    assert Image.open(tmp_path / "contact_sheet.png").width > 1000
    again = Generator.load(tmp_path / "generator")
    np.testing.assert_array_equal(again.sample("two", n=2, steps=2), made.model.sample("two", n=2, steps=2))


@pytest.mark.usefixtures("ears")
def test_a_demo_that_is_stopped_goes_on_unless_its_labels_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drawn, "COLUMNS", 1)
    some = np.arange(len(images())) % 10

    def draw(folder: str, label: npt.NDArray[np.int64] = some, **options: Any) -> str:
        return draw_digits(make_labels(label, label, list(NAMES)), tmp_path / folder, steps=3, **options).model.digest()

    def ask(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("unet", 1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 1 of 3"):
        draw("stopped", progress=ask)
    with caplog.at_level(logging.INFO):
        resumed = draw("stopped")
    assert "going on after step 1" in caplog.text
    assert resumed == draw("whole")
    assert draw("stopped", some[::-1]) != resumed
