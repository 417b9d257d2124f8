"""Bytes do not depend on the number of threads: of products, of models learned, of vectors, of labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from gdui.images import Transform
from gdui.labeling import consensus, graph, linear, ordered
from gdui.labeling.encoders import clip_encoder
from gdui.labeling.labeler import Labeler
from gdui.labeling.neighbors import neighbors

WIDE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 256, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
THREADS = (1, 2, 3)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """A machine of so many cores, as every library sees it."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(count):
        patch.setenv("GDUI_THREADS", str(count))
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def lumps(n: int = 3000, d: int = 40) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    truth = random.integers(0, 6, n)
    rows = 1.2 * random.standard_normal((6, d))[truth] + random.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def test_a_piece_of_work_has_one_thread_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDUI_THREADS", "3")
    before = [pool["num_threads"] for pool in threadpool_info()], torch.get_num_threads()
    with ordered.one_thread_each() as each:
        assert each(lambda _: torch.get_num_threads(), range(9)) == [1] * 9
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert ([pool["num_threads"] for pool in threadpool_info()], torch.get_num_threads()) == before
    assert [len(range(30_000)[block]) for block in ordered.blocks(30_000)] == [8192, 8192, 8192, 5424]


def test_modes_are_the_slowest_of_the_walk() -> None:
    rows, _ = lumps(300)
    near = neighbors(rows, 9, include_self=False)
    web = graph.adjacency(near.indices, near.similarity)
    found = graph.modes(web, 6, rounds=200)
    degree = web.sum(axis=1) ** -0.5
    _, vectors = np.linalg.eigh(web.toarray() * degree[:, None] * degree)
    slowest = vectors[:, ::-1][:, :6]
    slowest /= np.linalg.norm(slowest, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, slowest @ slowest.T, atol=2e-3)


def test_the_linear_model_is_where_its_gradient_vanishes() -> None:
    rows, truth = lumps(500)
    model = linear.fit_linear(rows, truth, 6, decay=1e-2, rounds=300)
    odds = rows @ model.weight + model.bias
    chance = np.exp(odds - odds.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    gradient = rows.T @ (chance - np.eye(6)[truth]) / len(rows) + 1e-2 * model.weight
    assert np.abs(gradient).max() < 1e-4


def test_what_is_learned_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "BLOCK", 700)
    rows, truth = lumps()
    near = neighbors(rows, 15, include_self=False)
    web = graph.adjacency(near.indices, near.similarity)
    outcomes = set()
    for count in THREADS:
        with threads(count):
            made = [graph.modes(web, 12), graph.diffuse(web, np.eye(6, dtype=np.float32)[truth])]
            made.append(consensus.balance(made[1], np.arange(1, 7) / 21))
            for many in (linear.MANY, 6):
                with monkeypatch.context() as patch:
                    patch.setattr(linear, "MANY", many)
                    model = linear.fit_linear(rows, truth, 6, decay=1e-3, rounds=30)
                made += [model.weight, model.bias]
            outcomes.add(b"".join(array.tobytes() for array in made))
    assert len(outcomes) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_do_not_depend_on_threads(dtype: str) -> None:
    torch.manual_seed(0)
    options = {"transform": Transform(size=64), "dtype": dtype, "device": "cpu"}
    encoder = clip_encoder(
        open_clip.CLIP(**WIDE), partial(open_clip.tokenize, context_length=16), name="wide", **options
    )
    pixels = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)
    outcomes = set()
    for count in THREADS:
        with threads(count):
            outcomes.add(encoder.encode_images(pixels).tobytes() + encoder.encode_texts(["a cat"] * 70).tobytes())
    assert len(outcomes) == 1


def test_labels_do_not_depend_on_threads() -> None:
    rows, truth = lumps()
    random = np.random.default_rng(1)
    voted = np.where(random.random(len(truth)) < 0.3, random.integers(0, 6, len(truth)), truth)
    opinions = random.standard_normal((len(truth), 6)) + 4 * np.eye(6)[voted]
    outcomes = []
    for count in THREADS:
        with threads(count):
            outcomes.append(Labeler(list("abcdef"), fit_rows=2000).fit_predict(features=rows, opinions=opinions))
    assert all(found.table.equals(outcomes[0].table) for found in outcomes)
    assert all(found.facts.to_json() == outcomes[0].facts.to_json() for found in outcomes)
