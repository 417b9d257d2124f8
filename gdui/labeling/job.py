"""One piece of work on a run folder: features where they lack, what is learned from them, labels part by part."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gdui import __version__, checks
from gdui.config import Config
from gdui.images import Shard, Source
from gdui.labeling.encoders import Encoder, load_encoder, seen_by
from gdui.labeling.features import FeatureStore, Ledger, encode_source, load_features
from gdui.labeling.handed import Inputs
from gdui.labeling.inputs import Images
from gdui.labeling.labeler import Labeler, Progress
from gdui.labeling.outcome import Clock, Known
from gdui.labeling.parts import Kept, Parts
from gdui.labeling.parts import parts as pieces
from gdui.labeling.spice import SPICE, Spice, learn_source
from gdui.labeling.summary import Outcome
from gdui.labels import Labels, Totals
from gdui.labels.files import read_quarantine
from gdui.labels.pins import read_pins, write_pins
from gdui.labels.words import Diff, shown
from gdui.runs import Run, atomic_path

__all__ = ["CHECKPOINTS", "LABELER", "Classes", "Job", "Pass", "Work", "counted", "outcome", "write_part"]

LABELER = "labeler"
CHECKPOINTS = "spice"
EXAMPLES = 3

Classes = Sequence[str] | Mapping[str, Sequence[str]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """A labeler and the images that it is to label.

    known: what became of those that it learned from. kept: labels that stay.
    """

    labeler: Labeler
    images: Images
    clock: Clock
    known: Known | None = None
    kept: Kept | None = None

    def labels(self, rows: npt.NDArray[np.int64]) -> Labels:
        """Of some images."""
        tell = partial(self.clock.predicted, int(rows[0]) if len(rows) else 0)
        made = partial(self.labeler.label, self.images, known=self.known, tell=tell)
        return made(rows) if self.kept is None else self.kept.completed(rows, made)


class Pass(NamedTuple):
    """An encoder that sees all images, and another with its store that sees the same pictures beside it."""

    stage: str
    encoder: Encoder
    store: FeatureStore
    beside: tuple[Encoder, FeatureStore] | None = None


class Job:
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
            rejected = self._encode(images)
            quarantined = rejected.num_rows
            with atomic_path(self.run.quarantine) as path:
                pq.write_table(rejected, path)
        ignored = images.ignored if images is not None else ()
        left_out = {"left_out": len(ignored), "examples": list(ignored[:EXAMPLES])}
        self.run.finish("encode", source=stamp["source"], quarantined=quarantined, **left_out)

    def give(self, labels: Mapping[str, str]) -> None:
        """Takes labels that come with the images; others than before teach the network anew."""
        if labels == (read_pins(self.run.given) if self.run.given.exists() else {}):
            return
        if self.config.clusterer == "spice":
            self._unlearn("joint-*")
        write_pins(self.run.given, labels)

    def learn(
        self,
        images: Source | None,
        classes: Classes,
        pins: Mapping[str, str],
        source: str,
        call: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> None:
        """With clusterer "spice", lets a network learn from the pictures, or takes what it has learned from them.

        The other ranks are `call`ed to take part, with what they must know.
        """
        if self.config.clusterer != "spice":
            return
        path = self.run.path / SPICE
        if images is not None and self.run.stages.get("learn", {}).get("source", source) != source:
            self._unlearn("*")
        if not self.run.done("learn"):
            call(pins)
            start, folder = time.perf_counter(), self.run.path / CHECKPOINTS
            learn_source(images, list(classes), self.config, folder, pins=pins, progress=self.progress).save(path)
            self.ledger["learn"] = time.perf_counter() - start, 0
            self.run.finish("learn", source=source)
        self.spice = Spice.load(path)

    def _unlearn(self, stages: str) -> None:
        """What teaches has changed: nothing of the network before may stay, its features least of all."""
        for folder in [*(self.run.path / CHECKPOINTS).glob(stages), self.run.features]:
            shutil.rmtree(folder, ignore_errors=True)
        self.run.reopen(self.run.settings, "learn", "encode", "label")

    def passes(self) -> list[Pass]:
        """Who is to see the images, one after the other; two that see pictures alike share what is read."""
        seer, namer = self.seer or self.encoder, self.encoder if self.seer is not None and self.asks else None
        if seer is None:
            raise ValueError("images can't be labelled without an encoder: name one with --encoder")
        first = seer, FeatureStore(self.run.features, seer)
        if namer is None:
            return [Pass("encode", *first)]
        second = namer, FeatureStore(self.run.embeddings, namer)
        if namer.transform == seer.transform:
            return [Pass("encode", *first, second)]
        return [Pass("embed", *second), Pass("encode", *first)]

    def _encode(self, images: Source) -> pa.Table:
        """Fills the store of each encoder that sees the images; those that could not be read."""
        for stage, encoder, store, beside in (passes := self.passes()):
            total = counted(shard for shard in images.shards if shard not in store)
            tell = partial(self._encoding, stage, total)
            self._enter(stage, encode_source(images, encoder, store, beside=beside, progress=tell))
        return passes[-1].store.quarantine()

    def begun(self, classes: Classes, pins: Mapping[str, str], stamp: Mapping[str, str]) -> Work:
        """What a killed call has learned from these inputs, if it came so far, or else what they teach now."""
        return self.taken_up(stamp) or self.fit(classes, pins)

    def fit(self, classes: Classes, pins: Mapping[str, str]) -> Work:
        """Learns from the inputs, and from the labels that a person gave."""
        arrays = self.arrays()
        settings = dict(self.config.items())
        preset, k, seed = (settings.pop(name) for name in ("preset", "k", "seed"))
        labeler = Labeler(classes, self.encoder, preset, k, seed, **settings)
        if self.spice is not None:
            labeler.use(self.spice)
        images, clock = labeler.look(**arrays), Clock(self.progress)
        unread = set(read_quarantine(self.run.quarantine)["id"].to_pylist()) if self.run.quarantine.exists() else ()
        heard = {id_: name for id_, name in pins.items() if id_ not in unread}
        return Work(labeler, images, clock, labeler.learn(images, clock, heard))

    def load(self, folder: Path) -> Labeler:
        """The labeler of the run in `folder`, and what it learned from pixels."""
        if (seen := folder / SPICE).exists():
            self.spice = Spice.load(seen)
        return Labeler.load(folder / LABELER, self.encoder)

    def recalled(self, labeler: Labeler) -> Work:
        """The inputs, for a labeler that has learned."""
        return Work(labeler, labeler.recall(**self.arrays()), Clock(self.progress))

    def taken_up(self, stamp: Mapping[str, str]) -> Work | None:
        """What a killed call has learned from these inputs, if it came so far."""
        parts = self.parts(stamp, extends=False)
        if not (parts.begun and parts.learned.exists()):
            return None
        return dataclasses.replace(self.recalled(self.load(self.run.path)), known=Known.load(parts.learned))

    def extension(self) -> Work:
        """What is new among the inputs, for the labeler of the run; what has a label keeps it."""
        labels = Labels.from_run(self.run.path)
        work = self.recalled(self.load(self.run.path))
        return dataclasses.replace(work, kept=Kept.among(work.images, labels))

    def keep(self, work: Work, stamp: Mapping[str, str]) -> None:
        """Writes down what was learned, where a call has only begun that."""
        parts = self.parts(stamp, extends=work.kept is not None)
        parts.begin()
        if work.known is not None and not parts.learned.exists():
            work.labeler.save(self.run.path / LABELER)
            if work.labeler.criterion:
                work.labeler.plot_criterion(self.run.path / "criterion.png")
            work.known.save(parts.learned)

    def finish(self, work: Work, stamp: dict[str, str]) -> Outcome:
        """Labels the images part by part, joins these, and closes the books."""
        self.keep(work, stamp)
        parts = self.parts(stamp, extends=work.kept is not None)
        with work.clock.predicting(len(work.images), work.known):
            count = self._label(work, stamp)
        start = time.perf_counter()
        totals = parts.join(count, self.run.labels)
        write, images = self.ledger.pop("write", (0.0, 0))
        self.ledger |= work.clock.ledger
        self.ledger["write"] = write + time.perf_counter() - start, max(images, totals.images)
        self.run.finish("label", stamp=stamp, ledger=self.ledger)
        parts.remove()
        return outcome(self.run, totals, self.ledger, None if work.kept is None else work.kept.diff())

    def _label(self, work: Work, stamp: Mapping[str, str]) -> int:
        """Makes the parts that lack; how many there are in all."""
        count = 0
        for count, rows in enumerate(pieces(len(work.images)), 1):
            write_part(work, rows, self.parts(stamp, extends=work.kept is not None).path(count - 1))
        return count

    def parts(self, stamp: Mapping[str, str], *, extends: bool) -> Parts:
        """The labels that are underway; those of an extension are others."""
        about = {"gdui": __version__, "settings": self.run.configuration, "extends": extends}
        return Parts(self.run.parts, about | dict(stamp))

    def arrays(self) -> dict[str, Any]:
        """The inputs as a labeler takes them."""
        features = load_features(self.inputs.source if self.inputs.ready else self.run.features)
        if not len(features):
            raise ValueError(f"source {self.inputs.source!r} holds no images{self._first_unread()}")
        if self.inputs.opinions is not None:
            return {"features": features, "opinions": self.inputs.opinions}
        two = self.run.embeddings.exists() and not self.inputs.ready
        return {"features": features, "embeddings": load_features(self.run.embeddings) if two else None}

    def _first_unread(self) -> str:
        """Why nothing of the source could be read, by the first of it."""
        unread = read_quarantine(self.run.quarantine) if self.run.quarantine.exists() else None
        if unread is None or not unread.num_rows:
            return ""
        first = unread.slice(0, 1).to_pylist()[0]
        return f" that can be read ({shown(first['id'])}: {first['reason']}); {self.run.quarantine} lists all"

    def _encoding(self, stage: str, total: int, done: Ledger) -> None:
        if self.progress is not None:
            self.progress(stage, done.images + done.quarantined, total)

    def _enter(self, stage: str, done: Ledger) -> None:
        """Adds what was done to the books; two encoders that see pictures otherwise both read and decode."""
        threads = checks.thread_count()
        seconds = {"read": done.clock.read / threads, "decode": done.clock.decode / threads}
        seconds |= {stage: done.encode} | ({"embed": done.beside} if done.beside else {}) | {"write": done.write}
        for name, took in seconds.items() if done.images else ():
            before, images = self.ledger.get(name, (0.0, 0))
            self.ledger[name] = before + took, images + done.images


def write_part(work: Work, rows: npt.NDArray[np.int64], path: Path) -> None:
    """The labels of some images, unless they are there."""
    if not path.exists():
        start = time.perf_counter()
        work.labels(rows).to_parquet(path)
        log.info("part %s: %.2f s for %d images", path.stem, time.perf_counter() - start, len(rows))


def counted(shards: Iterable[Shard]) -> int:
    """How many images the shards hold, 0 where nobody knows."""
    counts = [shard.count for shard in shards]
    return 0 if None in counts else sum(count or 0 for count in counts)


def outcome(
    run: Run,
    totals: Totals | None = None,
    ledger: Mapping[str, tuple[float, int]] = MappingProxyType({}),
    diff: Diff | None = None,
) -> Outcome:
    """What the run came to; without `totals` they are read from its labels."""
    facts, totals = run.stages["encode"], totals or Totals.read(run.labels)
    if run.quarantine.exists():
        totals = dataclasses.replace(totals, quarantine=read_quarantine(run.quarantine))
    return Outcome(run.path, totals, ledger, facts.get("left_out", 0), facts.get("examples", ()), diff)
