"""Labelling in a run folder: what is done is kept, a killed run continues, and its result is the same to the byte."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gdui import checks
from gdui.config import Config
from gdui.images import Shard, Source
from gdui.images.shards import fingerprint
from gdui.labeling.encoders import Encoder, load_encoder, seen_by
from gdui.labeling.features import FeatureStore, Ledger, encode_source, load_features
from gdui.labeling.handed import Inputs, address, read_scores
from gdui.labeling.labeler import Labeler, Progress
from gdui.labeling.learned import Learned, digest
from gdui.labeling.spice import SPICE, Spice, learn_source
from gdui.labeling.summary import Outcome
from gdui.labels import Facts, Labels
from gdui.labels.files import read_quarantine
from gdui.labels.pins import read_pins, write_pins
from gdui.runs import MANIFEST, Run, atomic_path, read_manifest

__all__ = ["Outcome", "label_run", "predict_run", "relabel_run"]

ENCODER = "ViT-B-32/laion2b_s34b_b79k"
LABELER = "labeler"
EXAMPLES = 3

NO_CONFIG = ("classes", "descriptions", "inputs")  # what a run's config.toml says beside the settings

Classes = Sequence[str] | Mapping[str, Sequence[str]]


def label_run(
    source: str,
    classes: Classes,
    out: str | Path,
    config: Config,
    *,
    ready: bool = False,
    opinions: str | None = None,
    mode: str = "continue",
    progress: Progress | None = None,
) -> Outcome:
    """Labels `source` with the names of `classes` in the run folder `out`.

    Args:
        classes: the names, or a mapping from each to texts that describe it.
        source: what `open_source` takes; with `ready` an .npy of features [N, d], or a feature store.
        opinions: an .npy of scores [N, C], where the encoder is not to be asked.
        mode: "continue" keeps what an earlier call with the same settings has done, "overwrite" starts anew.
    """
    names = checks.class_names(classes)
    if config.encode.encoder is None and not ready:
        config = config.override({"encode.encoder": ENCODER})
    inputs = Inputs.of(source, ready, opinions)
    images = inputs.open(Path(out))
    if images and (most := _total(images.shards)) and most < len(names):
        raise ValueError(f"{most} images are fewer than the {len(names)} classes")
    stamp = inputs.stamp(images)
    begins = mode == "overwrite" or not (Path(out) / MANIFEST).exists()
    loaded = _encoders(config, inputs) if begins else {}
    with Run(out, _settings(config, classes, inputs), mode=mode) as run, _logged(run):
        pins = _kept_pins(run.corrections)
        stamp |= _pin_stamp(pins)
        if _is_done(run, stamp):
            return _outcome(run, Labels.from_run(run.path))
        job = _Job(run, inputs, config, progress, loaded)
        job.learn(images, classes, pins, stamp["source"])
        job.encode(images, stamp)
        return job.finish(job.fit(classes, pins), stamp)


def relabel_run(
    folder: str | Path,
    classes: Classes | None = None,
    *,
    corrections: str | Path | None = None,
    opinions: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Labels the images of the run in `folder` anew; no image is read again.

    Args:
        classes: other names; without them the run's own stay, and so do its opinions.
        corrections: a CSV of id and label, as the report exports it. The run keeps them, beside earlier ones, and what
            they say of an image stands; those whose name is no class any more are dropped.
    """
    settings = read_manifest(folder)["settings"]
    _refuse_others(folder, settings)
    config, inputs = _config_of(settings), Inputs(**settings["inputs"])
    if classes is None and opinions is None:
        opinions = inputs.opinions
    if opinions is None and inputs.opinions and config.encode.encoder is None:
        raise ValueError(f"{folder} has no encoder: give --opinions for the new classes, or label again with --encoder")
    if classes is None:
        texts = settings.get("descriptions", {})
        classes = {name: texts.get(name, []) for name in settings["classes"]}
    names = checks.class_names(classes)
    inputs = dataclasses.replace(inputs, opinions=address(opinions))
    with Run(folder, settings) as run, _logged(run):
        if not run.done("encode"):
            raise ValueError(f"{folder} has not encoded all of its images yet: run gdui label again first")
        before = Labels.from_parquet(run.labels) if run.labels.exists() else None
        job = _Job(run, inputs, config, progress)
        job.learn(None, classes, {}, run.stages["encode"]["source"])
        if opinions is None and job.seer is not None and not run.embeddings.exists():
            raise ValueError(
                f"{folder} has clustered features only: give --opinions for the new classes, or label again"
            )
        kept = {id_: name for id_, name in _kept_pins(run.corrections).items() if name in ("", *names)}
        pins = kept | ({} if corrections is None else read_pins(corrections))
        labels = job.fit(classes, pins)
        run.reopen(_settings(config, classes, inputs), "label")
        if pins:
            write_pins(run.corrections, pins)
        stamp = inputs.stamp(None) | {"source": run.stages["encode"]["source"]} | _pin_stamp(pins)
        outcome = job.finish(labels, stamp)
    return dataclasses.replace(outcome, diff=None if before is None else before.diff(outcome.labels))


