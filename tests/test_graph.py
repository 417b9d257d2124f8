"""The graph of neighbours: votes diffused over it, its modes, and the consensus they settle on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui.labeling import consensus, graph
from gdui.labeling.neighbors import neighbors


def lumps(sizes: list[int], spread: float = 0.3, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = 2 * random.standard_normal((len(sizes), d))
    return (centres[truth] + spread * random.standard_normal((len(truth), d))).astype(np.float32), truth


def dense(near: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    full = np.zeros((len(near), len(near)))
    for row, (others, weights) in enumerate(zip(near, similarity, strict=True)):
        for column, weight in zip(others, weights, strict=True):
            if row != column and weight > 0:
                full[row, column] += weight**2
                full[column, row] += weight**2
    return full


def test_graph_and_diffusion_equal_the_dense_formula() -> None:
    features, truth = lumps([7, 11, 5])
    near = neighbors(features, 4)
    web = graph.adjacency(near.indices, near.similarity)
    full = dense(near.indices, near.similarity)
    np.testing.assert_allclose(web.toarray(), full, rtol=1e-5)
    votes = np.eye(3, dtype=np.float32)[truth] * (truth != 1)[:, None]
    field = votes.astype(np.float64)
    walk = full / full.sum(1, keepdims=True)
    for _ in range(5):
        field = 0.7 * walk @ field + 0.3 * votes
    np.testing.assert_allclose(graph.diffuse(web, votes, steps=5, keep=0.3), field, atol=1e-5)


def test_pinned_images_keep_their_votes() -> None:
    features, truth = lumps([30, 30])
    near = neighbors(features, 6, include_self=False)
    votes, pinned = np.eye(2, dtype=np.float32)[truth], np.array([50, 3])
    votes[pinned] = 1 - votes[pinned]
    field = graph.diffuse(graph.adjacency(near.indices, near.similarity), votes, pinned=pinned)
    np.testing.assert_array_equal(field[pinned], votes[pinned])
    moved = np.setdiff1d(np.arange(60), pinned)
    assert (field[moved] != votes[moved]).any(axis=1).mean() > 0.2


def test_islands_keep_their_votes() -> None:
    near = np.array([[1], [0], [2]])
    web = graph.adjacency(near, np.array([[0.9], [0.9], [1.0]], np.float32))
    votes = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    np.testing.assert_array_equal(graph.diffuse(web, votes), votes)
    assert np.isfinite(graph.modes(web, 2)).all()


def test_modes_part_what_no_edge_joins() -> None:
    features, truth = lumps([30, 40, 50])
    near = neighbors(features, 6, include_self=False)
    found = graph.modes(graph.adjacency(near.indices, near.similarity), 3)
    same = found @ found.T
    assert same[truth[:, None] == truth].min() > 0.99
    assert np.abs(same[truth[:, None] != truth]).max() < 0.05


def test_cluster_votes_are_shares() -> None:
    votes, cluster = np.array([0, 0, 1, 2]), np.array([3, 3, 3, 0])
    expected = np.array([[2 / 3, 1 / 3, 0]] * 3 + [[0, 0, 1]], np.float32)
    np.testing.assert_allclose(graph.cluster_votes(votes, cluster, 3), expected, rtol=1e-6)


def test_modularity_prefers_the_true_clusters() -> None:
    features, truth = lumps([40, 40, 40])
    near = neighbors(features, 5, include_self=False).indices
    assert graph.modularity(truth, near) > graph.modularity(truth // 2, near)
    assert graph.modularity(truth, near) > graph.modularity(np.arange(120) % 6, near)
    assert graph.modularity(np.zeros(120, int), near) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_balance_gives_every_class_its_share(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    field = random.random((300, classes)).astype(np.float32) + 0.05
    shares = random.random(classes) + 0.5
    shares /= shares.sum()
    balanced = consensus.balance(field, shares)
    np.testing.assert_allclose(balanced.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(balanced.mean(0), shares, atol=1e-3)


def test_balanced_labels_are_the_largest_of_a_balanced_field() -> None:
    random = np.random.default_rng(0)
    field, shares = random.dirichlet(np.full(40, 0.2), 20_000).astype(np.float32), random.dirichlet(np.full(40, 5.0))
    label = consensus.balanced_labels(field, shares)
    assert (label == consensus.balance(field, shares).argmax(axis=1)).mean() > 0.9999


def test_estimated_shares_are_those_of_the_definition() -> None:
    field = np.random.default_rng(0).dirichlet(np.full(50, 0.2), 3000).astype(np.float32)
    top = 3000 // 200
    summit = np.sort(field, axis=0)[-top:].mean(axis=0)
    counts = np.bincount((field / summit).argmax(axis=1), minlength=50) + 1.0
    np.testing.assert_allclose(consensus.estimated_shares(field), counts / counts.sum(), atol=1 / 3000)


def test_information_of_a_labelling_on_itself_is_its_entropy() -> None:
    label = np.repeat([0, 1, 2, 3], 25)
    assert consensus.information(label, label, 4) == pytest.approx(np.log(4))
    assert consensus.information(label, np.tile(np.arange(25) % 5, 4), 5) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("sizes", "equal"), [([100, 100, 100], True), ([250, 40, 20], False)])
def test_shares_are_unequal_only_where_the_witnesses_say_so(sizes: list[int], equal: bool) -> None:
    features, truth = lumps(sizes)
    near = neighbors(features, 10, include_self=False)
    random = np.random.default_rng(1)
    votes = np.where(random.random(len(truth)) < 0.2, random.integers(0, 3, len(truth)), truth)
    field = graph.diffuse(graph.adjacency(near.indices, near.similarity), np.eye(3, dtype=np.float32)[votes])
    settled = consensus.settle(field, votes, near.indices)
    assert np.allclose(settled.shares, 1 / 3) == equal
    assert (settled.field.argmax(1) == truth).mean() > 0.97


def test_a_class_its_images_do_not_vote_for_is_absent() -> None:
    label, votes = np.repeat([0, 1, 2], 100), np.repeat([0, 1, 1], 100)
    assert consensus.absent(label, votes, 3).tolist() == [False, False, True]
    assert not consensus.absent(label, (label + 1) % 3, 3).any()


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"similarity must have the shape of neighbors \(3, 2\), not \(3, 1\)"):
        graph.adjacency(np.zeros((3, 2), int), np.zeros((3, 1), np.float32))
