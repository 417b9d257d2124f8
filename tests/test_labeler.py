"""The labeler from features and opinions to labels: how right they are, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gdui.images import open_source
from gdui.labeling.encoders import load_encoder
from gdui.labeling.features import FeatureStore, encode_source
from gdui.labeling.labeler import Labeler
from gdui.labels import Labels

NAMES = ["cat", "dog", "frog", "ship"]


def heap(sizes: tuple[int, ...] = (150, 150, 150, 150), flipped: float = 0.3, seed: int = 0):
    """Features, log-odds and the truth: two lumps a class, and an opinion that is wrong in a share of the images."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    lumps = np.random.default_rng(99).standard_normal((len(sizes), 2, 24))
    features = lumps[truth, random.integers(0, 2, len(truth))] + 0.35 * random.standard_normal((len(truth), 24))
    voted = np.where(random.random(len(truth)) < flipped, random.integers(0, len(sizes), len(truth)), truth)
    opinions = random.standard_normal((len(truth), len(sizes)))
    opinions[np.arange(len(truth)), voted] += 4
    return features.astype(np.float32), opinions.astype(np.float32), truth


def right(labels: Labels, truth: np.ndarray) -> float:
    return float((labels.label_index == truth).mean())


def same(one: Labels, other: Labels) -> bool:
    return bool(one.table.equals(other.table))


@pytest.mark.parametrize("flipped", [0.1, 0.4, 0.6])
def test_labels_are_better_than_the_opinion(flipped: float) -> None:
    features, opinions, truth = heap(flipped=flipped)
    labels = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.97
    assert 0 < labels.facts.accuracy <= 1
    assert labels.numbers("confidence").mean() == pytest.approx(labels.facts.accuracy, abs=0.01)
    assert set(labels.facts.changed) == {"match", "refine", "graph"}
    assert labels.facts.neighbors.startswith("exact, because")


@pytest.mark.parametrize("clusterer", ["heads", "kmeans", "modes"])
def test_paper_names_clusters_of_any_kind(clusterer: str) -> None:
    features, opinions, truth = heap(flipped=0.2)
    small = {"cluster.heads": 3, "cluster.hidden": 32, "cluster.step": 64}
    labeler = Labeler(NAMES, preset="paper", k=8, clusterer=clusterer, **small)
    labels = labeler.fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.9
    assert "graph" not in labels.table["rule"].unique().to_pylist()


def test_unequal_classes_keep_their_sizes() -> None:
    features, opinions, truth = heap((400, 120, 60, 40))
    labels = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.95


def test_a_class_without_images_gets_few() -> None:
    features, opinions, truth = heap((200, 200, 200, 0), flipped=0.1)
    opinions[:, 3] -= 3
    labels = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.9


def test_useless_features_leave_the_opinion_alone() -> None:
    _, opinions, truth = heap(flipped=0.2)
    features = np.random.default_rng(3).standard_normal((len(truth), 300)).astype(np.float32)
    labels = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    np.testing.assert_array_equal(labels.label_index, opinions.argmax(1))
    assert labels.table["rule"].unique().to_pylist() == ["alone"]


