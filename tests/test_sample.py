"""Images depend on the seed, their class and their number alone; guidance pulls to the class; mistakes are named."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weights import fill

from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.generator import Generator
from gdui.diffusion.sample import Method, Sampler, image_seeds
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.unet import UNet, preset
from gdui.training.precision import for_inference

NAMES = ("cat", "dog", "owl")
CLASSIFIER = ClassifierConfig(8, 32, 1, (1, 2), attention_at=(4,), classes=3, head_width=32)


@pytest.fixture(autouse=True)
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")


def generator(**changes: Any) -> Generator:
    unet = UNet(preset("tiny", width=32, classes=3), null_class=True)
    fill(unet)
    return replace(Generator(unet.eval(), NAMES, timesteps=50), **changes)


def with_classifier(unconditional: bool = False) -> Generator:
    classifier = Classifier(CLASSIFIER)
    fill(classifier)
    if not unconditional:
        return generator(classifier=classifier.eval())
    unet = UNet(preset("tiny", width=32))
    fill(unet)
    return generator(classifier=classifier.eval(), unet=unet.eval())


@pytest.mark.parametrize("method", ["dpm", "heun", "ddim", "ancestral"])
def test_number_and_order_change_no_image(method: Method) -> None:
    model = generator()
    options: dict[str, Any] = {"steps": 5, "method": method, "batch": 4}
    whole = model.sample(["cat", "owl"], n=3, seed=7, **options)
    assert whole.shape == (6, 8, 8, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(
        model.sample(["owl", "cat"], n=3, steps=5, method=method, batch=4, seed=7)[3:], whole[:3]
    )
    np.testing.assert_array_equal(model.sample("owl", n=1, steps=5, method=method, batch=4, seed=7), whole[3:4])
    assert (model.sample("cat", n=3, steps=5, method=method, batch=4, seed=8) != whole[:3]).any()


@pytest.mark.parametrize(("method", "precision"), [("dpm", "float32"), ("ancestral", "float32"), ("dpm", "bfloat16")])
def test_another_batch_only_rounds_otherwise(method: Method, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", precision)
    monkeypatch.setattr("gdui.training.precision.has_bfloat16", lambda _: True)
    model, how = with_classifier(), {"steps": 5, "method": method, "seed": 7, "guidance": 2.0}
    whole = model.sample(["cat", "owl"], n=2, batch=64, **how).astype(int)
    for batch in (1, 3, 4):
        apart = np.abs(model.sample(["cat", "owl"], n=2, batch=batch, **how) - whole)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


def test_images_of_one_class_differ() -> None:
    images = generator().sample("dog", n=4, steps=4)
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize("method", ["dpm", "heun", "ddim", "ancestral"])
def test_progress_counts_the_steps_of_all_batches(method: Method) -> None:
    seen: list[tuple[str, int, int]] = []
    model = generator()
    told = model.sample("dog", n=3, batch=2, steps=4, method=method, progress=lambda *one: seen.append(one))
    assert seen == [("steps for 3 images", done, 8) for done in range(1, 9)]
    np.testing.assert_array_equal(model.sample("dog", n=3, batch=2, steps=4, method=method), told)


def test_streaming_gives_the_same_images() -> None:
    model = generator()
    streamed = list(model.stream("cat", n=5, steps=3, batch=2))
    assert [len(part) for part in streamed] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(streamed), model.sample("cat", n=5, steps=3, batch=2))


@pytest.mark.parametrize("method", ["dpm", "ddim", "ancestral"])
def test_the_classifier_pulls_to_its_class(method: Method) -> None:
    model = with_classifier(unconditional=True)
    assert model.classifier is not None
    shares = []
    for scale in (0.0, 40.0):
        images = model.sample("owl", n=16, steps=10, method=method, guide="classifier", guidance=scale)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        shares.append(model.classifier(x, torch.zeros(16)).softmax(1)[:, 2].mean().item())
    assert shares[1] > shares[0] + 0.02


def test_guidance_without_a_class_is_a_mixture_of_two_predictions() -> None:
    model, x = generator(), torch.randn(2, 3, 8, 8)
    seen: list[torch.Tensor] = []
    schedule = Schedule.from_name("cosine", 50)

    def network(x: torch.Tensor, t: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append(classes)
        return model.unet(x, t, classes)

    classes, t, pull = torch.tensor([0, 1]), torch.tensor([3.0, 3.0]), torch.tensor([1.5, 0.0])[:, None, None, None]
    guided = Sampler(network, schedule, null_class=3, guides={"free": 2.0})._predict(x, t, classes, pull)
    assert [classes.tolist() for classes in seen] == [[0, 1], [3, 3]]
    named, nobody = model.unet(x, t, classes), model.unet(x, t, torch.tensor([3, 3]))
    expected = named.clone()
    expected[0, :3] += 3 * (named - nobody)[0, :3]
    torch.testing.assert_close(guided, expected)


def test_guides_combine_and_every_class_has_its_own_scale() -> None:
    model = with_classifier()
    how: dict[str, Any] = {"steps": 4, "seed": 1, "guide": {"classifier": 1.0, "free": 0.5}}
    both = model.sample(["cat", "owl"], n=[1, 2], guidance=[3.0, 0.0], **how)
    assert len(both) == 3
    np.testing.assert_array_equal(both[1:], model.sample("owl", n=2, steps=4, seed=1, guidance=0))
    np.testing.assert_array_equal(both[:1], model.sample("cat", guidance=3.0, **how))
    assert (both[0] != model.sample("cat", guidance=3.0, steps=4, seed=1)[0]).any()


def test_autoguidance_moves_away_from_the_weaker_network() -> None:
    model, weaker = generator(), generator()
    same = model.sample("cat", n=2, steps=4, weaker=model, guidance=5.0)
    np.testing.assert_allclose(same.astype(int), model.sample("cat", n=2, steps=4, guidance=0), atol=1)
    with torch.no_grad():
        for parameter in weaker.unet.parameters():
            parameter.mul_(0.9)
    assert (model.sample("cat", n=2, steps=4, weaker=weaker, guidance=5.0) != same).any()
    with pytest.raises(ValueError, match="weaker must have the same timesteps"):
        model.sample("cat", weaker=replace(weaker, timesteps=60))


def test_the_gradient_can_be_taken_at_the_mean() -> None:
    model = with_classifier()
    how: dict[str, Any] = {"steps": 6, "method": "ancestral", "guidance": 30.0, "guide": "classifier"}
    assert (model.sample("cat", n=2, grad_at="mean", **how) != model.sample("cat", n=2, **how)).any()
    with pytest.raises(ValueError, match="grad_at 'mean' is for method 'ancestral'"):
        model.sample("cat", grad_at="mean", guidance=1.0)


def test_a_network_is_made_ready_once_and_follows_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Module] = []

    def counted(network: torch.nn.Module, **how: Any) -> Any:
        made.append(network)
        return for_inference(network, **how)

    monkeypatch.setattr("gdui.diffusion.generator.for_inference", counted)
    model = with_classifier()
    before = model.sample("cat", steps=2)
    np.testing.assert_array_equal(model.sample("cat", steps=2), before)
    assert made == [model.unet, model.classifier]
    with torch.no_grad():
        model.unet.out[2].bias.add_(0.5)
    changed = model.sample("cat", steps=2)
    assert (changed != before).any()
    assert made == [model.unet, model.classifier, model.unet]
    np.testing.assert_array_equal(replace(model).sample("cat", steps=2), changed)


def test_a_saved_model_draws_the_same(tmp_path: Path) -> None:
    model = with_classifier()
    model.save(tmp_path / "model")
    again = Generator.load(tmp_path / "model")
    np.testing.assert_array_equal(again.sample("cat", n=2, steps=3), model.sample("cat", n=2, steps=3))
    assert again.names == NAMES


def test_a_newer_model_is_refused_politely(tmp_path: Path) -> None:
    generator().save(tmp_path)
    facts = tmp_path / "model.json"
    facts.write_text(facts.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="newer gdui"):
        Generator.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": None}, r"model\.json lacks 'names': another gdui wrote it, or it is damaged"),
        ({"null_class": None}, r"model\.json lacks 'null_class'"),
        ({"unet": {"size": 8}}, r"model\.json describes no unet that this gdui knows: .*'size'"),
        ({"unet": 3}, r"model\.json describes no unet that this gdui knows"),
        (
            {"classifier": {"backbone": "small"}},
            r"model\.json describes no classifier that this .*image_size",
        ),
    ],
)
def test_a_model_of_another_version_is_named_with_what_it_lacks(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with_classifier().save(tmp_path)
    facts = tmp_path / "model.json"
    changed = json.loads(facts.read_text()) | change
    facts.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    with pytest.raises(ValueError, match=words):
        Generator.load(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    generator().save(tmp_path)
    facts = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(facts.replace('"width": 32', '"width": 64'))
    with pytest.raises(ValueError, match=r"model.safetensors doesn't fit a network of these flags: .* wanted"):
        Generator.load(tmp_path)
    (tmp_path / "model.json").write_text(facts)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"unet": 1}))
    with pytest.raises(ValueError, match="is not a readable weights file"):
        Generator.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json is damaged"):
        Generator.load(tmp_path)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"classes": "fish"}, "not 'fish'"),
        ({"classes": "cat", "n": 0}, "n must be at least 1"),
        ({"classes": "cat", "steps": 0}, "steps must be at least 1"),
        ({"classes": "cat", "steps": 51}, "between 1 and the 50"),
        ({"classes": "cat", "method": "euler"}, "'euler'"),
        ({"classes": "cat", "guide": "classifier", "guidance": 1.0}, "needs a classifier"),
        ({"guidance": 2.0}, "guidance needs a named class"),
        ({"classes": ["cat", "dog"], "n": [1, 2, 3]}, "one for each of the 2 classes, not 3"),
        ({"classes": ["cat", "dog"], "guidance": [1.0]}, "one for each of the 2 classes, not 1"),
        ({"classes": "cat", "guide": "auto", "guidance": 1.0}, "needs a weaker network"),
        ({"classes": "cat", "guide": "magic", "guidance": 1.0}, "guide must be one of 'classifier'"),
        ({"classes": []}, "at least one class"),
        ({"classes": "cat", "eta": -0.5}, "eta must be between 0 and 1, not -0.5"),
        ({"classes": "cat", "guidance": math.nan}, "guidance must be between"),
    ],
)
def test_mistakes_are_named(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generator().sample(**asked)


def test_a_model_without_classes_says_so() -> None:
    unet = UNet(preset("tiny", width=32))
    fill(unet)
    model = generator(unet=unet.eval())
    assert model.sample(n=2, steps=2).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="knows no classes"):
        model.sample("cat", steps=2)
    for classes in (None, "cat"):
        with pytest.raises(ValueError, match="guidance needs a named class, and a classifier or a network trained"):
            model.sample(classes, steps=2, guidance=2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 16}, "weaker must have the same image_size as this model, 8, not 16"),
        ({"channels": 1}, "weaker must have the same channels as this model, 3, not 1"),
        ({"classes": None}, "weaker must have the same classes as this model, 3, not None"),
    ],
)
def test_a_weaker_model_of_another_preset_is_refused(change: dict[str, Any], words: str) -> None:
    weaker = generator(unet=UNet(preset("tiny", **{"width": 32, "classes": 3} | change)))
    with pytest.raises(ValueError, match=words):
        generator().sample("cat", steps=2, weaker=weaker)


def test_seeds_depend_on_class_and_place_alone() -> None:
    seeds = image_seeds(3, np.array([0, 0, 1, 0]))
    assert len(set(seeds.tolist())) == 4
    assert image_seeds(3, np.array([1])).tolist() == [seeds[2]]
    assert (image_seeds(4, np.array([0, 0, 1, 0])) != seeds).all()
