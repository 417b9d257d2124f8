"""Copies of an image take the label of the one that teaches, and change nothing for the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui.labeling.copies import originals
from gdui.labeling.labeler import Labeler

NAMES = ["ant", "bee", "cow"]


@settings(max_examples=60)
@given(st.data())
def test_only_the_first_of_equal_images_is_kept(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    kind = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    rows = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    votes = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    apart = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    features = np.random.default_rng(0).standard_normal((4, 5)).astype(kind)[rows]
    kept, copy_of = originals(features, votes, apart)
    seen: dict[tuple[int, ...], int] = {}
    for at in range(n):
        key = (-1, at) if at in apart else (rows[at], votes[at])
        assert kept[copy_of[at]] == seen.setdefault(key, at)
    assert kept.tolist() == sorted(seen.values())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_copies_of_whole_numbers_are_found(kind: type) -> None:
    """Most bits of such numbers are zeros, and a print must not be worth less for it."""
    rows = np.unique(np.random.default_rng(0).integers(0, 17, (3000, 32)), axis=0).astype(kind)
    kept, copy_of = originals(np.tile(rows, (2, 1)), np.zeros(2 * len(rows), np.int64), np.array([], np.int64))
    np.testing.assert_array_equal(kept, np.arange(len(rows)))
    np.testing.assert_array_equal(copy_of, np.tile(kept, 2))


def lumps(n: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features around three places, an opinion that is right three times in four, and the truth."""
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 3
    features = (np.eye(3, 16)[truth] * 2 + rng.standard_normal((n, 16)) * 0.5).astype(np.float32)
    votes = np.where(rng.random(n) < 0.75, truth, rng.integers(0, 3, n))
    return features, np.eye(3)[votes] * 3, truth


@pytest.mark.parametrize("copies", [2, 20])
def test_labels_are_those_of_a_heap_without_copies(copies: int) -> None:
    features, opinions, truth = lumps()
    order = np.random.default_rng(1).permutation(np.tile(np.arange(len(truth)), copies))
    first = np.unique(order, return_index=True)[1]
    once = Labeler(NAMES).fit_predict(
        features=features[order[np.sort(first)]], opinions=opinions[order[np.sort(first)]]
    )
    often = Labeler(NAMES).fit_predict(features=features[order], opinions=opinions[order])
    place = np.argsort(np.argsort(first))
    np.testing.assert_array_equal(often.label_index, once.label_index[place[order]])
    assert (often.label_index == truth[order]).mean() > 0.95


def test_a_copy_keeps_what_the_opinion_says_of_it() -> None:
    features, opinions, _ = lumps()
    labels = Labeler(NAMES).fit_predict(
        features=np.concatenate([features, features]), opinions=np.concatenate([opinions, opinions * 2])
    )
    confidence = labels.table["clip_confidence"].to_numpy()
    assert (confidence[150:] > confidence[:150]).all()


def test_a_pinned_copy_stands_for_itself() -> None:
    features, opinions, truth = lumps()
    wrong = NAMES[(truth[0] + 1) % 3]
    labels = Labeler(NAMES).fit_predict(
        features=np.concatenate([features, features[:1]]),
        opinions=np.concatenate([opinions, opinions[:1]]),
        pins={"150": wrong},
    )
    assert labels.table["label"].to_pylist()[150] == wrong


def test_fewer_kinds_than_classes_still_have_labels() -> None:
    features, opinions, _ = lumps(2)
    labels = Labeler(NAMES).fit_predict(features=np.tile(features, (5, 1)), opinions=np.tile(opinions, (5, 1)))
    assert len(labels) == 10
