"""Training learns, goes on after a kill to the same bytes, and stops where it goes wrong."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import assert_alike, newest_digest
from processes import kill_after_first_checkpoint
from trainings import RECIPE, SCHEDULE, losses, pictures, train, undisturbed
from weights import fill

from gdui.diffusion.averages import Averages, follow, followed, put_on, wearing
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.curves import ledger
from gdui.diffusion.losses import classifier_loss, denoiser_loss
from gdui.diffusion.pictures import Pictures
from gdui.diffusion.recipe import Draw, Recipe, draw
from gdui.diffusion.spice import SpiceClassifier, SpiceConfig
from gdui.diffusion.train import Course, DivergedError, train_network
from gdui.diffusion.unet import UNet, preset
from gdui.training.history import History


@pytest.mark.parametrize("change", [{}, {"times": "loss_aware"}, {"intervals": 2, "accumulate": 2}], ids=str)
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **change)
    train(tmp_path / "whole", recipe)
    train(tmp_path / "parts", replace(recipe, steps=3))
    train(tmp_path / "parts", recipe)
    assert newest_digest(tmp_path / "whole") == newest_digest(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_kill_dash_nine_changes_nothing(tmp_path: Path) -> None:
    kill_after_first_checkpoint("trainings", "train", tmp_path / "killed")
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert newest_digest(tmp_path / "killed") == newest_digest(tmp_path / "whole")


def test_who_goes_on_with_other_threads_is_told_that_bytes_may_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps, threads in ((1, 1), (2, 1), (2, 2), (3, 2)):
        assert not caplog.text, "as many threads as before, or nothing left to do"
        torch.set_num_threads(threads)
        train(tmp_path, replace(RECIPE, steps=steps))
    assert f"{tmp_path} goes on with threads 1 -> 2: its last bits may come out otherwise" in caplog.text


def test_an_average_of_weights_has_statistics_of_its_own() -> None:
    network = SpiceClassifier(SpiceConfig(8, 3)).train()
    norm = network.features.bn1
    averages: Averages = {0.5: [value.clone() for value in followed(network)]}
    network(torch.randn(8, 3, 8, 8), torch.zeros(8))
    before, now = torch.zeros_like(norm.running_mean), norm.running_mean.clone()
    follow(averages, followed(network), 100)
    with wearing(network, averages[0.5]):
        torch.testing.assert_close(norm.running_mean, (before + now) / 2)
    torch.testing.assert_close(norm.running_mean, now)
    put_on(network, averages[0.5])
    torch.testing.assert_close(norm.running_mean, (before + now) / 2)


def test_pictures_come_while_the_step_before_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, taken = [threading.Event() for _ in range(RECIPE.steps)], 0
    own = denoiser_loss(SCHEDULE, RECIPE, classes=3)

    def noted(step: int, *given: Any, **how: Any) -> Draw:
        found = draw(step, *given, **how)
        drawn[step].set()
        return found

    def loss(*given: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        assert all(one.wait(60) for one in drawn[: taken + 1])
        return own(*given)

    monkeypatch.setattr("gdui.diffusion.train.draw", noted)
    network = UNet(preset("tiny", width=32, classes=3), null_class=True)
    train_network(network, loss, pictures(), len(SCHEDULE), RECIPE, tmp_path, compile=False)
    told = ledger(tmp_path / "losses.csv")
    assert told["steps"] == RECIPE.steps
    assert 0 <= told["waited"] < told["seconds"]


def test_accumulation_is_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    for accumulate in (1, 4):
        undisturbed(tmp_path / str(accumulate), replace(RECIPE, accumulate=accumulate))
    assert_alike(tmp_path / "1", tmp_path / "4")


def test_pictures_without_a_class_teach_the_row_of_no_class(tmp_path: Path) -> None:
    recipe, rows = replace(RECIPE, steps=1, forget=0.0, warmup=0), []
    for classes in ([0, 1, 2] * 7, [0, 1, -1] * 7):
        network = UNet(preset("tiny", width=32, classes=3), null_class=True)
        fill(network)
        before = network.label_emb.weight.detach().clone()
        told = Pictures(pictures().pixels, np.array(classes), ("a", "b", "c"))
        train_network(
            network, denoiser_loss(SCHEDULE, recipe, classes=3), told, 50, recipe, tmp_path / str(min(classes)),
            compile=False,
        )  # fmt: skip
        rows.append((network.label_emb.weight != before).any(dim=1).tolist())
    assert rows == [[True, True, True, False], [True, True, False, True]]


def test_a_classifier_learns(tmp_path: Path) -> None:
    pixels = np.zeros((40, 8, 8, 1), np.uint8)
    pixels[20:] = 255
    two = Pictures(pixels, np.repeat([0, 1], 20), ("dark", "bright"))
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(8, 32, 1, (1, 2), attention_at=(4,), channels=1, classes=2, head_width=32))
    recipe = Recipe(steps=30, batch=16, warmup=5, rate=2e-3, ema=())
    train_network(network, classifier_loss(SCHEDULE), two, len(SCHEDULE), recipe, tmp_path, compile=False)
    told = [float(loss) for _, loss, _ in losses(tmp_path)[1:]]
    assert np.mean(told[-5:]) < 0.5 * np.mean(told[:3])


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, steps=2))
    network = UNet(preset("tiny", width=32, classes=3, dropout=0.2), null_class=True)

    def broken(*_: object) -> torch.Tensor:
        return next(network.parameters()).sum() * torch.full((8,), torch.nan)

    with pytest.raises(DivergedError, match=r"loss of step 3 is nan.*step 2"):
        train_network(network, broken, pictures(), 50, RECIPE, tmp_path, compile=False)


def test_a_loss_that_climbs_stops_the_run(tmp_path: Path) -> None:
    steps = 0

    def climbing(network: UNet, batch: Any, t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return network(batch.x0, t.float(), batch.classes + 1).square().mean((1, 2, 3)) * 0 + 1.5**steps

    torch.manual_seed(0)
    network, recipe = UNet(preset("tiny", width=32, classes=3), null_class=True), replace(RECIPE, steps=90)
    with pytest.raises(DivergedError, match=r"loss of step 23 is 1.12e\+04, after 17.* at first, .* that of step 22"):
        train_network(network, climbing, pictures(), 50, recipe, tmp_path, compile=False)


def test_one_bad_batch_stops_nothing() -> None:
    course = Course()
    for step in range(1, 1000):
        course.follow(step, 1e9 if step % 100 == 0 else 1.0)
        assert not course.worse


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, steps=2))
    with pytest.raises(ValueError, match=r"rate: 0\.001 -> 0\.5"):
        train(tmp_path, replace(RECIPE, rate=0.5))


@pytest.mark.parametrize("missing", ["course", "times.losses", "ema.0.5.0", "network.out.0.weight"])
def test_a_checkpoint_of_another_version_is_named_with_what_it_lacks(tmp_path: Path, missing: str) -> None:
    train(tmp_path, replace(RECIPE, steps=2))
    found = History(tmp_path).newest()
    assert found is not None
    fewer = {name: value for name, value in found.tensors.items() if name != missing}
    History(tmp_path).save(replace(found, tensors=fewer))
    with pytest.raises(ValueError, match=rf"step-00000002\.safetensors lacks '{missing}': another version of gdui"):
        train(tmp_path)