def test_names_that_nothing_bears_out_leave_the_opinion_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cats are taken for frogs, or else for dogs; dogs for ships, or else for cats. A sure opinion is followed."""
    features, _, truth = heap()
    random = np.random.default_rng(4)
    often, seldom = np.array([2, 3, 2, 3])[truth], np.array([1, 0, 2, 3])[truth]
    opinions = random.standard_normal((len(truth), 4)) * 0.1
    opinions[np.arange(len(truth)), np.where(random.random(len(truth)) < 0.7, often, seldom)] += 0.7
    labeler = Labeler(NAMES)
    labels = labeler.fit_predict(features=features, opinions=opinions)
    np.testing.assert_array_equal(labels.label_index, opinions.argmax(1))
    assert "many classes are not what most of their own images vote for: the opinion stands" in caplog.text
    assert "nothing bears the opinion out" in labels.why("0")
    assert labels.facts.accuracy == pytest.approx(1 / 4)
    assert labels.numbers("confidence").mean() == pytest.approx(1 / 4)
    assert "estimated accuracy 25.0% (what the opinion is worth by itself: the opinion is unsure" in labels.summary()
    labeler.save(tmp_path)
    again = Labeler.load(tmp_path).predict(features=features, opinions=opinions)
    np.testing.assert_array_equal(again.label_index, labels.label_index)
    np.testing.assert_array_equal(again.numbers("confidence"), labels.numbers("confidence"))
    by_hand = {str(row): NAMES[truth[row]] for row in range(40)}
    assert right(Labeler(NAMES).fit_predict(features=features, opinions=opinions, pins=by_hand), truth) > 0.9
    sure = Labeler(NAMES).fit_predict(features=features, opinions=8 * opinions)
    assert "alone" not in sure.table["rule"].unique().to_pylist()


def test_votes_that_have_nothing_to_do_with_the_images_stay_as_they_are() -> None:
    features, opinions, _ = heap()
    shuffled = np.random.default_rng(6).permutation(opinions)
    labels = Labeler(NAMES).fit_predict(features=features, opinions=shuffled)
    np.testing.assert_array_equal(labels.label_index, shuffled.argmax(1))
    assert "neighbours vote alike no more often than by chance" in labels.summary()


def test_new_images_are_labelled_without_learning_again(tmp_path: Path) -> None:
    features, opinions, _ = heap()
    new_features, new_opinions, new_truth = heap(seed=5)
    labeler = Labeler(NAMES).fit(features=features, opinions=opinions)
    predicted = labeler.predict(features=new_features, opinions=new_opinions)
    assert right(predicted, new_truth) > 0.97
    parts = [labeler.predict(features=new_features[i : i + 1], opinions=new_opinions[i : i + 1]) for i in range(5)]
    assert [int(part.label_index[0]) for part in parts] == predicted.label_index[:5].tolist()
    labeler.save(tmp_path / "kept")
    loaded = Labeler.load(tmp_path / "kept")
    assert same(loaded.predict(features=new_features, opinions=new_opinions), predicted)
    assert (loaded.config, loaded.classes) == (labeler.config, labeler.classes)


def test_paper_is_saved_with_its_head(tmp_path: Path) -> None:
    features, opinions, _ = heap()
    small = {"cluster.heads": 2, "cluster.hidden": 16, "cluster.epochs": 3}
    labeler = Labeler(NAMES, preset="paper", **small)
    fitted = labeler.fit_predict(features=features, opinions=opinions)
    labeler.save(tmp_path)
    again = Labeler.load(tmp_path).predict(features=features, opinions=opinions)
    np.testing.assert_array_equal(again.label_index, fitted.label_index)
    np.testing.assert_array_equal(again.indices("rule"), fitted.indices("rule"))


def test_many_images_are_learned_from_a_sample() -> None:
    features, opinions, truth = heap()
    labels = Labeler(NAMES, fit_rows=400).fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.97
    assert int(np.isnan(labels.numbers("consistency")).sum()) == 200


def test_results_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    features, opinions, _ = heap()
    first = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    monkeypatch.setenv("GDUI_THREADS", "1")
    assert same(Labeler(NAMES).fit_predict(features=features, opinions=opinions), first)


def test_probabilities_and_log_odds_are_the_same_opinion() -> None:
    features, opinions, _ = heap()
    powers = np.exp(opinions - opinions.max(1, keepdims=True))
    one = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    other = Labeler(NAMES).fit_predict(features=features, opinions=powers / powers.sum(1, keepdims=True))
    np.testing.assert_array_equal(one.label_index, other.label_index)


def test_k_is_estimated() -> None:
    features, opinions, _ = heap()
    labeler = Labeler(NAMES, k="auto")
    labels = labeler.fit_predict(features=features, opinions=opinions)
    assert labeler.criterion[8] == max(labeler.criterion.values())
    assert len(labels.facts.clusters) == 8


def test_images_of_no_class_are_rejected() -> None:
    features, opinions, truth = heap(flipped=0.05)
    strange = truth == 3
    opinions = opinions[:, :3] * np.where(strange, 0.1, 1)[:, None]
    labels = Labeler(NAMES[:3], reject=0.7).fit_predict(features=features, opinions=opinions)
    rejected = labels.label_index == -1
    assert rejected[strange].mean() > 0.9
    assert rejected[~strange].mean() < 0.05
    assert labels.table["rule"].to_pylist()[int(np.flatnonzero(rejected)[0])] == "rejected"


def test_fewer_clusters_than_classes() -> None:
    features, opinions, truth = heap()
    labels = Labeler(NAMES, k=2).fit_predict(features=features, opinions=opinions)
    assert right(labels, truth) > 0.97


@pytest.mark.parametrize("count", [4, 5, 9])
@pytest.mark.parametrize("preset", ["paper", "default"])
def test_a_handful_of_images(count: int, preset: str) -> None:
    features, opinions, _ = heap(flipped=0)
    labels = Labeler(NAMES, preset=preset).fit_predict(features=features[:count], opinions=opinions[:count])
    assert len(labels) == count


def test_every_label_has_its_reason() -> None:
    features, opinions, _ = heap()
    ids = [f"shelf/{i}.jpg" for i in range(len(features))]
    stages: list[str] = []
    labeler = Labeler(NAMES)
    labels = labeler.fit_predict(
        features=features, opinions=opinions, ids=ids, progress=lambda stage, done, total: stages.append(stage)
    )
    assert "cluster is named" in labels.why("shelf/3.jpg")
    assert list(dict.fromkeys(stages)) == ["neighbors", "cluster", "match", "refine", "graph", "linear"]
    assert set(labels.facts.ledger) == set(stages)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"opinions": np.zeros((600, 3))}, "opinions must have 4 columns, one a class, not 3"),
        ({"opinions": np.zeros((5, 4))}, "opinions must have 600 rows, not 5"),
        ({"opinions": None}, "an opinion that is not given needs an encoder"),
        ({"source": "somewhere"}, "either a source of images or their features"),
        ({"features": np.full((600, 2), np.nan, np.float32)}, "features must be finite numbers, but row 0"),
        (
            {"features": np.zeros((1, 4)), "opinions": np.zeros((1, 4))},
            "1 image for 4 classes: there must be at least as many",
        ),
        ({"ids": ["one"]}, "ids must be 600 names"),
        ({"ids": ["one"] * 600}, "ids must differ, but 600 images have only 1 ids"),
        (
            {"features": np.zeros((3, 4)), "opinions": np.zeros((3, 4))},
            "3 images for 4 classes: there must be at least as many",
        ),
    ],
)
def test_mistakes_are_named(change: dict[str, object], words: str) -> None:
    features, opinions, _ = heap()
    given = {"features": features, "opinions": opinions} | change
    with pytest.raises(ValueError, match=words):
        Labeler(NAMES).fit_predict(**given)


def test_what_was_not_learned_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has learned nothing yet"):
        Labeler(NAMES).predict(features=np.eye(4), opinions=np.eye(4))
    with pytest.raises(ValueError, match="holds no labeler"):
        Labeler.load(tmp_path)
    (tmp_path / "labeler.json").write_text("{")
    with pytest.raises(ValueError, match="holds no labeler that can be read"):
        Labeler.load(tmp_path)


@pytest.mark.parametrize("width", [1, 23])
def test_features_of_another_width_are_refused(width: int) -> None:
    features, opinions, _ = heap()
    labeler = Labeler(NAMES).fit(features=features, opinions=opinions)
    with pytest.raises(ValueError, match=rf"features must be \[n, 24\], .* not \[600, {width}\]"):
        labeler.predict(features=features[:, :width], opinions=opinions)
    with pytest.raises(
        ValueError, match=rf"features must be \[n, 64\], as long as the encoder's texts, not \[600, {width}"
    ):
        Labeler(NAMES, "digits").fit(features=features[:, :width])


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    def halves(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10] / 2

    pictures = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    kept = {}
    for name, spec in (("digits", "digits"), ("halves", halves)):
        encoder = load_encoder(spec, device="cpu", dtype="float32")
        kept[name] = FeatureStore(tmp_path / name, encoder)
        encode_source(open_source(pictures), encoder, kept[name])
    opinions = np.random.default_rng(0).random((8, 4))
    with pytest.raises(ValueError, match=r"encoder 'digits' .* is not the one"):
        Labeler(NAMES, "digits").fit(features=tmp_path / "halves")
    labeler = Labeler(NAMES).fit(features=tmp_path / "digits", opinions=opinions)
    assert (
        labeler.predict(features=tmp_path / "digits", opinions=opinions).facts.encoder_hash
        == kept["digits"].identity["hash"]
    )
    with pytest.raises(ValueError, match=r"halves' .* is not the one"):
        labeler.predict(features=tmp_path / "halves", opinions=opinions)


def test_new_images_have_no_estimate_of_those_learned_from() -> None:
    features, opinions, _ = heap()
    labeler = Labeler(NAMES).fit(features=features, opinions=opinions)
    predicted = labeler.predict(features=features[:9], opinions=opinions[:9])
    assert (predicted.facts.accuracy, predicted.facts.changed) == (None, {})
    assert "learned from 600 other images" in predicted.summary()


def test_an_encoder_without_a_name_is_given_again(tmp_path: Path) -> None:
    def corner(images: torch.Tensor) -> torch.Tensor:
        return images[:, :, :4, :4].flatten(1)

    pictures = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), np.uint8)
    opinions = np.random.default_rng(0).random((12, 4))
    labeler = Labeler(NAMES, corner)
    labels = labeler.fit_predict(pictures, opinions=opinions)
    labeler.save(tmp_path)
    with pytest.raises(ValueError, match=r"callable '.*corner' again: Labeler.load\(path, encoder="):
        Labeler.load(tmp_path).predict(pictures, opinions=opinions)
    predicted = Labeler.load(tmp_path, corner).predict(pictures, opinions=opinions)
    assert predicted.facts.encoder_hash == labels.facts.encoder_hash != ""
    with pytest.raises(ValueError, match="is not the one that the other features come from"):
        Labeler.load(tmp_path, lambda images: images.flatten(1)[:, :48] * 2).predict(pictures, opinions=opinions)


def test_classes_that_no_cluster_is_left_for_are_named(caplog: pytest.LogCaptureFixture) -> None:
    features, opinions, _ = heap()
    labels = Labeler(NAMES, k=2).fit_predict(features=features, opinions=opinions)
    assert len(labels.nameless) == 2
    assert f"no cluster is left for {', '.join(labels.nameless)}" in caplog.text


def test_too_few_images_leave_the_opinion_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Of three images a class most neighbours are of another class: to learn from them would cost right labels."""
    features, opinions, _ = heap((5, 5, 5, 16), flipped=0.2)
    few = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    np.testing.assert_array_equal(few.label_index, opinions.argmax(axis=1))
    assert "fewer than 8 images for each class" in caplog.text
    assert few.table["rule"].unique().to_pylist() == ["alone"]
    features, opinions, _ = heap((8, 8, 8, 8), flipped=0.2)
    more = Labeler(NAMES).fit_predict(features=features, opinions=opinions)
    assert "alone" not in more.table["rule"].unique().to_pylist()


def test_an_image_has_no_more_neighbours_than_half_of_a_class_on_average() -> None:
    features, opinions, _ = heap((20, 20, 20, 20))

    def labelled(edges: int) -> Labels:
        return Labeler(NAMES, **{"graph.neighbors": edges}).fit_predict(features=features, opinions=opinions)

    assert same(labelled(10), labelled(15))
    assert not same(labelled(9), labelled(10))
