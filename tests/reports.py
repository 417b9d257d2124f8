"""Labels for the tests of the report, and what a page says."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gdui.labels import ClusterFacts, Facts, Labels


def make_labels(rng: np.random.Generator, n: int, classes: list[str], clusters: int = 3, **changes: Any) -> Labels:
    c = len(classes)
    cluster = rng.integers(0, clusters, n)
    facts = [
        ClusterFacts(size=int(size), matched=k % c, votes={k % c: 6, (k + 1) % c: 2}, n_top=8, runner_up=(k + 1) % c)
        for k, size in enumerate(np.bincount(cluster, minlength=clusters))
    ]
    columns: dict[str, Any] = {
        "label_index": rng.integers(-1, c, n),
        "confidence": rng.random(n),
        "matched_index": cluster % c,
        "cluster": cluster,
        "cluster_confidence": rng.random(n),
        "consistency": rng.random(n),
        "clip_index": rng.integers(0, c, n),
        "clip_confidence": rng.random(n),
        "clip_second_index": rng.integers(-1, c, n),
        "rule": rng.integers(0, 4, n),
        "facts": Facts(clusters=facts, accuracy=0.9, accuracy_how="a guess"),
    }
    return Labels.from_arrays([f"{row:05d}.png" for row in range(n)], classes, **(columns | changes))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))
