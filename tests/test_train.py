"""Training learns, goes on after a kill to the same bytes, and is the same on two ranks as on one."""

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import assert_alike, assert_stopping_loses_nothing, newest_digest
from processes import kill_after_first_checkpoint, run_on_two_ranks
from weights import fill

from gdui.diffusion.averages import Averages, follow, followed, put_on, wearing
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.curves import ledger
from gdui.diffusion.losses import classifier_loss, denoiser_loss
from gdui.diffusion.pictures import Pictures, store_pixels
from gdui.diffusion.recipe import Draw, Recipe, draw
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.spice import SpiceClassifier, SpiceConfig
from gdui.diffusion.train import Course, DivergedError, Trained, train_network
from gdui.diffusion.unet import UNet, preset
from gdui.training.history import History, Saved
from gdui.training.ranks import from_first
from gdui.training.stopping import StoppedError

RECIPE = Recipe(steps=6, batch=8, warmup=2, ema=(0.5,), forget=0.3, mirror=True, save_every=2, rate=1e-3)
SCHEDULE = Schedule.from_name("cosine", 50)


def pictures(count: int = 21) -> Pictures:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Pictures(pixels, generator.integers(-1, 3, count), ("a", "b", "c"))


def train(folder: Path, recipe: Recipe = RECIPE, progress: Any = None) -> Trained:
    torch.manual_seed(0)
    network = UNet(preset("tiny", width=32, classes=3, dropout=0.2), null_class=True)
    loss = denoiser_loss(SCHEDULE, recipe, classes=3)
    return train_network(network, loss, pictures(), len(SCHEDULE), recipe, folder, compile=False, progress=progress)


def losses(folder: Path) -> list[list[str]]:
    """Step, loss and gradient's norm of every line; what follows are times."""
    return [line.split(",")[:3] for line in (folder / "losses.csv").read_text().splitlines()]


