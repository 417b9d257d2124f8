"""Which images are reliable, against the dense definition, and a training step against equation 9 written out."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import assert_stopping_loses_nothing
from processes import run_on_two_ranks

from gdui.labeling.augment import draws
from gdui.labeling.cluster import Heads
from gdui.labeling.joint import Head, Reliable, choose, train_jointly
from gdui.labeling.looks import Looks
from gdui.labeling.neighbors import consistency
from gdui.spice_config import JointConfig
from gdui.training.backbones import backbone
from gdui.training.history import History
from gdui.training.order import rows_of

SETTINGS = JointConfig(epochs=2, batch=8, groups=2, save_every=2, threshold=0.3, rate=0.05)


def dense_reliable(features: np.ndarray, cluster: np.ndarray, reach: int, bar: float) -> np.ndarray:
    """Eq. 7 and 8 by the whole table of cosines."""
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit.T), axis=1, kind="stable")[:, :reach]
    return np.flatnonzero((cluster[near] == cluster[:, None]).mean(1) >= bar)


@pytest.mark.parametrize("seed", range(4))
def test_the_reliable_are_those_of_the_dense_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, 300)
    features = (random.standard_normal((5, 12))[truth] + 0.4 * random.standard_normal((300, 12))).astype(np.float32)
    cluster = np.where(random.random(300) < 0.1, random.integers(0, 5, 300), truth)
    settings = replace(SETTINGS, consistency=0.6, least=0.0)
    found = choose(consistency(features, cluster, 20), cluster, np.ones(300), 5, settings)
    expected = dense_reliable(features, cluster, 20, 0.6)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.cluster, cluster[expected])
    assert 0 < len(expected) < 300


def test_no_cluster_is_left_without_a_teacher(caplog: pytest.LogCaptureFixture) -> None:
    cluster = np.repeat([0, 1, 2], [50, 20, 7])
    agree = np.concatenate([np.full(50, 0.95), np.linspace(0.1, 0.5, 20), np.full(7, 0.2)])
    found = choose(agree, cluster, np.linspace(0, 1, 77), 3, SETTINGS)
    assert np.bincount(found.cluster).tolist() == [50, 2, 1]
    assert found.rows[50:].tolist() == [68, 69, 76]
    assert found.bar[0] == 0.9
    assert found.bar[1] == pytest.approx(agree[68])
    assert "clusters 1, 2 had too few reliable images" in caplog.text


def test_paper_asks_for_sure_images_and_equal_numbers() -> None:
    cluster = np.repeat([0, 1], [40, 40])
    sure = np.concatenate([np.linspace(0.98, 1, 40), np.linspace(0.9, 1, 40)])
    found = choose(np.ones(80), cluster, sure, 2, replace(SETTINGS, confidence=0.99, balance=True))
    assert np.bincount(found.cluster).tolist() == [4, 4]
    assert found.rows.tolist() == [36, 37, 38, 39, 76, 77, 78, 79]


def test_given_labels_join_whatever_their_neighbours_say() -> None:
    cluster, given = np.repeat([0, 1], 10), np.full(20, -1)
    given[[0, 19]] = [1, 0]
    agree = np.concatenate([[0.0], np.ones(18), [0.0]])
    found = choose(agree, cluster, np.ones(20), 2, SETTINGS, given)
    assert dict(zip(found.rows.tolist(), found.cluster.tolist(), strict=True)) == {
        row: {0: 1, 19: 0}.get(row, int(cluster[row])) for row in range(20)
    }


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


def parts() -> tuple[torch.nn.Module, Head, Looks, Reliable]:
    torch.manual_seed(0)
    random = np.random.default_rng(1)
    shapes = ((128, 16), (1, 16), (16, 3), (1, 3))
    head = Head(*(random.standard_normal(shape).astype(np.float32) for shape in shapes))
    taught = Reliable(np.arange(0, 24, 2), np.arange(12) % 3, np.full(3, 0.9))
    return backbone("small").eval(), head, Looks.of(pixels()), taught


def train(folder: Path, epochs: int = 2, **options: Any) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    trunk, head, looks, taught = parts()
    settings = replace(SETTINGS, epochs=epochs)
    trained = train_jointly(trunk, head, pixels(), looks, taught, settings, folder, seed=5, **options)
    return {f"{at}.{name}": value for at, part in enumerate(trained) for name, value in part.state_dict().items()}


def test_a_step_is_equation_9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    train(tmp_path)
    recorded = float((tmp_path / "losses.csv").read_text().splitlines()[1].split(",")[1])
    trunk, head, looks, taught = parts()
    place = torch.device("cpu")
    some, all_ = rows_of(0, 12, 8, 5), rows_of(0, 24, 8, 6)
    seen = [
        looks.views(pixels()[rows], draws(8, 5, 10 + which, 0), place, how)
        for which, (rows, how) in enumerate([(taught.rows[some], looks.weak), (all_, looks.weak), (all_, looks.strong)])
    ]
    trunk.train()
    loss = 0.0
    for first in (0, 4):
        logits = head(trunk(torch.cat([one[first : first + 4] for one in seen])))
        for row in range(4):
            loss -= float(F.log_softmax(logits[row], 0)[taught.cluster[some[first + row]]])
            weak = F.softmax(logits[4 + row], 0)
            if weak.max() >= 0.3:
                loss -= float(F.log_softmax(logits[8 + row], 0)[weak.argmax()])
    assert recorded == pytest.approx(loss / 8, rel=1e-4)


def test_two_ranks_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_PRECISION", "float32")
    run_on_two_ranks("test_joint", "train", tmp_path / "two")
    train(tmp_path / "one")
    one, two = History(tmp_path / "one").newest(), History(tmp_path / "two").newest()
    assert one is not None
    assert two is not None
    assert one.step == two.step == 6
    for name, value in one.tensors.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two.tensors[name], value, atol=2e-4, rtol=2e-3, msg=name)


def test_other_teachers_are_another_recipe(tmp_path: Path) -> None:
    train(tmp_path)
    trunk, head, looks, taught = parts()
    others = taught._replace(cluster=taught.cluster[::-1].copy())
    with pytest.raises(ValueError, match="begun with another recipe: reliable"):
        train_jointly(trunk, head, pixels(), looks, others, SETTINGS, tmp_path, seed=5)


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", epochs=2)
    for left in (tmp_path / "parts").glob("step-00000006.*"):
        left.unlink()
    again = train(tmp_path / "parts")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.usefixtures("ears")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_finishes_the_step_and_loses_none(tmp_path: Path, number: signal.Signals) -> None:
    assert_stopping_loses_nothing(train, tmp_path, number)


def test_a_head_is_stage_2s() -> None:
    random = np.random.default_rng(2)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in ((6, 5), (1, 5), (5, 3), (1, 3))]
    rows = random.standard_normal((7, 6)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    torch.testing.assert_close(Head(*arrays)(torch.from_numpy(rows)), Heads(*arrays)(unit))
    for kept, came in zip(Head(*arrays).arrays(), arrays, strict=True):
        np.testing.assert_array_equal(kept, came.reshape(kept.shape))
