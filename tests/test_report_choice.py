"""Which images the report shows: the surest, the least sure, those to review, and never too many."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import data_of, make_labels

from gdui.report.choice import STRIPS, choose, doubtful_first, extremes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5)), max_size=40), st.integers(0, 4), st.integers(0, 4))
def test_extremes_are_those_of_a_sorted_list(pairs: list[tuple[int, int]], first: int, last: int) -> None:
    group, key = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], float)
    surest, least = extremes(group, key, 4, first, last)
    for at in range(4):
        order = sorted((row for row in range(len(pairs)) if group[row] == at), key=lambda row: (-key[row], row))
        assert surest[at].tolist() == order[:first]
        assert least[at].tolist() == order[first:][::-1][:last]


def test_disagreements_are_reviewed_first_then_images_without_a_label(rng: np.random.Generator) -> None:
    labels = make_labels(rng, 300, ["a", "b", "c"])
    order = doubtful_first(labels)
    label, opinion, sure = labels.label_index[order], labels.indices("clip_label")[order], labels.numbers("confidence")
    kind = np.where(label < 0, 1, np.where(label != opinion, 0, 2))
    assert (np.diff(kind) >= 0).all()
    assert set(kind) == {0, 1, 2}
    for one in range(3):
        assert (np.diff(sure[order][kind == one]) >= 0).all()


def test_a_report_shows_some_thousand_images_however_many_there_are(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 200_000, [f"class {at}" for at in range(300)], clusters=900)
    assert len(choose(labels).rows) < 10_000
    path = labels.report(tmp_path / "report.html")
    assert path.stat().st_size < 10e6
    told = data_of(path)
    assert told["head"]["images"] == 200_000
    assert sum(one["images"] for one in told["classes"]) + told["head"]["abstained"] == 200_000


@pytest.mark.parametrize(("classes", "clusters"), [(2, 3), (150, 450), (300, 900), (1200, 3600), (5000, 5000)])
def test_strips_of_any_number_of_classes_are_bounded(rng: np.random.Generator, classes: int, clusters: int) -> None:
    labels = make_labels(rng, 40_000, [f"class {at}" for at in range(classes)], clusters=clusters)
    chosen = choose(labels)
    strips = [chosen.surest, chosen.least, chosen.relabelled, chosen.top, chosen.bottom]
    assert sum(len(rows) for strip in strips for rows in strip) <= STRIPS
    pictured = np.array([len(rows) > 0 for rows in chosen.surest])
    assert pictured.sum() == min(classes, STRIPS // 3)
    sizes = np.bincount(labels.label_index[labels.label_index >= 0], minlength=classes)
    assert sizes[pictured].min() >= max(sizes[~pictured], default=0)
