"""From labels and pictures to a generator: what fits is trained and kept, what doesn't is refused before it costs."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from checkpoints import assert_alike
from PIL import Image
from processes import same_threads

import gdui
from gdui import cli
from gdui.diffusion.gather import store_pictures
from gdui.diffusion.generator import Generator
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.spice import Learned, SpiceClassifier
from gdui.diffusion.workflow import train
from gdui.images import Transform, open_source
from gdui.labeling.cluster import Heads
from gdui.labeling.spice import Spice
from gdui.labels import Labels
from gdui.labels.facts import Facts
from gdui.runs import Run
from gdui.training.backbones import backbone
from gdui.training.history import History

NAMES = ["dark", "bright"]
QUICK: dict[str, Any] = {
    "channels": 1,
    "network.width": 32,
    "recipe.steps": 4,
    "recipe.batch": 8,
    "recipe.save_every": 9,
    "classifier_recipe.steps": 2,
    "classifier_recipe.batch": 8,
}
OPTIONS: dict[str, Any] = {"preset": "tiny", "compile": False}


def make_labels(
    ids: list[str], label: npt.ArrayLike, confidence: npt.ArrayLike | None = None, names: list[str] = NAMES
) -> Labels:
    n = len(ids)
    sure = np.linspace(1, 0.5, n) if confidence is None else confidence
    nothing = np.full(n, np.nan)
    return Labels.from_arrays(
        ids,
        names,
        label_index=label,
        confidence=sure,
        matched_index=label,
        cluster=np.zeros(n, int),
        cluster_confidence=nothing,
        consistency=nothing,
        clip_index=label,
        clip_confidence=nothing,
        clip_second_index=np.full(n, -1),
        rule=np.zeros(n, int),
        facts=Facts(),
    )


def two_kinds(count: int = 20) -> tuple[Labels, Any]:
    """Dark and bright pictures, the last one without a label, in another order than their labels."""
    ids = [f"p{row}" for row in range(count)]
    label = np.arange(count) % 2
    label[-1] = -1
    pixels = np.where(np.arange(count) % 2, 220, 30).astype(np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    return make_labels(ids, label), open_source(pixels[::-1].copy(), ids=ids[::-1], layout="NHWC")


def quick(labels: Any, source: Any, out: Path, **changes: Any) -> Generator:
    settings = QUICK | changes.pop("settings", {})
    return train(labels, source, out, settings=settings, **OPTIONS | changes)


def test_a_run_leaves_a_model_and_what_tells_of_it(tmp_path: Path) -> None:
    labels, source = two_kinds()
    seen: list[tuple[str, int, int]] = []
    model = gdui.train(
        labels,
        source,
        tmp_path / "run",
        settings=QUICK | {"recipe.save_every": 2},
        **OPTIONS,
        progress=lambda *told: seen.append(told),
    )
    assert {stage for stage, _, _ in seen} == {"pictures", "unet", "steps for 16 images", "classifier"}
    assert seen[-1] == ("classifier", 2, 2)
    assert np.load(tmp_path / "run" / "pictures.npy")[:, 0, 0, 0].tolist() == [30, 220] * 10
    assert model.names == tuple(NAMES)
    assert model.unet.null_class
    images = model.sample(NAMES, n=2, steps=3)
    np.testing.assert_array_equal(Generator.load(tmp_path / "run").sample(NAMES, n=2, steps=3), images)
    for made in ("losses.png", "samples/step-00000002.png", "samples/step-00000004.png"):
        assert Image.open(tmp_path / "run" / made).width > 100
    assert len((tmp_path / "run" / "unet" / "losses.csv").read_text().splitlines()) == 5


def test_stopped_and_taken_up_again_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    labels, source = two_kinds()
    quick(labels, source, tmp_path / "whole")
    quick(labels, source, tmp_path / "parts", settings={"recipe.steps": 2, "classifier_recipe.steps": 1})
    quick(labels, source, tmp_path / "parts")
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_the_networks_can_be_trained_one_after_the_other(tmp_path: Path) -> None:
    labels, source = two_kinds()
    with pytest.raises(ValueError, match="needs a trained UNet"):
        quick(labels, source, tmp_path / "run", objective="classifier")
    assert not (tmp_path / "run").exists()
    assert quick(labels, source, tmp_path / "run", objective="unet").classifier is None
    both = quick(labels, source, tmp_path / "run", objective="classifier")
    whole = quick(labels, source, tmp_path / "whole")
    np.testing.assert_array_equal(both.sample("dark", n=2, steps=2), whole.sample("dark", n=2, steps=2))
    again = quick(labels, source, tmp_path / "run", objective="unet", average=0.99)
    assert again.classifier is not None


STILL = {"recipe.rate": 1e-12, "recipe.weight_decay": 0.0}


def test_a_generator_begins_where_another_one_ended(tmp_path: Path) -> None:
    labels, source = two_kinds()
    first = quick(labels, source, tmp_path / "first")
    now = np.array([2, 0, -1])[labels.label_index]
    more = make_labels(labels.ids.to_pylist(), now, names=["bright", "grey", "dark"])
    quick(more, source, tmp_path / "more", objective="unet", start=first, settings=STILL)
    tuned = Generator.load(tmp_path / "more").unet.state_dict()
    given = first.unet.state_dict()
    rows = given.pop("label_emb.weight")[[1, 0, 2]]
    torch.testing.assert_close(tuned["label_emb.weight"][[0, 2, 3]], rows)
    torch.testing.assert_close(tuned["label_emb.weight"][1], rows.mean(dim=0))
    for name, value in given.items():
        torch.testing.assert_close(tuned[name], value)
    with pytest.raises(ValueError, match=r"start: .* -> \(none\)"):
        quick(more, source, tmp_path / "more", objective="unet", settings=STILL)


def test_a_start_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    labels, source = two_kinds()
    first = quick(labels, source, tmp_path / "first", objective="unet")
    for settings, words in (
        ({"timesteps": 100}, "setting timesteps must be 500, as in the generator to start from, not 100"),
        ({"network.width": 64}, r"start must be a generator of the same sizes; \d+ tensors differ: "),
    ):
        with pytest.raises(ValueError, match=words):
            quick(labels, source, tmp_path / "second", start=first, settings=settings)
    assert not (tmp_path / "second").exists()


def test_an_average_can_be_chosen_afterwards(tmp_path: Path) -> None:
    labels, source = two_kinds(8)
    weights = {
        average: next(quick(labels, source, tmp_path, objective="unet", average=average).unet.parameters())
        for average in (0.99, 0.995)
    }
    saved = History(tmp_path / "unet").newest()
    assert saved is not None
    for average, weight in weights.items():
        assert torch.equal(weight, saved.tensors[f"ema.{average}.0"])
    with pytest.raises(ValueError, match=r"average must be one of recipe.ema, 0.99, 0.995, 0.998, not 0.5"):
        quick(labels, source, tmp_path, average=0.5)


def test_a_clustering_network_can_steer(tmp_path: Path) -> None:
    labels, source = two_kinds()
    model = quick(labels, source, tmp_path, classifier="spice")
    again = Generator.load(tmp_path)
    assert isinstance(again.classifier, SpiceClassifier)
    drawn = model.sample("dark", n=2, steps=2, guide="classifier", guidance=3.0)
    np.testing.assert_array_equal(again.sample("dark", n=2, steps=2, guide="classifier", guidance=3.0), drawn)
    assert (model.sample("dark", n=2, steps=2, guidance=0.0) != drawn).any()


def learned_from_pixels(path: Path) -> Spice:
    """What a labelling run would have learned, of two clusters in the other order than the classes."""
    torch.manual_seed(0)
    trunk = backbone("small", 1)
    trunk.center.normal_()
    head = Heads(*(np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in HEAD))
    spice = Spice(trunk.eval(), head, Transform(8, filter="bilinear", mean=(0.4,) * 3, std=(0.3,) * 3))
    spice.save(path)
    return spice


HEAD = [(128, 24), (24,), (24, 2), (2,)]


def test_a_clustering_network_begins_as_the_labels_run_learned_it(tmp_path: Path) -> None:
    labels, source = two_kinds()
    table = labels.table.set_column(
        labels.table.schema.get_field_index("cluster"), "cluster", pa.array(np.arange(20) % 2 == 0, pa.int32())
    )
    with Run(tmp_path / "run", {}) as run:
        run.finish("label")
    replace(labels, table=table).to_parquet(tmp_path / "run" / "labels.parquet")
    spice = learned_from_pixels(tmp_path / "run" / "spice.safetensors")
    changes = {"objective": "both", "classifier": "spice", "settings": {"classifier_recipe.rate": 0.0}}
    model = quick(tmp_path / "run", source, tmp_path / "out", **changes)
    again = Generator.load(tmp_path / "out").classifier
    assert isinstance(again, SpiceClassifier)
    untaught = SpiceClassifier(again.config).eval()
    Learned.read(tmp_path / "run" / "spice.safetensors").into(untaught, table["cluster"].to_numpy(), labels.label_index)
    pixels = np.random.default_rng(1).random((5, 1, 8, 8), np.float32)
    seen = torch.from_numpy((pixels - 0.4) / 0.3)
    with torch.no_grad():
        expected = spice.logits(torch.nn.functional.normalize(spice.trunk(seen), dim=1).numpy())[:, [1, 0]]
        said = untaught(torch.from_numpy(2 * pixels - 1), torch.full((5,), 30.0))
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    for name, value in (*again.features.named_parameters(), *again.head.named_parameters()):
        assert any(torch.equal(value, own) for own in untaught.parameters()), name
    assert model.digest() == Generator.load(tmp_path / "out").digest()
    (tmp_path / "run" / "spice.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds nothing that was learned from pixels"):
        quick(tmp_path / "run", source, tmp_path / "other", **changes)
    assert not (tmp_path / "other").exists()


def test_an_unconditional_model_draws_no_names(tmp_path: Path) -> None:
    labels, source = two_kinds()
    model = quick(labels, source, tmp_path, conditional=False)
    assert model.unet.config.classes is None
    assert model.sample(n=3, steps=2).shape == (3, 8, 8, 1)
    assert model.sample("dark", n=2, steps=2, guide="classifier").shape == (2, 8, 8, 1)


def test_an_unconditional_model_learns_from_the_pictures_alone(tmp_path: Path) -> None:
    """Other labels make the same network, where a conditional one is told them."""
    labels, source = two_kinds()
    others = make_labels(labels.ids.to_pylist(), np.roll(labels.label_index, 3))
    found = {
        (conditional, given): quick(
            table, source, tmp_path / f"{conditional}-{given}", objective="unet", conditional=conditional
        ).digest()
        for conditional in (False, True)
        for given, table in (("own", labels), ("others", others))
    }
    assert found[False, "own"] == found[False, "others"]
    assert found[True, "own"] != found[True, "others"]


def test_the_commands_train_and_draw_without_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(tmp_path / "photos" / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [f"--set={name}={value}" for name, value in QUICK.items()]
    command = ["train", str(tmp_path / "labels.parquet"), str(tmp_path / "photos"), "--out", str(tmp_path / "run")]
    options = ["--preset", "tiny", "--unconditional", "--objective", "unet"]
    assert cli.main([*command, *options, *settings]) == 0
    sample = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "drawn"), "--steps", "2"]
    assert cli.main([*sample, "-n", "3"]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*/*.png")) == [f"{at:06d}.png" for at in range(3)]
    assert cli.main([*sample, "--class", "dark"]) == 1
    assert "this model knows no classes and has no classifier to steer by" in capsys.readouterr().err


def test_confidence_weighs_and_abstained_images_train_the_unnamed_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Pictures] = []

    def stop(*arguments: Any, **_: Any) -> None:
        given.append(arguments[2])
        raise InterruptedError

    monkeypatch.setattr("gdui.diffusion.workflow.train_network", stop)
    labels, source = two_kinds(4)
    labels = make_labels(labels.ids.to_pylist(), [0, 1, -1, 1], [0.9, 0.3, 0.1, np.nan])
    with pytest.raises(InterruptedError):
        quick(labels, source, tmp_path, weigh=True)
    (pictures,) = given
    assert pictures.weights is not None
    np.testing.assert_allclose(pictures.weights, [1.5, 0.5, 1, 1])
    assert pictures.classes.tolist() == [0, 1, -1, 1]
    assert pictures.named().rows.tolist() == [0, 1, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "huge"}, "preset must be one of 'tiny'"),
        ({"device": "abacus"}, "device must be one that PyTorch can use here, such as 'cpu', not 'abacus'"),
        ({"classifier": "svm"}, "classifier must be one of 'adm', 'spice'"),
        ({"objective": "vae"}, "objective must be one of 'unet'"),
        ({"settings": {"size": 9}}, "image_size must be a multiple of 2"),
        ({"settings": {"recipe.speed": 9}}, "no setting is named 'recipe.speed'"),
        ({"settings": {"speed": 9}}, "no setting is named 'speed'; there are size"),
        ({"settings": {"recipe.batch": 0}}, "batch must be at least 1"),
        ({"settings": {"schedule": "square"}}, "name must be one of 'linear'"),
        ({"settings": {"channels": 4}}, "channels must be 1 or 3 for pictures, not 4"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    labels, source = two_kinds()
    with pytest.raises(ValueError, match=words):
        quick(labels, source, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but PyTorch sees no GPU"):
        train(*two_kinds(), tmp_path / "run", preset="tiny", device="cuda")


def test_labels_and_pictures_that_do_not_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, source = two_kinds()
    others = make_labels(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=r"2 of 2 labels have no picture.*such as 'a'.*called like 'p19'"):
        quick(others, source, tmp_path)
    more = make_labels([*labels.ids.to_pylist(), "lost"], [0] * 21)
    with pytest.raises(
        ValueError, match="1 of 21 labels have no picture in 'an array' that can be read, such as 'lost'"
    ):
        quick(more, source, tmp_path, objective="unet")
    assert not list(tmp_path.glob("*.npy"))
    monkeypatch.setattr("gdui.diffusion.gather.batches", None)
    with pytest.raises(ValueError, match="2 of 2 labels have no picture"):
        quick(others, source, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"such as 'a.png' \(not in an image format"):
        quick(make_labels(["a.png"], [0]), folder, tmp_path / "run", objective="unet")
    with pytest.raises(TypeError, match="labels must be a Labels table or the path of one, not int"):
        quick(3, source, tmp_path)


def test_labels_without_two_classes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    ids, source = two_kinds()[0].ids.to_pylist(), two_kinds()[1]
    for label, count in ([0] * 20, 1), ([-1] * 20, 0):
        with pytest.raises(ValueError, match=f"at least two classes for a classifier, not of {count}: train objective"):
            quick(make_labels(ids, label), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_picture_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels, source = two_kinds()
    single = make_labels(labels.ids.to_pylist(), [1] * 20)
    quick(single, source, tmp_path, objective="unet", settings={"recipe.steps": 1})
    assert "no picture is labelled dark: what is drawn of such a class means nothing" in caplog.text


def test_other_settings_or_labels_are_refused_in_a_used_folder(tmp_path: Path) -> None:
    labels, source = two_kinds()
    quick(labels, source, tmp_path / "run", objective="unet")
    with pytest.raises(ValueError, match=r'preset: "tiny" -> "small"'):
        quick(labels, source, tmp_path / "run", preset="small")
    with pytest.raises(ValueError, match=r"recipe.rate: 0.001 -> 0.5"):
        quick(labels, source, tmp_path / "run", settings={"recipe.rate": 0.5})
    changed = make_labels(labels.ids.to_pylist(), [0] * 20)
    with pytest.raises(ValueError, match="begun with other settings"):
        quick(changed, source, tmp_path / "run", objective="unet")
    assert quick(changed, source, tmp_path / "run", mode="overwrite", objective="unet").classifier is None


def test_other_pictures_under_the_same_ids_are_refused_in_a_used_folder(tmp_path: Path) -> None:
    labels, source = two_kinds()
    ids, pixels = labels.ids.to_pylist()[::-1], np.full((20, 8, 8, 1), 99, np.uint8)
    model = quick(labels, source, tmp_path / "run")
    with pytest.raises(ValueError, match=r'begun with other settings(?s:.*)\n  source: "\w+" -> "\w+"$'):
        quick(labels, open_source(pixels, ids=ids, layout="NHWC"), tmp_path / "run")
    again = quick(labels, two_kinds()[1], tmp_path / "run")
    assert again.digest() == model.digest()


def test_a_picture_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    labels = make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1])
    quick(labels, photos, tmp_path / "run", objective="unet")
    Image.new("L", (9, 9), 250).save(photos / "3.png")
    with pytest.raises(ValueError, match=r"\n  source: "):
        quick(labels, photos, tmp_path / "run", objective="unet")
    anew = quick(labels, photos, tmp_path / "run", objective="unet", mode="overwrite")
    assert anew.names == tuple(NAMES)
    assert np.load(tmp_path / "run" / "pictures.npy")[3].min() == 250


def test_pictures_are_decoded_in_colour_or_grey_in_the_labels_order(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", (250, 10, 10)), ("b.png", (90, 90, 90)), ("unlabelled.png", (1, 1, 1))):
        Image.new("RGB", (12, 12), colour).save(folder / name)
    labels = make_labels(["b.png", "a.png"], [0, 1])
    rgb = store_pictures(labels, folder, tmp_path / "rgb.npy", size=8, channels=3)
    grey = store_pictures(labels, folder, tmp_path / "grey.npy", size=6, channels=1)
    assert rgb[:, 0, 0].tolist() == [[90, 90, 90], [250, 10, 10]]
    assert grey[:, 0, 0].tolist() == [[90], [82]]
    assert rgb.shape == (2, 8, 8, 3)


def halved(pictures: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pictures, 2) * 2


def doubled(latents: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(latents / 2, scale_factor=2.0)


def test_latents_are_encoded_once_and_what_is_drawn_is_decoded(tmp_path: Path) -> None:
    labels, source = two_kinds()
    space: dict[str, Any] = {"settings": {"channels": 3, "picture_size": 16}, "latents": (halved, doubled)}
    model = quick(labels, source, tmp_path / "run", **space)
    stored = np.load(tmp_path / "run" / "latents.npy")
    assert stored.shape == (20, 8, 8, 3)
    np.testing.assert_allclose(stored[1], 2 * (220 / 127.5 - 1), rtol=1e-5)
    images = model.sample(NAMES, n=2, steps=3)
    assert images.shape == (4, 16, 16, 3)
    again = Generator.load(tmp_path / "run", latents=(halved, doubled))
    np.testing.assert_array_equal(again.sample(NAMES, n=2, steps=3), images)
    with pytest.raises(ValueError, match="draws latents: give load what decodes them"):
        Generator.load(tmp_path / "run")


def test_latents_of_an_autoencoder_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=2.0,
        shift_factor=0.25,
    ).eval()
    labels, source = two_kinds()
    space: dict[str, Any] = {"settings": {"channels": 4, "picture_size": 16}, "latents": vae}
    model = quick(labels, source, tmp_path, objective="unet", **space)
    stored = torch.from_numpy(np.load(tmp_path / "latents.npy")).permute(0, 3, 1, 2)
    pictures = torch.from_numpy(np.load(tmp_path / "pictures.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(pictures).latent_dist.mean
        assert model.coder is not None
        torch.testing.assert_close(stored, (mean - 0.25) * 2, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.coder.decode(stored), vae.decode(mean).sample, atol=1e-4, rtol=1e-4)
    assert model.sample("dark", n=2, steps=2).shape == (2, 16, 16, 3)


def test_latents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    labels, source = two_kinds()
    sized: dict[str, Any] = {"channels": 3, "picture_size": 32}
    with pytest.raises(ValueError, match=r"the network takes \(8, 8, 3\): it needs size 16 and channels 3"):
        quick(labels, source, tmp_path / "run", settings=sized, latents=(halved, doubled))
    with pytest.raises(TypeError, match=r"latents must be a pair \(encode, decode\)"):
        quick(labels, source, tmp_path / "other", settings=sized, latents=halved)
    with pytest.raises(ValueError, match="mirror must be off with latents"):
        quick(labels, source, tmp_path / "other", settings={"recipe.mirror": True}, latents=(halved, doubled))
    with pytest.raises(ValueError, match="picture_size is for latents"):
        quick(labels, source, tmp_path / "other", settings=sized)
    assert not (tmp_path / "other").exists()


def test_the_command_trains_and_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    command = ["train", str(tmp_path / "labels.parquet"), str(photos), "--out", str(tmp_path / "run")]
    options = ["--preset", "tiny", "--no-compile", *settings]
    assert cli.main([*command, *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["networks"]
    assert {name: one["steps"] for name, one in told.items()} == {"unet": 4, "classifier": 2}
    assert cli.main([*command, *options]) == 0
    assert "unet: 4 steps, loss" in capsys.readouterr().out
    assert cli.main([*command, *options, "--set", "recipe.rate=0.5"]) == 1
    assert "begun with other settings" in capsys.readouterr().err
    lost = [*command[:-1], str(tmp_path / "other"), *options, "--set", "recipe.rate=1e30"]
    assert cli.main(lost) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "stopped; there is no checkpoint yet" in line


# A shell's background job, whose children are deaf to Ctrl-C, must not decide this.
ASKED = """
import os, signal, sys
from gdui.cli import main
from gdui.diffusion import workflow