@pytest.mark.parametrize("change", [{}, {"times": "loss_aware"}, {"intervals": 2, "accumulate": 2}], ids=str)
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **change)
    train(tmp_path / "whole", recipe)
    train(tmp_path / "parts", replace(recipe, steps=3))
    train(tmp_path / "parts", recipe)
    assert newest_digest(tmp_path / "whole") == newest_digest(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_kill_dash_nine_changes_nothing(tmp_path: Path) -> None:
    kill_after_first_checkpoint("test_train", "train", tmp_path / "killed")
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


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_finishes_the_step_and_loses_none(tmp_path: Path, number: signal.Signals) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert_stopping_loses_nothing(train, tmp_path, number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.usefixtures("ears")
def test_who_asks_while_the_last_checkpoint_is_written_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = History.save

    def saved_then_asked(self: History, saved: Saved) -> None:
        save(self, saved)
        if saved.step == RECIPE.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(History, "save", saved_then_asked)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert train(tmp_path).step == RECIPE.steps, "the last step was kept"


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("moment", ["step", "tensors", "seal"])
def test_who_is_asked_twice_leaves_at_once_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def ask(*_: Any, **__: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return ""

    def ask_twice(*_: Any) -> None:
        ask()
        ask()

    with monkeypatch.context() as patched:
        if moment != "step":
            patched.setattr(f"gdui.training.history.{'_digest' if moment == 'tensors' else 'json.dumps'}", ask)
        with pytest.raises(KeyboardInterrupt) as ended:
            train(tmp_path / "stopped", progress=ask_twice if moment == "step" else ask)
    assert not isinstance(ended.value, StoppedError)
    left = {path.name for path in (tmp_path / "stopped").iterdir()} - {"tensorboard"}
    assert left == {"losses.csv", *(["step-00000001.safetensors"] if moment == "seal" else [])}
    train(tmp_path / "stopped", replace(RECIPE, keep=9))
    train(tmp_path / "whole", replace(RECIPE, keep=9))
    assert newest_digest(tmp_path / "stopped") == newest_digest(tmp_path / "whole")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    names = [sorted(path.name for path in (tmp_path / one).glob("step-*")) for one in ("stopped", "whole")]
    assert names[0] == names[1]


def test_ranks_hear_of_what_the_first_one_met(tmp_path: Path) -> None:
    run_on_two_ranks("test_train", "refused_by_the_first", tmp_path / "two", port=29718)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["0", "1"]


def refused_by_the_first(folder: Path) -> None:
    """One of two ranks, of which the first alone finds fault with something."""
    rank = torch.distributed.get_rank()

    def refuse() -> None:
        raise ValueError(f"found by {rank}")

    class OfWordsError(Exception):
        """Can't be pickled: it is made of other words than it says."""

        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} {second}")

    def refuse_otherwise() -> None:
        raise OfWordsError("never", "mind")

    with pytest.raises(ValueError, match="found by 0"):
        from_first(refuse)
    with pytest.raises(RuntimeError, match="OfWordsError: never mind"):
        from_first(refuse_otherwise)
    assert from_first(lambda: rank) == 0
    folder.mkdir(exist_ok=True)
    (folder / str(rank)).touch()


def test_ranks_stop_together_whichever_is_asked(tmp_path: Path) -> None:
    run_on_two_ranks("test_train", "stopped_at_two", tmp_path / "two", port=29715)
    assert sorted(path.name for path in (tmp_path / "two").glob("*.json")) == ["step-00000002.json"]
    assert [step for step, *_ in losses(tmp_path / "two")] == ["step", "1", "2"]


def stopped_at_two(folder: Path) -> None:
    """The second of two ranks is asked to stop in its second step."""
    own, taken = denoiser_loss(SCHEDULE, RECIPE, classes=3), 0

    def loss(*given: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if torch.distributed.get_rank() and taken == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*given)

    torch.manual_seed(0)
    network, recipe = UNet(preset("tiny", width=32, classes=3), null_class=True), replace(RECIPE, save_every=99)
    with pytest.raises(StoppedError):
        train_network(network, loss, pictures(), len(SCHEDULE), recipe, folder, compile=False)


@pytest.mark.parametrize("text", ["", "step,lo", "step,loss\n", "step,loss\n1,0.5\n"])
def test_a_table_of_losses_before_the_first_checkpoint_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "losses.csv").write_text(text)
    history = History(tmp_path)
    assert history.resume({}, 1) is None
    history.record(step=1, loss=0.25)
    assert losses(tmp_path) == [["step", "loss", "gradient_norm"], ["1", "0.25", ""]]


def test_two_ranks_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("test_train", "undisturbed", tmp_path / "two", port=29713)
    undisturbed(tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


def undisturbed(folder: Path, recipe: Recipe = RECIPE) -> None:
    """A run without dropout, in float32: its sums may be taken in any order."""
    torch.manual_seed(0)
    network = UNet(preset("tiny", width=32, classes=3), null_class=True)
    loss = denoiser_loss(SCHEDULE, recipe, classes=3)
    train_network(network, loss, pictures(), len(SCHEDULE), recipe, folder, compile=False)


def test_two_ranks_equal_one_where_batches_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("test_train", "clustering", tmp_path / "two", port=29716)
    clustering(tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


def clustering(folder: Path) -> None:
    """A classifier with batch norms learns from half of a batch on each of two ranks, or from all of it on one."""
    torch.manual_seed(0)
    network, recipe = SpiceClassifier(SpiceConfig(8, 3)), replace(RECIPE, mirror=False, forget=0.0)
    train_network(network, classifier_loss(SCHEDULE), pictures(), len(SCHEDULE), recipe, folder, compile=False)


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


def test_an_epoch_shows_every_picture_once() -> None:
    seen = pictures(24)
    pixels = np.arange(24, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    numbered = Pictures(pixels, seen.classes, seen.names)
    drawn = [draw(step, numbered, RECIPE).batch.x0[:, 0, 0, 0] for step in range(3)]
    shown = ((torch.cat(drawn) + 1) * 127.5).round().int()
    assert sorted(shown.tolist()) == list(range(24))


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


def test_ranks_share_a_step_without_overlap() -> None:
    whole = draw(4, pictures(), RECIPE)
    parts = [draw(4, pictures(), RECIPE, rank=rank, ranks=2) for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.batch.x0, whole.batch.x0[rank::2])
        assert torch.equal(part.seed, whole.seed[rank::2])
        assert (part.quantiles == whole.quantiles[rank::2]).all()
        assert torch.equal(part.batch.classes, whole.batch.classes[rank::2])


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": None}, r"step-00000002\.json lacks 'sha256': another version of gdui wrote it"),
        ({"facts": None}, r"step-00000002\.json lacks 'facts'"),
        ({"facts": {}}, r"step-00000002\.json lacks 'recipe'"),
        ({"version": 2}, r"step-00000002\.json was written by a newer gdui \(checkpoint version 2, known 1\)"),
    ],
)
def test_a_seal_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    history = History(tmp_path)
    history.save(Saved(2, {"recipe": {}}, {"w": torch.zeros(1)}))
    path = tmp_path / "step-00000002.json"
    changed = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    with pytest.raises(ValueError, match=words):
        history.resume({}, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"step": 2, '])
def test_a_seal_that_is_no_json_is_passed_over(tmp_path: Path, text: str) -> None:
    history = History(tmp_path)
    for step in (1, 2):
        history.save(Saved(step, {}, {"w": torch.zeros(1)}))
    (tmp_path / "step-00000002.json").write_text(text)
    found = history.newest()
    assert found is not None
    assert found.step == 1


def test_a_flipped_bit_sends_a_run_back_one_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path)
    for step in (1, 2):
        history.save(Saved(step, {}, {"w": torch.full((4,), float(step))}))
    path = tmp_path / "step-00000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = history.newest()
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in caplog.text


def test_tensorboard_gets_the_losses_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((Path(folder).name, purge_step))

        def add_scalar(self, *value: Any) -> None:
            told.append(value)

        def flush(self) -> None:
            told.append(("flushed",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    history = History(tmp_path)
    history.record(step=7, loss=0.5)
    history.save(Saved(7, {}, {"w": torch.zeros(1)}))
    assert told == [("tensorboard", 7), ("step", 7, 7), ("loss", 0.5, 7), ("flushed",)]
    assert (tmp_path / "losses.csv").read_text().splitlines()[1] == "7,0.5,,,,,"


def test_without_tensorboard_the_table_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    History(tmp_path).record(step=1, loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["losses.csv"]


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    history = History(tmp_path, keep=2)
    for step in range(5):
        history.save(Saved(step, {}, {"w": torch.zeros(1)}))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"step-0000000{step}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
    ]


def test_a_store_is_whole_or_absent(tmp_path: Path) -> None:
    blocks = [(np.arange(value - 1, 6, 2), np.full((3, 2, 2, 3), value, np.uint8)) for value in (1, 2)]
    store = store_pixels(tmp_path / "pixels.npy", 6, (2, 2, 3), blocks)
    assert store[:, 0, 0, 0].tolist() == [1, 2, 1, 2, 1, 2]
    with pytest.raises(ValueError, match="was to hold 7 pictures, but 6 came"):
        store_pixels(tmp_path / "short.npy", 7, (2, 2, 3), blocks)
    assert not (tmp_path / "short.npy").exists()


@pytest.mark.parametrize(
    ("pixels", "classes", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), [0, 0], "shape"),
        (np.zeros((2, 8, 8, 3)), [0, 0], "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), [], "at least one"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, 5], "below 2"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0], "2 entries"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pixels: np.ndarray, classes: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pictures(pixels, np.array(classes, np.int64), ("a", "b"))
