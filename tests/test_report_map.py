"""The report's map of the images."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gdui.report.projection import project


def test_the_map_keeps_neighbours_together(rng: np.random.Generator) -> None:
    group = np.repeat(np.arange(5), 60)
    features = (rng.standard_normal((5, 40))[group] * 2 + rng.standard_normal((300, 40))).astype(np.float32)
    places, method = project(features)
    assert places.shape == (300, 2)
    assert (places.min(), places.max()) == (0, 1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(1)] == group).mean() > 0.95
    assert np.array_equal(project(features)[0], places)
    assert method != "PCA"
    assert project(features[:9])[1] == "PCA"
    assert np.isfinite(project(np.ones((60, 1), np.float32))[0]).all()


def test_umap_draws_the_map_where_it_is_installed(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, metric: str, random_state: int) -> None:
            assert (metric, random_state) == ("cosine", 7)

        def fit_transform(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return 10 * features[:, :2] - 3

    module = ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    features = rng.random((60, 5)).astype(np.float32)
    places, method = project(features, seed=7)
    assert method == "UMAP"
    expected = features[:, :2] - features[:, :2].min(0)
    np.testing.assert_allclose(places, expected / expected.max(0), atol=1e-5)
