"""MoCo: the same steps as a plain loop's, the same bytes after a kill, the same network from two ranks as from one."""

import copy
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import assert_stopping_loses_nothing, newest_digest
from processes import kill_after_first_checkpoint, run_on_two_ranks

from gdui.labeling.augment import draws
from gdui.labeling.looks import Looks
from gdui.labeling.represent import Contrast, represent
from gdui.spice_config import RepresentConfig
from gdui.training.backbones import NAMES, Backbone, backbone, settle
from gdui.training.history import History
from gdui.training.order import rows_of

SETTINGS = RepresentConfig(backbone="small", epochs=2, batch=16, groups=4, queue=32, width=8, save_every=2)


def pixels(count: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8).repeat(3, axis=3)


def learn(folder: Path, settings: RepresentConfig = SETTINGS, **options: Any) -> Backbone:
    torch.set_num_threads(1)
    return represent(pixels(), Looks.of(pixels()), settings, folder, seed=3, **options)


def plain_steps(steps: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """MoCo as its text says: all logits at once, cross-entropy, one loop over the groups."""
    looks, settings = Looks.of(pixels()), SETTINGS
    state = Contrast.begin(looks, settings, 3, torch.device("cpu"))
    query, key, queue = state.query.train(), state.key.train(), state.queue.clone()
    velocity = [torch.zeros_like(p) for p in query.parameters()]
    for step in range(steps):
        rows = rows_of(step, 48, 16, 3)
        shuffled = np.random.default_rng([3, 1, step]).permutation(16)
        first = looks.views(pixels()[rows], draws(16, 3, 2, step), torch.device("cpu"))
        second = looks.views(pixels()[rows], draws(16, 3, 3, step), torch.device("cpu"))
        q = F.normalize(torch.cat([query(first[at : at + 4]) for at in range(0, 16, 4)]), dim=1)
        k = torch.empty_like(q)
        with torch.no_grad():
            for at in range(0, 16, 4):
                k[shuffled[at : at + 4]] = F.normalize(key(second[shuffled[at : at + 4]]), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / settings.temperature
        F.cross_entropy(logits, torch.zeros(16, dtype=torch.long)).backward()
        rate = settings.rate * min(1, (step + 1) / 20) * 0.5 * (1 + np.cos(np.pi * step / 6))
        with torch.no_grad():
            for p, v, mean in zip(query.parameters(), velocity, key.parameters(), strict=True):
                v.mul_(0.9).add_(p.grad + settings.decay * p)
                p.sub_(rate * v)
                mean.copy_(settings.momentum * mean + (1 - settings.momentum) * p)
        query.zero_grad()
        queue[step % 2 * 16 : step % 2 * 16 + 16] = k
    return {name: p.detach() for name, p in query.named_parameters()}, queue


def test_steps_equal_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    learn(tmp_path)
    saved = History(tmp_path).newest()
    assert saved is not None
    assert saved.step == 6
    plain, queue = plain_steps(6)
    for name, value in plain.items():
        torch.testing.assert_close(saved.tensors[f"query.{name}"], value, atol=1e-4, rtol=1e-3, msg=name)
    torch.testing.assert_close(saved.tensors["queue"], queue, atol=1e-3, rtol=1e-3)


def test_kill_dash_nine_changes_nothing(tmp_path: Path) -> None:
    kill_after_first_checkpoint("test_represent", "learn", tmp_path / "killed")
    one, other = learn(tmp_path / "killed"), learn(tmp_path / "whole")
    assert newest_digest(tmp_path / "killed") == newest_digest(tmp_path / "whole")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_finishes_the_step_and_loses_none(tmp_path: Path, number: signal.Signals) -> None:
    assert_stopping_loses_nothing(learn, tmp_path, number)


def test_a_finished_stage_is_no_news_to_other_threads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learn(tmp_path)
    torch.set_num_threads(2)
    represent(pixels(), Looks.of(pixels()), SETTINGS, tmp_path, seed=3)
    assert not caplog.text, "nothing was left to do"


def test_two_ranks_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("test_represent", "learn", tmp_path / "two")
    learn(tmp_path / "one")
    one, two = History(tmp_path / "one").newest(), History(tmp_path / "two").newest()
    assert one is not None
    assert two is not None
    assert one.step == two.step
    for name, value in one.tensors.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two.tensors[name], value, atol=2e-4, rtol=2e-3, msg=name)


def test_a_queue_never_holds_a_picture_twice(tmp_path: Path) -> None:
    learn(tmp_path, replace(SETTINGS, queue=4096))
    saved = History(tmp_path).newest()
    assert saved is not None
    assert len(saved.tensors["queue"]) == 48


def test_another_heap_or_recipe_is_refused(tmp_path: Path) -> None:
    learn(tmp_path, replace(SETTINGS, epochs=1))
    with pytest.raises(ValueError, match=r"rate: 0\.06 -> 0\.5"):
        learn(tmp_path, replace(SETTINGS, rate=0.5))
    with pytest.raises(ValueError, match="pictures"):
        represent(pixels(40), Looks.of(pixels(40)), SETTINGS, tmp_path, seed=3)


def test_the_network_is_centred_and_takes_the_pictures_own_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    network, looks = learn(tmp_path), Looks.of(pixels())
    features = torch.cat([network(batch) for batch in looks.batches(pixels(), torch.device("cpu"))])
    assert features.mean(0).abs().max() < 1e-4 * features.abs().mean()
    with torch.no_grad():
        expected = network.conv1(looks.plain(pixels(), torch.device("cpu"))).mean((0, 2, 3))
    torch.testing.assert_close(network.bn1.running_mean, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_backbones_take_small_pictures(name: str, channels: int) -> None:
    network = backbone(name, channels).eval()
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, network.dim)
    assert backbone(name, channels, side=64).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, network.dim)


def test_a_resnet_has_the_names_of_torchvision() -> None:
    from torchvision.models import resnet34

    theirs = resnet34().state_dict()
    ours = backbone("resnet34").state_dict()
    assert set(theirs) - set(ours) == {"fc.weight", "fc.bias"}
    assert all(ours[name].shape == theirs[name].shape for name in set(ours) - {"conv1.weight", "center"})


def test_average_takes_the_other_network(tmp_path: Path) -> None:
    one, other = learn(tmp_path / "a"), learn(tmp_path / "b", replace(SETTINGS, average=True))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_settling_needs_no_order() -> None:
    network = backbone("small", 1)
    parts = torch.randn(3, 4, 1, 8, 8)
    first = settle(copy.deepcopy(network), lambda: list(parts))
    second = settle(copy.deepcopy(network), lambda: list(parts.flip(0)))
    torch.testing.assert_close(first.bn1.running_mean, second.bn1.running_mean, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "vgg"}, "represent.backbone"),
        ({"batch": 10}, "represent.batch must be a multiple of represent.groups"),
        ({"temperature": 0.0}, "represent.temperature"),
        ({"size": 4}, "represent.size"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SETTINGS, **change)
    with pytest.raises(ValueError, match="at least two pictures"):
        represent(pixels(1), Looks.of(pixels(1)), SETTINGS, "unused")
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Looks.of(pixels()[..., 0])
