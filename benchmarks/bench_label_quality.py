"""How right the labels are on real pictures: ours beside the opinion alone, k-means, and a supervised linear probe.

One setting for every set; no label is seen before the scoring. Two peers use the truth: k-means gets its best mapping,
and the probe learns from half of the labels. The last rows show each set as votes are flipped at random.
"""

import tempfile
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.harness import Bench
from benchmarks.mobilenet import SETS, Pictures, load
from gdui.demo.digits import NAMES, images
from gdui.demo.digits import run as label_digits
from gdui.evaluation.agreement import accuracy, calibration, mapped_accuracy
from gdui.labeling.encoders import load_encoder, seen_by
from gdui.labeling.labeler import Labeler
from gdui.labeling.linear import fit_linear, held_out
from gdui.labeling.neighbors import kmeans, neighbors
from gdui.labeling.opinions import class_embeddings
from gdui.labels import Labels

DEVICES = ("cpu",)

FLIPS = (0.15, 0.3, 0.45, 0.6)
DECAYS, ROUNDS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 100


def run(bench: Bench) -> None:
    sets = [digits()] if bench.quick else [digits(), *map(load, SETS)]
    for pictures in sets:
        score_ways(bench, pictures)
        score_flips(bench, pictures)
    score_demo(bench)


def score_demo(bench: Bench) -> None:
    """How long the demo labels, and what the default is worth without its choice of an inner layer to cluster by."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = label_digits(folder).seconds
    outer = digits("digits")
    score = accuracy(outer.labels, labelled(outer).label_index)
    note(bench, f"digits, by the output layer N={len(outer.labels):,}", "gdui default", "accuracy", score)
    bench.record(f"digits N={len(outer.labels):,}", "gdui, the demo's labelling", "time", "s", [seconds])
    assert seconds < 60, f"the demo took {seconds:.0f} s to label"


def score_ways(bench: Bench, pictures: Pictures) -> None:
    """One row a way, and that the default keeps what it promises."""
    truth, size = pictures.labels, f"{pictures.name} N={len(pictures.labels):,}"
    zero_shot = accuracy(pictures.opinions.argmax(1), truth)
    probe = accuracy(linear_probe(pictures), truth)
    labels = {preset: labelled(pictures, preset) for preset in ("paper", "default")}
    scores = {preset: accuracy(found.label_index, truth) for preset, found in labels.items()}
    note(bench, size, "zero-shot (the opinion alone)", "accuracy", zero_shot, "peer")
    note(bench, size, "k-means, best mapping", "accuracy", mapped_accuracy(clusters(pictures), truth), "peer")
    note(bench, size, "linear probe, supervised", "accuracy", probe, "limit")
    for preset, score in scores.items():
        note(bench, size, f"gdui {preset}", "accuracy", score)
    default = labels["default"]
    note(bench, size, "its own estimate", "accuracy", default.facts.accuracy or 0.0)
    error = calibration(truth, default.label_index, default.numbers("confidence")).error
    note(bench, size, "gdui default", "calibration error", error)
    assert scores["default"] >= zero_shot - 0.005, f"{size}: default {scores['default']:.3f} < {zero_shot:.3f}"
    if zero_shot > 0.75:
        assert scores["default"] >= (zero_shot + probe) / 2, (
            f"{size}: default {scores['default']:.3f} closes too little"
        )


def labelled(pictures: Pictures, preset: str = "default") -> Labels:
    labeler = Labeler(pictures.classes, preset=preset)
    return labeler.fit_predict(features=pictures.features, opinions=pictures.opinions)


def score_flips(bench: Bench, pictures: Pictures) -> None:
    """The same as the opinion is made worse; the default keeps its promise there too."""
    for share in FLIPS[::3] if bench.quick else FLIPS:
        worse = flipped(pictures, share)
        label = labelled(worse).label_index
        opinion, ours = accuracy(worse.opinions.argmax(1), worse.labels), accuracy(label, worse.labels)
        size = f"{pictures.name}, {share:.0%} of votes flipped"
        note(bench, size, "zero-shot (the opinion alone)", "accuracy", opinion, "peer")
        note(bench, size, "gdui default", "accuracy", ours)
        assert ours >= opinion - 0.005, f"{size}: {ours:.3f} < {opinion:.3f}"


def flipped(pictures: Pictures, share: float) -> Pictures:
    """In this share of the images the first choice trades scores with another class."""
    random = np.random.default_rng(0)
    opinions, classes = pictures.opinions.copy(), len(pictures.classes)
    rows = np.flatnonzero(random.random(len(opinions)) < share)
    first = opinions[rows].argmax(1)
    other = (first + random.integers(1, classes, len(rows))) % classes
    opinions[rows, first], opinions[rows, other] = opinions[rows, other], opinions[rows, first]
    return replace(pictures, opinions=opinions)


def clusters(pictures: Pictures) -> npt.NDArray[np.int32]:
    """k-means with as many clusters as classes."""
    centers = kmeans(pictures.features, len(pictures.classes), seed=0)
    return neighbors(centers, 1, queries=pictures.features).indices[:, 0]


def linear_probe(pictures: Pictures) -> npt.NDArray[np.int64]:
    """Two models, each taught by half of the true labels and asked about the other half.

    Each takes the penalty that does best in cross-validation within its own half.
    """
    centred = pictures.features - pictures.features.mean(0)
    unit = 4 * centred / np.linalg.norm(centred, axis=1, keepdims=True)
    order, predicted = np.random.default_rng(0).permutation(len(unit)), np.empty(len(unit), np.int64)
    for known, asked in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        taught = unit[known], pictures.labels[known], len(pictures.classes)
        decay = max(DECAYS, key=lambda decay: tried(*taught, decay=decay))
        predicted[asked] = fit_linear(*taught, decay=decay, rounds=ROUNDS)(unit[asked]).argmax(1)
    return predicted


def tried(unit: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], classes: int, *, decay: float) -> float:
    """The cross-validated accuracy of a probe with this penalty."""
    return accuracy(truth, held_out(unit, truth, classes, decay=decay, rounds=ROUNDS, seed=1).argmax(1))


def digits(layer: str | None = None) -> Pictures:
    """scikit-learn's handwritten digits: what the shipped encoder's layer sees in them, and its zero-shot opinion."""
    named, seen = load_encoder("digits"), load_encoder(layer or seen_by("digits"))
    pixels = np.stack([named.transform(Image.fromarray(picture).convert("RGB")) for picture in images()])
    opinions = named.logit_scale * named.encode_images(pixels) @ class_embeddings(named, NAMES).T
    return Pictures("digits", list(NAMES), seen.encode_images(pixels), opinions, load_digits().target.astype(np.int64))


def note(bench: Bench, size: str, way: str, metric: str, value: float, role: str = "ours") -> None:
    bench.record(size, way, metric, "share", [value], role)  # type: ignore[arg-type]