def grid(*_, **__):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

workflow.write_grid = grid
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_command_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 60 * row).save(photos / f"{row}.png")
    make_labels([f"{row}.png" for row in range(4)], [0, 0, 1, 1]).to_parquet(tmp_path / "labels.parquet")
    settings = [f"--set={name}={value}" for name, value in (QUICK | {"recipe.save_every": 1}).items()]
    command = ["train", str(tmp_path / "labels.parquet"), str(photos), "--preset", "tiny", "--objective", "unet"]
    command += [*settings, "--out", str(tmp_path / "run")]
    asked = [sys.executable, "-c", ASKED, name, *command]
    done = subprocess.run(asked, capture_output=True, text=True, env=same_threads())
    assert done.returncode == 130
    where = tmp_path / "run" / "unet"
    told = [line for line in done.stderr.splitlines() if not line.startswith(("unet: ", "pictures: ", "steps for "))]
    assert told == [
        f"gdui: error: stopped after step 1 of 4, which is kept in {where}; run the same command again to continue"
    ]
    assert cli.main(command) == 0
    whole = [*command[:-1], str(tmp_path / "whole")]
    assert cli.main(whole) == 0
    one, two = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "whole"))
    assert one == two


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import test_generator_run as tests
        tests.quick(*tests.two_kinds(), Path(sys.argv[1]))
    """)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_PRECISION": "float32"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29714"]
    subprocess.run([*torchrun, str(script), str(tmp_path / "two")], check=True, capture_output=True, env=environment)
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "one")], check=True, capture_output=True, env=environment
    )
    for name in ("unet", "classifier"):
        assert_alike(tmp_path / "one" / name, tmp_path / "two" / name)
