"""Training on two ranks is training on one: they share each step, stop together and hear of each other's troubles."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_alike
from processes import run_on_two_ranks
from trainings import RECIPE, SCHEDULE, losses, pictures, undisturbed

from gdui.diffusion.losses import classifier_loss, denoiser_loss
from gdui.diffusion.recipe import draw
from gdui.diffusion.spice import SpiceClassifier, SpiceConfig
from gdui.diffusion.train import train_network
from gdui.diffusion.unet import UNet, preset
from gdui.training.ranks import from_first
from gdui.training.stopping import StoppedError


def test_ranks_hear_of_what_the_first_one_met(tmp_path: Path) -> None:
    run_on_two_ranks("test_train_ranks", "refused_by_the_first", tmp_path / "two")
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
    run_on_two_ranks("test_train_ranks", "stopped_at_two", tmp_path / "two")
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


def test_two_ranks_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("trainings", "undisturbed", tmp_path / "two")
    undisturbed(tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_two_ranks_equal_one_where_batches_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("test_train_ranks", "clustering", tmp_path / "two")
    clustering(tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


def clustering(folder: Path) -> None:
    """A classifier with batch norms learns from half of a batch on each of two ranks, or from all of it on one."""
    torch.manual_seed(0)
    network, recipe = SpiceClassifier(SpiceConfig(8, 3)), replace(RECIPE, mirror=False, forget=0.0)
    train_network(network, classifier_loss(SCHEDULE), pictures(), len(SCHEDULE), recipe, folder, compile=False)


def test_ranks_share_a_step_without_overlap() -> None:
    whole = draw(4, pictures(), RECIPE)
    parts = [draw(4, pictures(), RECIPE, rank=rank, ranks=2) for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.batch.x0, whole.batch.x0[rank::2])
        assert torch.equal(part.seed, whole.seed[rank::2])
        assert (part.quantiles == whole.quantiles[rank::2]).all()
        assert torch.equal(part.batch.classes, whole.batch.classes[rank::2])
