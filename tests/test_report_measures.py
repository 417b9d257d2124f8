"""The report's numbers equal what the library does, and its warnings say what is odd."""

from typing import Any

import numpy as np
import pytest
from reports import make_labels
from sklearn.metrics import confusion_matrix

from gdui.labeling.refine import Branch, refine
from gdui.labels import ClusterFacts, Facts
from gdui.report import measures


@pytest.mark.parametrize("policy", ["keep", "relabel"])
def test_the_sweep_is_what_refine_gives(rng: np.random.Generator, policy: str) -> None:
    n, c, k = 400, 4, 7
    cluster, opinion, truth = rng.integers(0, k, n), rng.integers(0, c, n), rng.integers(-1, c, n)
    sure = rng.random(n).astype(np.float32)
    names = np.array([0, 1, 2, 3, 0, 1, 2])
    opinion = np.where(rng.random(n) < 0.7, names[cluster], opinion)
    opinion[cluster == 3] = 0  # nobody votes for cluster 3's name

    def at(sigma: float) -> Any:
        return refine(cluster, sure, opinion, names, sigma=sigma, on_mismatch=policy)

    judged = at(0.5)
    facts = [
        ClusterFacts(
            size=1,
            matched=int(names[one]),
            r_btm=float(judged.r_btm[one]),
            branch=Branch(judged.branch[one]).name.lower().replace("_", " "),
        )
        for one in range(k)
    ]
    labels = make_labels(
        rng,
        n,
        list("abcd"),
        cluster=cluster,
        cluster_confidence=sure,
        clip_index=opinion,
        facts=Facts(clusters=facts, configuration={"refine": {"sigma": 0.5}, "graph": {"enabled": True}}),
    )
    found = measures.sigma_sweep(labels, truth)
    assert found
    assert found["now"] == 0.5
    assert found["graph"]
    for step in range(0, 101, 5):
        refined = at(step / 100)
        assert found["curves"]["relabelled"][step] == pytest.approx((refined.rule != 0).mean(), abs=1e-5)
        assert found["curves"]["agreement"][step] == pytest.approx((refined.label_index == opinion).mean(), abs=1e-5)
        right = (refined.label_index == truth)[truth >= 0].mean()
        assert found["curves"]["accuracy"][step] == pytest.approx(right, abs=1e-5)


def test_confusion_is_scikit_learns(rng: np.random.Generator) -> None:
    mine, other = rng.integers(0, 5, 500), rng.integers(-1, 5, 500)
    found = measures.confusion(mine, other, 5)
    assert found["table"] == confusion_matrix(mine[other >= 0], other[other >= 0], labels=range(5)).tolist()
    many = measures.confusion(mine, other, 41)["pairs"]
    table = np.array(found["table"])
    assert [table[row, column] for row, column, _ in many] == [n for *_, n in many]
    assert sum(n for *_, n in many) == table.sum() - np.trace(table)


def test_warnings_say_what_is_odd(rng: np.random.Generator) -> None:
    assert measures.cluster_warnings(ClusterFacts(size=0)) == ["no image lies in it"]
    assert measures.cluster_warnings(ClusterFacts(size=5, matched=1, votes={0: 3}, n_top=3)) == [
        "nobody voted for its name"
    ]
    lost = ClusterFacts(size=5, matched=1, votes={0: 3, 1: 2}, n_top=5, branch="top bad")
    assert measures.cluster_warnings(lost) == [
        "more of its votes are for another class",
        "doubtful: the refinement looked at it",
    ]
    assert measures.cluster_warnings(ClusterFacts(size=50, matched=1, votes={1: 9, 0: 1}, n_top=10)) == []
    assert measures.cluster_warnings(ClusterFacts(size=5, votes={0: 3}, n_top=3)) == ["it is named after no class"]
    facts = Facts(clusters=[ClusterFacts(size=9, matched=0)] * 4)
    labels = make_labels(rng, 4, ["a", "b"], label_index=[0, 0, 0, -1], facts=facts)
    split, empty = measures.class_warnings(labels, np.array([3, 0]))
    assert split == ["split over 4 clusters, where 2 are usual"]
    assert empty == ["no image has this label", "no cluster is named after it"]
