"""Labeler: images and class names in, a label with its reason out. The order of the stages stands only here."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import numpy.typing as npt

from gdui import checks
from gdui.config import Config
from gdui.labeling import consensus, criterion, graph, linear, naming, teaching
from gdui.labeling.cluster import Assignment, Centroids, Heads, assign, fit_centroids, fit_heads, scaled
from gdui.labeling.encoders import LazyEncoder, seen_by
from gdui.labeling.inputs import Images, same_encoder
from gdui.labeling.intake import Given, Intake
from gdui.labeling.learned import Decision, Learned, calibrated, confidences, overruled
from gdui.labeling.neighbors import groups, neighbors
from gdui.labeling.outcome import Clock, Known, Progress
from gdui.labeling.parts import label_rows, parts
from gdui.labeling.pins import Pins, check_names
from gdui.labeling.rows import choose
from gdui.labeling.select import consistency_from_neighbors
from gdui.labeling.spice import SPICE, Spice, learn_source
from gdui.labels import Facts, Labels
from gdui.places import place
from gdui.training.stopping import StoppedError

__all__ = ["Labeler", "Progress"]

Matrix = npt.NDArray[np.float32]
Indices = npt.NDArray[np.integer]

HOW_ESTIMATED = "the geometric mean of the agreement with the opinion and among nearest neighbours"
HOW_PINNED = ", where no person said what is right"
HOW_ALONE = "what the opinion is worth by itself: "
CLUSTERS_PER_CLASS = {"paper": 1, "default": 3}

log = logging.getLogger(__name__)


class Labeler:
    """Labels a heap of images with the names of classes.

    classes: the names, in the order of the opinions' columns; or a mapping from each to texts that describe it, which
        count beside the templates.
    encoder: what turns images and names into features, as `gdui.labeling.encoders.load_encoder` takes it.
    preset: "default" labels best, "paper" follows the text.
    k: clusters; None for the preset's choice, "auto" to estimate it.
    cluster_by: another encoder, or a layer such as "ViT-B-32/laion2b_s34b_b79k#transformer", whose features are
        clustered while `encoder` finds the names.
    overrides: settings of `gdui.config.Config` by dotted name, as in `**{"refine.sigma": 0.4}`.

    After a fit, `criterion` says how good each number of clusters was (with k="auto"), `shares` how large the classes
    were taken to be (with the graph), and `spice` is what was learned from the pixels (with clusterer "spice").
    """

    def __init__(
        self,
        classes: Sequence[str] | Mapping[str, Sequence[str]],
        encoder: Any = None,
        preset: str = "default",
        k: int | str | None = None,
        seed: int = 0,
        cluster_by: Any = None,
        **overrides: Any,
    ) -> None:
        self.classes, self.descriptions = checks.class_names(classes), checks.descriptions(classes)
        self.config = Config.named(preset, k=k, seed=seed, **overrides)
        if self.config.clusterer == "spice" and (cluster_by or self.config.encode.cluster_by):
            raise ValueError("cluster_by can't be given with clusterer 'spice', which learns what to cluster by itself")
        self._intake: Intake
        self._set_encoders(encoder, cluster_by)
        self.criterion: dict[int, float] = {}
        self.shares: npt.NDArray[np.float64] | None = None
        self.spice: Spice | None = None
        self._handed: Spice | None = None
        self._learned: Learned | None = None
        self._facts = Facts()

    def fit(self, source: Any = None, **given: Unpack[Given]) -> Self:
        """Learns from images, and remembers it for `predict`; for the arguments see `fit_predict`."""
        self.learn(self.look(source, **given), Clock(given.get("progress")), given.get("pins"))
        return self

    def predict(self, source: Any = None, **given: Unpack[Given]) -> Labels:
        """Labels new images by what was learned: one pass of matrix products, nothing is clustered or learned again."""
        if given.get("pins"):
            raise ValueError("pins are learned from: hand them to fit or fit_predict")
        return self._all(self.recall(source, **given), None, Clock(given.get("progress")))

    def fit_predict(self, source: Any = None, **given: Unpack[Given]) -> Labels:
        """Learns from these images and labels them.

        Args:
            source: images as `gdui.images.open_source` takes them; they go through the encoder. What can't be read is
                listed in the `quarantine` of the labels.
            given: features, embeddings, opinions, ids, pins, progress; see `gdui.labeling.intake.Given`.
        """
        images, clock = self.look(source, **given), Clock(given.get("progress"))
        return self._all(images, self.learn(images, clock, given.get("pins")), clock)

    def look(self, source: Any = None, **given: Unpack[Given]) -> Images:
        """Images to learn from, for `learn` and `label`; the arguments are those of `fit_predict`."""
        self._see(source, given)
        return self._intake.images(source, given, Facts())

    def recall(self, source: Any = None, **given: Unpack[Given]) -> Images:
        """New images for `label`, refused if other encoders see them than those that were learned from."""
        self._fitted()
        return self._intake.images(source, given, self._facts)

    def label(
        self,
        images: Images,
        rows: Indices,
        known: Known | None = None,
        tell: Callable[[int], None] | None = None,
    ) -> Labels:
        """Labels of the images `rows`, ascending; those among them that are `known` from `learn` stay as they came out.

        It takes little memory whatever there is in all; `tell` hears how many are done.
        """
        learned = self._fitted()
        table = label_rows(learned, images, rows, known, reject=self.config.reject, tell=tell)
        facts = self._facts if known is not None else self._facts.of_others()
        return table.labels(images.called(rows), self.classes, learned.names, facts)

    def plot_criterion(self, path: str | Path) -> None:
        """Draws how good each number of clusters was; the fit must have estimated it (k="auto")."""
        if not self.criterion:
            raise ValueError("there is no criterion to draw: the number of clusters was not estimated (k='auto')")
        criterion.draw(self.criterion, place(path))

    def save(self, path: str | Path) -> None:
        """Writes what was learned into the folder `path`."""
        namer, seer = self._intake.namer, self._intake.seer
        about = {"classes": self.classes, "descriptions": self.descriptions, "config": self.config.to_dict()}
        about |= {"encoder": namer.name, "callable": namer.lost}
        about |= {"cluster_by": seer.name, "cluster_callable": seer.lost} if seer else {}
        place(path).mkdir(parents=True, exist_ok=True)
        if self.spice is not None:
            self.spice.save(place(path) / SPICE)
        self._fitted().save(place(path), about | {"facts": self._facts.to_json()})

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None, cluster_by: Any = None) -> Self:
        """The labeler that `save` wrote; encoders that have no name but are callables must be given again."""
        learned, about = Learned.load(place(path))
        texts = about.get("descriptions") or {}
        labeler = cls({name: texts.get(name, ()) for name in about["classes"]})
        labeler.config, labeler._learned = Config.from_dict(about["config"]), learned
        labeler._facts = facts = Facts.from_json(about["facts"])
        labeler.criterion = dict(facts.criterion)
        same_encoder(LazyEncoder(encoder).name, str(getattr(encoder, "hash", "")), facts.named_hash)
        labeler._set_encoders(
            about["encoder"] or None if encoder is None else encoder,
            about.get("cluster_by") or None if cluster_by is None else cluster_by,
            lost=(about.get("callable", ""), about.get("cluster_callable", "")),
        )
        if (place(path) / SPICE).exists():
            labeler._see_by(Spice.load(place(path) / SPICE))
        return labeler

    def use(self, spice: Spice) -> None:
        """Clusters by what was learned from pixels earlier, so that a fit need not learn it again."""
        self._handed = spice
        self._see_by(spice)

    def _see_by(self, spice: Spice) -> None:
        self.spice = spice
        self._intake = replace(self._intake, seer=LazyEncoder(spice.encoder(self.config.encode.batch)))

    def _set_encoders(self, encoder: Any, cluster_by: Any, lost: tuple[str, str] = ("", "")) -> None:
        settings = self.config.encode
        encoder = settings.encoder if encoder is None else encoder
        other = settings.cluster_by if cluster_by is None else cluster_by
        other = other if lost[1] else seen_by(encoder, other)
        seer = None if other is None and not lost[1] else LazyEncoder(other, settings.batch, lost[1])
        namer = LazyEncoder(encoder, settings.batch, lost[0])
        self._intake = Intake(self.classes, self.descriptions, settings.templates, namer, seer, self.config.source)

    def _see(self, source: Any, given: Given) -> None:
        """With clusterer "spice", lets a network learn from the pictures before anything else does."""
        if self.config.clusterer != "spice" or self._handed is not None:
            return
        opened = None if source is None else self._intake.open(source, given)
        check_names(given.get("pins") or {}, self.classes)
        with tempfile.TemporaryDirectory(prefix="gdui-") as folder:
            pins, tell = given.get("pins"), given.get("progress")
            try:
                self._see_by(learn_source(opened, self.classes, self.config, folder, pins=pins, progress=tell))
            except StoppedError:
                words = "stopped; nothing is kept, as only a run (gdui label) can be continued"
                raise KeyboardInterrupt(words) from None

    def _fitted(self) -> Learned:
        if self._learned is None:
            raise ValueError("this labeler has learned nothing yet: call fit, or load one that has")
        return self._learned

    def learn(self, images: Images, clock: Clock, said: Mapping[str, str] | None = None) -> Known:
        """All stages, on all images or a sample of them; what a person `said` are the pins of `fit_predict`."""
        config, lesson = self.config, teaching.lesson(images, self.classes, self.config, said or {})
        own, pins, clock.total = lesson.opinion, lesson.pins, len(lesson.rows)
        opinion = pins.heard(own)
        learned = Learned.blank(lesson.features, centred=config.graph.enabled and self.spice is None)
        unit, votes = learned.unit(lesson.features), opinion.argmax(axis=1)
        with clock.stage("neighbors"):
            reach = min(max(config.neighbors.consistency - 1, self._edges(len(own))), len(own) - 1)
            near, similarity, how = neighbors(unit, reach, config.neighbors.method, include_self=False)
        with clock.stage("cluster"):
            modes = self._modes(near, similarity)
            model, found = self._clusters(unit, modes, near)
        with clock.stage("match"):
            named = naming.name_clusters(found, opinion, model.k, most=config.match.most, classes=self.classes)
        with clock.stage("refine"):
            judged = naming.refined_by(named, found, opinion, config.refine, config.match.most)
            floor = naming.floors(judged, config.refine.sigma)
            learned = replace(learned, clusters=model, names=named.names, floor=floor)
            chosen = choose(opinion)
            refined = decided = learned.refined(found, chosen)
        doubt = None
        if config.graph.enabled:
            with clock.stage("graph"):
                settled = self._settle(votes, modes, near, similarity, pins)
                votes, self.shares = consensus.balanced_labels(opinion, settled.shares), settled.shares
            with clock.stage("linear"):
                smooth, decided = self._smooth(learned, refined, settled.field, unit, own, votes, near[:, 0], pins)
            named_by_hand, least = bool((pins.classes >= 0).any()), config.graph.least
            doubt = consensus.doubted(decided.label, own, near, least=least, vouched=named_by_hand)
            learned = replace(learned, alone=doubt.trust) if doubt else smooth
            if doubt:
                log.warning("%s: the opinion stands as it is", doubt.reason)
                decided = learned.refined(found, chosen)
        matched, decided = named.names[found.cluster], pins.decide(decided)
        agreed = pins.estimate(decided.label, votes, near[:, : self._edges(len(near))], own.argmax(axis=1))
        self._facts = replace(
            self._seen(images),
            clusters=naming.cluster_facts(named, judged, config.refine),
            learned_from=len(own),
            accuracy=float(decided.confidence.mean()) if doubt else agreed,
            accuracy_how=HOW_ALONE + doubt.reason if doubt else HOW_ESTIMATED + HOW_PINNED * bool(len(pins.rows)),
            criterion=self.criterion,
            neighbors=how,
            changed={
                "match": _differ(opinion.argmax(axis=1), matched),
                "refine": _differ(matched, refined.label),
                "graph": _differ(refined.label, decided.label),
            },
        )
        surety = opinion.max(axis=1)[near[:, : self._edges(len(near))]].mean(axis=1)
        self._learned = replace(learned, surety=naming.cluster_means(surety, found.cluster, model.k))
        consistency = _consistency(near, found.cluster, config.neighbors.consistency)
        return lesson.known(found, decided, surety, consistency)

    def _seen(self, images: Images) -> Facts:
        """What is known of a labelling before anything is learned."""
        return Facts(
            encoder=self._intake.namer.name,
            encoder_hash=images.encoder_hash,
            named_hash=images.named_hash,
            clustered_by=self._intake.seer.name if self._intake.seer else "",
            configuration=self.config.to_dict(),
        )

    def _modes(self, near: Indices, similarity: Matrix) -> Matrix:
        """The graph's slow modes, where a later step asks for them [N, modes]."""
        config = self.config
        if not (config.graph.enabled or config.clusterer == "modes" or config.k == "auto"):
            return np.empty((len(near), 0), np.float32)
        count = min(config.graph.modes * len(self.classes), config.graph.most_modes)
        return graph.modes(self._web(near, similarity), count, seed=config.seed)

    def _edges(self, images: int) -> int:
        """How many neighbours an image of so many has in the graph."""
        return max(1, min(self.config.graph.neighbors, images // (2 * len(self.classes))))

    def _web(self, near: Indices, similarity: Matrix) -> Any:
        edges = self._edges(len(near))
        return graph.adjacency(near[:, :edges], similarity[:, :edges])

    def _clusters(self, unit: Matrix, modes: Matrix, near: Indices) -> tuple[Centroids | Heads, Assignment]:
        """What puts an image into a cluster, and where it puts these."""
        config, settings = self.config, self.config.cluster
        if config.clusterer == "spice" and self.spice is not None:
            return self.spice.head, assign(self.spice.head, unit)
        k = min(self._k(modes, near), len(unit))
        if config.clusterer == "heads":
            trained = fit_heads(unit, k, **settings.of_heads(), seed=config.seed)
            log.info("head %d kept, loss %.3f, %d revived", trained.kept, trained.losses.min(), trained.revived)
            return trained.model, assign(trained.model, unit)
        space = unit if config.clusterer == "kmeans" else modes
        around = fit_centroids(space, k, seed=config.seed, iterations=settings.iterations)
        found = assign(around, space)
        return (around if space is unit else scaled(Centroids.of(unit, found.cluster, k), unit)), found

    def _k(self, modes: Matrix, near: Indices) -> int:
        k = self.config.k
        if k == "auto":
            edges = near[:, : self._edges(len(near))]
            self.criterion = {
                k: graph.modularity(self._grouped(modes, k), edges) for k in _candidates(len(self.classes), len(modes))
            }
            return max(self.criterion, key=lambda k: (self.criterion[k], -k))
        return int(k) if k is not None else CLUSTERS_PER_CLASS[self.config.preset] * len(self.classes)

    def _grouped(self, modes: Matrix, k: int) -> npt.NDArray[np.int32]:
        """Clusters of images in the space of the modes [N]."""
        return groups(modes, k, seed=self.config.seed, iterations=self.config.cluster.iterations)

    def _settle(
        self, votes: Indices, modes: Matrix, near: Indices, similarity: Matrix, pins: Pins
    ) -> consensus.Consensus:
        """Votes averaged over clusters of several sizes, diffused over the graph, every class brought to its size."""
        settings, classes = self.config.graph, len(self.classes)
        pooled, weight = np.zeros((len(votes), classes), np.float32), pins.weights(len(votes), settings.pin)
        for scale in settings.scales:
            found = self._grouped(modes, int(np.clip(round(scale * classes), 1, len(modes))))
            pooled += graph.cluster_votes(votes, found, classes, weight) / np.float32(len(settings.scales))
        pooled, web = pins.votes(pooled, settings.pin), self._web(near, similarity)
        field = graph.diffuse(web, pooled, steps=settings.steps, keep=settings.keep, pinned=pins.rows)
        return consensus.settle(field, votes, near[:, : self._edges(len(near))], gain=settings.gain)

    def _smooth(
        self,
        learned: Learned,
        refined: Decision,
        field: Matrix,
        unit: Matrix,
        opinion: Matrix,
        votes: Indices,
        nearest: Indices,
        pins: Pins,
    ) -> tuple[Learned, Decision]:
        """A linear model learns the field's labels; its odds for images it has not seen count beside the field's."""
        settings, classes = self.config.linear, len(self.classes)
        spread = linear.log_spread(opinion)
        inputs = linear.joined(unit, opinion, spread=spread)
        held_out = linear.held_out(
            inputs,
            field.argmax(axis=1),
            classes,
            decay=settings.decay,
            rounds=settings.rounds,
            seed=self.config.seed,
        )
        guessed = linear.logarithms(held_out, 1e-9)
        odds = linear.logarithms(field, 1e-3)
        odds += guessed
        label = odds.argmax(axis=1)
        accuracy, others = pins.unaided(label, votes, nearest, held_out.argmax(axis=1)), pins.others(len(label))
        model = linear.fit_linear(inputs, label, classes, decay=settings.decay, rounds=settings.rounds)
        sharpness = calibrated(guessed, accuracy)
        decided = overruled(refined, label, confidences(odds, calibrated(odds[others], accuracy)))
        return replace(learned, linear=model, spread=spread, sharpness=sharpness), decided

    def _all(self, images: Images, known: Known | None, clock: Clock) -> Labels:
        """Labels of every image, in memory."""
        made: list[Labels] = []
        with clock.predicting(len(images), known):
            for rows in parts(len(images)):
                made.append(self.label(images, rows, known, partial(clock.predicted, sum(map(len, made)))))
        return Labels.joined(made, replace(made[0].facts, ledger=clock.ledger), images.quarantine)


def _candidates(classes: int, n: int) -> list[int]:
    """Numbers of clusters to try: all up to 12, then each a sixth more, to four times the number of classes."""
    most, tried = min(max(4 * classes, 12), n - 1), [2]
    while tried[-1] < most:
        tried.append(min(most, max(tried[-1] + 1, round(tried[-1] * 7 / 6))))
    return tried


def _consistency(near: Indices, groups: Indices, reach: int) -> Matrix:
    """The share of the `reach` nearest, the image itself among them, that lie in its cluster [N]."""
    others = near[:, : max(reach - 1, 1)]
    share = consistency_from_neighbors(others, groups)
    return np.asarray((share * others.shape[1] + 1) / (others.shape[1] + 1), np.float32)


def _differ(before: Indices, after: Indices) -> float:
    return float((before != after).mean())
