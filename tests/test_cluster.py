"""SPICE's heads against the plain algorithm, and what is kept of clusters."""

import numpy as np
import pytest
import torch

from gdui.evaluation.agreement import mapped_accuracy
from gdui.labeling import cluster
from gdui.labeling.cluster import (
    Centroids,
    _forward,
    _in_common,
    _initial,
    assign,
    fit_centroids,
    fit_heads,
    pseudo_labels,
    scaled,
)


def lumps(per: int = 60, k: int = 4, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(k), per)
    rows = random.standard_normal((k, d))[truth] + 0.15 * random.standard_normal((k * per, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def plain_pseudo_labels(features: np.ndarray, scores: np.ndarray, share: float) -> list[set[int]]:
    """Prototype by prototype, as SPICE's text says."""
    size = len(features) // scores.shape[1]
    chosen = []
    for k in range(scores.shape[1]):
        best = np.argsort(-scores[:, k], kind="stable")[: int(size * share)]
        prototype = features[best].mean(0)
        chosen.append(set(np.argsort(-(features @ prototype), kind="stable")[:size].tolist()))
    return chosen


def test_pseudo_labels_equal_the_plain_algorithm() -> None:
    features, _ = lumps()
    scores = np.random.default_rng(1).random((len(features), 4)).astype(np.float32)
    found = pseudo_labels(torch.from_numpy(features), torch.from_numpy(scores)).tolist()
    assert [set(row) for row in found] == plain_pseudo_labels(features, scores, 0.5)


def plain_heads(features: np.ndarray, k: int, heads: int, hidden: int, batch: int, step: int, epochs: int) -> list:
    """Stage 2 head by head, each with its own network, optimiser and loop; random choices in the same order."""
    random = torch.Generator().manual_seed(0)
    rows, d = torch.from_numpy(features), features.shape[1]
    first, _, second, bias = (value.detach() for value in _initial(heads, rows, hidden, k, random))
    networks = [
        torch.nn.Sequential(torch.nn.Linear(d, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, k))
        for _ in range(heads)
    ]
    for h, network in enumerate(networks):
        network.load_state_dict(
            {"0.weight": first[h].T, "0.bias": torch.zeros(hidden), "2.weight": second[h].T, "2.bias": bias[h, 0]}
        )
    descents = [torch.optim.Adam(network.parameters(), lr=0.005) for network in networks]
    for _ in range(epochs):
        losses = [[] for _ in range(heads)]
        for chosen in torch.randperm(len(rows), generator=random).tensor_split(-(-len(rows) // batch)):
            x, size = rows[chosen], len(chosen) // k
            members = []
            for network in networks:
                scores = network(x).softmax(1).detach().numpy()
                best = np.argsort(-scores, axis=0, kind="stable")[: size // 2].T
                prototypes = np.stack([x[b].mean(0).numpy() / np.linalg.norm(x[b].mean(0)) for b in best])
                members.append(np.argsort(-(x.numpy() @ prototypes.T), axis=0, kind="stable")[:size].T.reshape(-1))
            for part in torch.randperm(k * size, generator=random).split(step):
                for h, network in enumerate(networks):
                    target = torch.from_numpy(np.arange(k).repeat(size))[part]
                    loss = torch.nn.functional.cross_entropy(network(x[members[h][part.numpy()]]).softmax(1), target)
                    descents[h].zero_grad()
                    loss.backward()
                    descents[h].step()
                    losses[h].append(loss.item())
    return [(network, np.mean(one)) for network, one in zip(networks, losses, strict=True)]


def test_stage_2_equals_a_plain_loop_over_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdui.labeling.cluster._revive", lambda weights, sizes, random: torch.zeros(len(sizes)).long())
    features, _ = lumps()
    sizes = {"heads": 3, "hidden": 16, "batch": 120, "step": 32, "epochs": 3}
    plain, fit = plain_heads(features, 4, **sizes), fit_heads(features, 4, **sizes, seed=0)
    np.testing.assert_allclose(fit.losses, [loss for _, loss in plain], rtol=1e-4)
    kept = plain[fit.kept][0](torch.from_numpy(features))
    torch.testing.assert_close(fit.model(features), kept, atol=1e-3, rtol=1e-3)


def fitted(seed: int = 0, k: int = 4, epochs: int = 6):
    return fit_heads(lumps()[0], k, heads=3, hidden=32, batch=128, step=32, epochs=epochs, seed=seed)


def test_no_cluster_begins_empty() -> None:
    features = torch.from_numpy(lumps(k=10)[0])
    weights = _initial(20, features, 64, 10, torch.Generator().manual_seed(0))
    logits = _forward(weights, features)
    torch.testing.assert_close(logits.mean(1), torch.zeros(20, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.var(1, correction=0), torch.ones(20, 10), atol=1e-3, rtol=0)
    sizes = torch.nn.functional.one_hot(logits.argmax(2), 10).sum(1)
    assert (sizes == 0).float().mean() < 0.02


def test_heads_find_the_lumps_and_keep_the_lowest_loss() -> None:
    features, truth = lumps()
    fit = fitted()
    groups = assign(fit.model, features).cluster
    assert fit.kept == fit.losses.argmin()
    assert all(len(set(groups[truth == c])) == 1 for c in range(4))
    assert len(set(groups)) == 4


def test_a_small_heap_is_passed_over_until_the_steps_are_made() -> None:
    sizes = {"heads": 2, "hidden": 16, "batch": 240, "step": 100, "seed": 0}
    features, _ = lumps()
    steps = -(-len(features) // 100)
    more, epochs = (
        fit_heads(features, 4, epochs=1, least_steps=3 * steps - 1, **sizes),
        fit_heads(features, 4, epochs=3, **sizes),
    )
    np.testing.assert_array_equal(more.model.out, epochs.model.out)


def test_a_head_may_learn_clusters_and_be_chosen_by_their_worth() -> None:
    features, truth = lumps()
    sizes = {"heads": 4, "hidden": 32, "batch": 240, "step": 32, "epochs": 2}
    fit = fit_heads(features, 4, **sizes, given=[truth], worth=lambda found: float((found == truth).mean()))
    assert fit.kept == 0
    np.testing.assert_array_equal(assign(fit.model, features).cluster, truth)


def one_hot_head(cluster: np.ndarray, sure: float, k: int = 3) -> list[torch.Tensor]:
    """A head that says `cluster` of each row of the identity."""
    n = len(cluster)
    said = sure * torch.nn.functional.one_hot(torch.from_numpy(cluster), k).float()
    return [torch.eye(n), torch.zeros(1, n), said, torch.zeros(1, k)]


def test_what_heads_say_together_is_told_to_each_in_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One errs in an image, another numbers the clusters otherwise; a block holds one image."""
    monkeypatch.setattr("gdui.labeling.cluster.BLOCK_CELLS", 1)
    truth = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    turned, wrong = np.array([2, 0, 1])[truth], truth.copy()
    wrong[0] = 1
    said = [one_hot_head(wrong, 4), one_hot_head(turned, 4), one_hot_head(truth, 3)]
    weights = [torch.stack(parts) for parts in zip(*said, strict=True)]
    for base in range(3):
        np.testing.assert_array_equal(_in_common(weights, torch.eye(9), base), [truth, turned, truth])


def test_what_heads_say_together_is_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer of a block, the hidden one included, has more numbers than the bound says."""
    rows, seen = torch.from_numpy(lumps()[0]), []
    weights = [value.detach() for value in _initial(3, rows, 50, 4, torch.Generator().manual_seed(0))]
    whole = _in_common(weights, rows, 0)

    def watched(weights: list[torch.Tensor], block: torch.Tensor) -> torch.Tensor:
        seen.append(len(block))
        return _forward(weights, block)

    monkeypatch.setattr(cluster, "BLOCK_CELLS", 1500)
    monkeypatch.setattr(cluster, "_forward", watched)
    np.testing.assert_array_equal(_in_common(weights, rows, 0), whole)
    assert max(seen) * 3 * 50 <= 1500
    assert sum(seen) == 2 * len(rows)


@pytest.mark.parametrize("sign", [1, -1])
def test_heads_that_agree_are_kept_where_they_are_worth_more(sign: int) -> None:
    features, truth = lumps(k=8)
    sizes = {"heads": 4, "hidden": 32, "batch": 240, "step": 32}

    def worth(found: np.ndarray) -> float:
        return sign * float(mapped_accuracy(found, truth))

    before = fit_heads(features, 8, **sizes, epochs=2, worth=worth)
    after = fit_heads(features, 8, **sizes, epochs=4, agreed=2, worth=worth)
    values = [worth(assign(fit.model, features).cluster) for fit in (before, after)]
    assert values[1] >= values[0]
    assert (sign > 0) == (values[1] > values[0])
    if sign < 0:
        np.testing.assert_array_equal(after.model.out, before.model.out)


def test_heads_are_deterministic_and_depend_on_the_seed() -> None:
    one, same, other = fitted(), fitted(), fitted(seed=1)
    np.testing.assert_array_equal(one.model.out, same.model.out)
    assert not np.array_equal(one.model.out, other.model.out)


def test_empty_clusters_are_revived_and_reported() -> None:
    features = np.repeat(np.eye(2, 8, dtype=np.float32), 40, axis=0)
    fit = fit_heads(features, 6, heads=2, hidden=8, batch=80, step=40, epochs=4)
    assert fit.revived > 0


@pytest.mark.parametrize("k", [1, 3, 7])
def test_assign_is_softmax_in_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = lumps(per=21)
    model = Centroids(features[:k], 5.0)
    whole = assign(model, features)
    logits = 5.0 * features @ features[:k].T
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(whole.confidence, (powers / powers.sum(1, keepdims=True)).max(1), rtol=1e-5)
    ranked = np.sort(logits, axis=1)
    np.testing.assert_allclose(whole.margin, ranked[:, -1] - ranked[:, -min(2, k)], atol=1e-5)
    monkeypatch.setattr("gdui.labeling.cluster.BLOCK_CELLS", 13)
    for name in ("cluster", "confidence", "margin"):
        np.testing.assert_allclose(getattr(assign(model, features), name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_centroids_of_a_clustering_are_its_means() -> None:
    features, truth = lumps()
    truth = np.where(truth == 3, 5, truth)
    model = Centroids.of(features, truth, 6)
    for c in (0, 1, 2, 5):
        mean = features[truth == c].mean(0)
        np.testing.assert_allclose(model.centers[c], mean / np.linalg.norm(mean), atol=1e-6)
    assert not model.centers[[3, 4]].any()
    assert np.median(assign(scaled(model, features), features).margin) == pytest.approx(2, rel=1e-3)


def test_k_means_finds_the_lumps() -> None:
    features, truth = lumps()
    groups = assign(fit_centroids(features, 4, seed=0), features).cluster
    assert all(len(set(groups[truth == c])) == 1 for c in range(4))


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be between 1 and the 5 rows of features, not 6"):
        fit_heads(np.eye(5, dtype=np.float32), 6)