def predict_run(
    folder: str | Path,
    source: str,
    out: str | Path | None = None,
    *,
    ready: bool = False,
    opinions: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Labels new images in the run folder `out` (by default one below `folder`) by what the run in `folder` learned."""
    manifest = read_manifest(folder)
    if "label" not in manifest["stages"]:
        raise ValueError(f"{folder} is not finished: run gdui label again first")
    _refuse_others(folder, manifest["settings"])
    inputs = Inputs.of(source, ready, opinions)
    labeler = Path(folder) / LABELER
    facts = Facts.from_json(Learned.load(labeler)[1]["facts"])
    learned = {"run": str(Path(folder).resolve()), "encoders": [facts.encoder_hash, facts.named_hash]}
    target = Path(folder) / "predicted" / Path(source).name if out is None else Path(out)
    images = inputs.open(target)
    stamp = inputs.stamp(images) | {"learned": digest(labeler)}
    settings = {"learned": learned, "inputs": inputs.to_dict()}
    with Run(target, settings, mode=_mode(target, settings)) as run, _logged(run):
        if _is_done(run, stamp):
            return _outcome(run, Labels.from_run(run.path))
        job = _Job(run, inputs, _config_of(manifest["settings"]), progress)
        if (seen := Path(folder) / SPICE).exists():
            job.spice = Spice.load(seen)
        able = Labeler.load(labeler, job.encoder)
        job.encode(images, stamp)
        return job.finish(able.predict(**job.arrays(), progress=progress), stamp)


class _Job:
    """One piece of work on a run folder."""

    def __init__(
        self,
        run: Run,
        inputs: Inputs,
        config: Config,
        progress: Progress | None,
        loaded: Mapping[str, Encoder] | None = None,
    ) -> None:
        self.run, self.inputs, self.config, self.progress = run, inputs, config, progress
        self.loaded = loaded or {}
        self.labeler: Labeler | None = None
        self.spice: Spice | None = None
        self.ledger: dict[str, tuple[float, int]] = {}

    @property
    def asks(self) -> bool:
        """Whether the encoder is asked for an opinion."""
        return self.inputs.opinions is None

    @cached_property
    def encoder(self) -> Encoder | None:
        """What is asked for names, None where nobody needs it."""
        handed_in = (self.inputs.ready or self.seer is not None) and not self.asks
        return None if handed_in else self._load(self.config.encode.encoder)

    @cached_property
    def seer(self) -> Encoder | None:
        """What sees the images that are clustered, None where that is the encoder itself or features are ready."""
        settings = self.config.encode
        if self.spice is not None:
            return self.spice.encoder(settings.batch)
        return None if self.inputs.ready else self._load(seen_by(settings.encoder, settings.cluster_by))

    def _load(self, name: str | None) -> Encoder | None:
        if name is None or name in self.loaded:
            return None if name is None else self.loaded[name]
        return load_encoder(name, batch=self.config.encode.batch)

    def encode(self, images: Source | None, stamp: dict[str, str]) -> None:
        """Features of the images that have none yet, and a list of those that can't be read."""
        quarantined = 0
        if images is not None:
            rejected = self._encode("encode", images, self.run.features, self.seer or self.encoder)
            if self.seer is not None and self.asks:
                self._encode("embed", images, self.run.embeddings, self.encoder)
            quarantined = rejected.num_rows
            with atomic_path(self.run.quarantine) as path:
                pq.write_table(rejected, path)
        ignored = images.ignored if images is not None else ()
        left_out = {"left_out": len(ignored), "examples": list(ignored[:EXAMPLES])}
        self.run.finish("encode", source=stamp["source"], quarantined=quarantined, **left_out)

    def learn(self, images: Source | None, classes: Classes, pins: Mapping[str, str], source: str) -> None:
        """With clusterer "spice", lets a network learn from the pictures, or takes what it has learned from them."""
        if self.config.clusterer != "spice":
            return
        path = self.run.path / SPICE
        if images is not None and self.run.stages.get("learn", {}).get("source", source) != source:
            self._unlearn()
        if not self.run.done("learn"):
            start, folder = time.perf_counter(), self.run.path / "spice"
            learn_source(images, list(classes), self.config, folder, pins=pins, progress=self.progress).save(path)
            self.ledger["learn"] = time.perf_counter() - start, 0
            self.run.finish("learn", source=source)
        self.spice = Spice.load(path)

    def _unlearn(self) -> None:
        """Other pictures teach another network: nothing of the one before may stay, its features least of all."""
        for folder in (self.run.path / "spice", self.run.features):
            shutil.rmtree(folder, ignore_errors=True)
        self.run.reopen(self.run.settings, "learn", "encode", "label")

    def _encode(self, stage: str, images: Source, folder: Path, encoder: Encoder | None) -> pa.Table:
        """Fills the store in `folder`; the images that could not be read."""
        if encoder is None:
            raise ValueError("images can't be labelled without an encoder: name one with --encoder")
        store = FeatureStore(folder, encoder)
        total = _total(shard for shard in images.shards if shard not in store)
        self._enter(stage, encode_source(images, encoder, store, progress=partial(self._encoding, stage, total)))
        return store.quarantine()

    def fit(self, classes: Classes, pins: Mapping[str, str]) -> Labels:
        """Learns from the inputs, and from the labels that a person gave, and labels them."""
        arrays = self.arrays()
        settings = dict(self.config.items())
        preset, k, seed = (settings.pop(name) for name in ("preset", "k", "seed"))
        self.labeler = Labeler(classes, self.encoder, preset, k, seed, **settings)
        if self.spice is not None:
            self.labeler.use(self.spice)
        return self.labeler.fit_predict(**arrays, pins=pins, progress=self.progress)

    def finish(self, labels: Labels, stamp: dict[str, str]) -> Outcome:
        """Writes down the labels, and what was learned, and closes the books."""
        start = time.perf_counter()
        if self.labeler is not None:
            self.labeler.save(self.run.path / LABELER)
            if self.labeler.criterion:
                self.labeler.plot_criterion(self.run.path / "criterion.png")
        labels.to_parquet(self.run.labels)
        write, images = self.ledger.pop("write", (0.0, 0))
        self.ledger |= labels.facts.ledger
        self.ledger["write"] = write + time.perf_counter() - start, max(images, len(labels))
        self.run.finish("label", stamp=stamp, ledger=self.ledger)
        facts = dataclasses.replace(labels.facts, ledger=self.ledger)
        return _outcome(self.run, dataclasses.replace(labels, facts=facts))

    def arrays(self) -> dict[str, Any]:
        """The inputs as a labeler takes them."""
        features = load_features(self.inputs.source if self.inputs.ready else self.run.features)
        if not len(features):
            unread = self.run.stages["encode"]["quarantined"]
            why = f"none of the images could be read: {self.run.quarantine} says why"
            raise ValueError(why if unread else f"source {self.inputs.source!r} holds no images")
        if self.inputs.opinions is not None:
            return {"features": features, "opinions": read_scores(Path(self.inputs.opinions))}
        two = self.run.embeddings.exists() and not self.inputs.ready
        return {"features": features, "embeddings": load_features(self.run.embeddings) if two else None}

    def _encoding(self, stage: str, total: int, done: Ledger) -> None:
        if self.progress is not None:
            self.progress(stage, done.images + done.quarantined, total)

    def _enter(self, stage: str, done: Ledger) -> None:
        """Adds what was done to the books; two encoders both read and decode."""
        threads = checks.thread_count()
        seconds = {"read": done.clock.read / threads, "decode": done.clock.decode / threads}
        seconds |= {stage: done.encode, "write": done.write}
        for name, took in seconds.items() if done.images else ():
            before, images = self.ledger.get(name, (0.0, 0))
            self.ledger[name] = before + took, images + done.images


def _total(shards: Iterable[Shard]) -> int:
    """How many images the shards hold, 0 where nobody knows."""
    counts = [shard.count for shard in shards]
    return 0 if None in counts else sum(count or 0 for count in counts)


def _encoders(config: Config, inputs: Inputs) -> dict[str, Encoder]:
    """What a job will ask, by name, loaded before its run begins: a mistake in a name leaves nothing behind."""
    settings, seen = config.encode, inputs.ready or config.clusterer == "spice"
    seer = None if seen else seen_by(settings.encoder, settings.cluster_by)
    namer = None if (seen or seer is not None) and inputs.opinions is not None else settings.encoder
    return {name: load_encoder(name, batch=settings.batch) for name in (seer, namer) if name is not None}


def _mode(target: Path, settings: dict[str, Any]) -> str:
    """How to open a prediction: anew where an earlier one of the same images by the same run saw them otherwise."""
    before = read_manifest(target)["settings"] if (target / MANIFEST).exists() else {}
    same = before.get("inputs") == settings["inputs"]
    same = same and before.get("learned", {}).get("run") == settings["learned"]["run"]
    return "overwrite" if same and before != settings else "continue"


def _settings(config: Config, classes: Classes, inputs: Inputs) -> dict[str, Any]:
    texts = {name: list(given) for name, given in checks.descriptions(classes).items()}
    described = {"descriptions": texts} if texts else {}
    return config.to_dict() | {"classes": list(classes)} | described | {"inputs": inputs.to_dict()}


def _config_of(settings: dict[str, Any]) -> Config:
    return Config.from_dict({name: value for name, value in settings.items() if name not in NO_CONFIG})


def _kept_pins(path: Path) -> dict[str, str]:
    """What a person has said of the run's images so far."""
    return read_pins(path) if path.exists() else {}


def _pin_stamp(pins: Mapping[str, str]) -> dict[str, str]:
    return {"corrections": fingerprint(sorted(pins.items()))} if pins else {}


def _is_done(run: Run, stamp: dict[str, str]) -> bool:
    return bool(run.stages.get("label", {}).get("stamp") == stamp)


def _outcome(run: Run, labels: Labels) -> Outcome:
    facts = run.stages["encode"]
    if run.quarantine.exists():
        labels = dataclasses.replace(labels, quarantine=read_quarantine(run.quarantine))
    return Outcome(run.path, labels, facts.get("left_out", 0), facts.get("examples", ()))


def _refuse_others(folder: str | Path, settings: dict[str, Any]) -> None:
    """The demo and `predict` leave run folders too, but nothing that can be taken up again."""
    if "inputs" not in settings or "learned" in settings:
        raise ValueError(f"{folder} was not made by gdui label, so there is nothing to relabel or predict with")


@contextmanager
def _logged(run: Run) -> Iterator[None]:
    """What gdui logs meanwhile, from INFO on, also goes to the run's own log."""
    logger, handler = logging.getLogger("gdui"), logging.FileHandler(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
