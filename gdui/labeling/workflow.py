"""Labelling in a run folder: what is done is kept, a killed run continues, and its result is the same to the byte."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gdui import checks
from gdui.config import Config, SourceConfig
from gdui.images import Source, labels_in
from gdui.images.shards import fingerprint
from gdui.labeling.encoders import Encoder, load_encoder, seen_by
from gdui.labeling.features import is_whole
from gdui.labeling.handed import Inputs, address
from gdui.labeling.job import CHECKPOINTS, LABELER, Classes, Job, counted, outcome
from gdui.labeling.labeler import Progress
from gdui.labeling.learned import Learned, digest
from gdui.labeling.pins import check_ids, check_names
from gdui.labeling.spice import learn_source
from gdui.labeling.summary import Outcome
from gdui.labels import Facts, Labels, words
from gdui.labels.pins import read_pins, write_pins
from gdui.places import appended, is_remote, place, remove
from gdui.runs import MANIFEST, OtherSettingsError, Run, flat, read_manifest
from gdui.training.ranks import from_first, joined, own_device
from gdui.training.ranks import place as rank_of

__all__ = ["ENGINES", "MODES", "Outcome", "label_run", "predict_run", "relabel_run"]

ENCODER = "ViT-B-32/laion2b_s34b_b79k"
MODES = ("continue", "overwrite", "extend")
ENGINES = ("local", "ray")

NO_CONFIG = ("classes", "descriptions", "inputs")  # what a run's config.toml says beside the settings

log = logging.getLogger(__name__)


def label_run(
    source: str,
    classes: Classes,
    out: str | Path,
    config: Config,
    *,
    ready: bool = False,
    opinions: str | None = None,
    labels: str | Path | None = None,
    labels_column: str | None = None,
    mode: str = "continue",
    engine: str = "local",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Outcome | None:
    """Labels `source` with the names of `classes` in the run folder `out`, which may lie on a store that fsspec knows.

    Under torchrun the ranks share what is learned from pixels; all else is the first one's, and the others return None.

    Args:
        classes: the names, or a mapping from each to texts that describe it.
        source: what `open_source` takes; with `ready` an .npy of features [N, d], or a feature store.
        opinions: an .npy of scores [N, C], where the encoder is not to be asked.
        labels: a CSV of id and label: what is known of some images already. The run keeps it.
        labels_column: the same from a column of the source's Parquet files; see `gdui.images.labels_in`.
        mode: "continue" keeps what an earlier call with the same settings has done, "overwrite" starts anew, "extend"
            labels what is new in the source by what was learned; images that have a label keep it.
        engine: "local" works in this process, "ray" on the machines of a Ray cluster; the labels are the same.
        workers: how many encode at once on the cluster; by default one a GPU, or a machine where there are none.
    """
    names = checks.class_names(classes)
    checks.one_of("mode", mode, MODES)
    kind, out = _job_of(engine, workers), place(out)
    if is_remote(out) and config.clusterer == "spice":
        raise ValueError(f"clusterer 'spice' keeps checkpoints while it learns, so out can't be on a store: {out!s}")
    if config.encode.encoder is None and not ready:
        config = config.override({"encode.encoder": ENCODER})
    inputs = Inputs.of(source, ready, opinions)
    images = inputs.open(out, config.source)
    most = counted(images.shards) if images else 0
    inputs.check_opinions(len(names), most)
    if 0 < most < len(names):
        raise ValueError(f"{words.counted(most, 'image')} for {len(names)} classes: there must be at least as many")
    device = torch.device(own_device())
    with joined(device):
        if rank_of()[0]:
            _learn_along(images, names, config, out, device)
            return None
        given = _given(inputs, names, labels, labels_column, mode, config.source)
        if given and images:
            check_ids(given, images)

        def begin(run: Run, loaded: dict[str, Encoder]) -> Job:
            return kind(run, inputs, config, progress, loaded)

        with _calling(device) as call:
            return _label(begin, inputs, images, classes, out, config, given, mode, call)


def _label(
    begin: Callable[[Run, dict[str, Encoder]], Job],
    inputs: Inputs,
    images: Source | None,
    classes: Classes,
    out: Path,
    config: Config,
    given: Mapping[str, str] | None,
    mode: str,
    call: Callable[[Mapping[str, str]], None],
) -> Outcome:
    """The first rank's part, which is all that there is where there is one."""
    stamp = inputs.stamp(images)
    begins = mode == "overwrite" or not (out / MANIFEST).exists()
    loaded = _encoders(config, inputs) if begins else {}
    opened = "overwrite" if mode == "overwrite" else "continue"
    with _opened(out, _settings(config, classes, inputs), opened) as run, _logged(run):
        job = begin(run, loaded)
        if mode == "extend":
            return _extend(job, images, stamp)
        if given is not None:
            job.give(given)
        pins = _active(_kept_pins(run.given) | _kept_pins(run.corrections), checks.class_names(classes))
        stamp |= _pin_stamp(pins)
        if _is_done(run, stamp):
            return _as_it_stands(run)
        job.learn(images, classes, pins, stamp["source"], call)
        job.encode(images, stamp)
        return job.finish(job.begun(classes, pins, stamp), stamp)


def _given(
    inputs: Inputs,
    names: Sequence[str],
    file: str | Path | None,
    column: str | None,
    mode: str,
    reading: SourceConfig,
) -> dict[str, str] | None:
    """The labels that come with the images, id -> class name; None where none are handed in."""
    if file is None and column is None:
        return None
    if mode == "extend":
        raise ValueError("labels are learned from, and mode 'extend' learns nothing: label in mode 'continue'")
    if column is not None and inputs.ready:
        raise ValueError("labels_column is a column beside the images, and features have none: give a CSV of labels")
    found = {} if column is None else labels_in(inputs.source, column, names, id_column=reading.id_column)
    found |= {} if file is None else read_pins(file)
    check_names(found, names)
    return found


@contextmanager
def _calling(device: torch.device) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Calls the other ranks once to learn with these pins, or in the end tells them that there was nothing to learn."""
    called = []

    def call(pins: Mapping[str, str]) -> None:
        called.append(from_first(lambda: pins, device))

    yield call
    if not called:
        from_first(lambda: None, device)


def _learn_along(images: Source | None, names: Sequence[str], config: Config, out: Path, device: torch.device) -> None:
    """Another rank's part: it waits for the first one's call."""
    pins: Mapping[str, str] | None = from_first(dict, device)
    if pins is not None:
        learn_source(images, names, config, out / CHECKPOINTS, pins=pins)


def _extend(job: Job, images: Source | None, stamp: dict[str, str]) -> Outcome:
    """Labels what is new by what the run has learned; corrections since then wait until it learns anew."""
    run = job.run
    if not run.done("label"):
        raise ValueError(
            f"{run.path} has no labels yet that could be extended: run gdui label in mode 'continue' first"
        )
    before = run.stages["label"]["stamp"]
    stamp |= {name: before[name] for name in ("corrections",) if name in before}
    if before == stamp:
        return _as_it_stands(run)
    job.load(run.path)  # what it learned from pixels is what sees the new ones
    job.encode(images, stamp)
    return job.finish(job.extension(), stamp)


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
            they say of an image stands; those whose name is no class any more stay idle in its file.
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
        if lacking := _lacking(settings):
            log.warning("%s had no %s when it was made: what is usual today is taken", folder, ", ".join(lacking))
        if not run.done("encode"):
            raise ValueError(f"{folder} has not encoded all of its images yet: run gdui label again first")
        before = Labels.from_parquet(run.labels) if run.labels.exists() else None
        job = Job(run, inputs, config, progress)
        job.learn(None, classes, {}, run.stages["encode"]["source"])
        if opinions is None and job.seer is not None and not run.embeddings.exists():
            raise ValueError(
                f"{folder} has clustered features only: give --opinions for the new classes, or label again"
            )
        kept, given = _kept_pins(run.corrections), {} if corrections is None else read_pins(corrections)
        known, active = kept | given, _active(kept, names) | given
        pins = _active(_kept_pins(run.given), names) | active
        work = job.fit(classes, pins)
        run.reopen(_settings(config, classes, inputs), "label")
        if known:
            write_pins(run.corrections, known)
        stamp = inputs.stamp(None) | {"source": run.stages["encode"]["source"]} | _pin_stamp(pins)
        done = job.finish(work, stamp)
    diff = None if before is None else before.diff(done.labels)
    return dataclasses.replace(done, diff=diff, idle=len(known) - len(active))


def predict_run(
    folder: str | Path,
    source: str,
    out: str | Path | None = None,
    *,
    ready: bool = False,
    opinions: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Labels new images in the run folder `out` (by default one below `folder`) by what the run in `folder` learned.

    `settings` by dotted name say how the source is read, where that differs: {"source.image_column": "photo"}.
    """
    manifest = read_manifest(folder)
    if "label" not in manifest["stages"]:
        raise ValueError(f"{folder} is not finished: run gdui label again first")
    _refuse_others(folder, manifest["settings"])
    inputs = Inputs.of(source, ready, opinions)
    labeler = place(folder) / LABELER
    about = Learned.load(labeler)[1]
    facts = Facts.from_json(about["facts"])
    learned = {"run": str(place(folder).resolve()), "encoders": [facts.encoder_hash, facts.named_hash]}
    target = place(folder) / "predicted" / Path(source).name if out is None else place(out)
    reading = SourceConfig.remembered(manifest["settings"], settings or {})
    images = inputs.open(target, reading)
    inputs.check_opinions(len(about["classes"]), counted(images.shards) if images else 0)
    stamp = inputs.stamp(images) | {"learned": digest(labeler)}
    own = {"learned": learned, "inputs": inputs.to_dict()} | ({"source": said} if (said := reading.given()) else {})
    with Run(target, own, mode=_mode(target, own)) as run, _logged(run):
        if _is_done(run, stamp):
            return _as_it_stands(run)
        config = dataclasses.replace(_config_of(manifest["settings"]), source=reading)
        job = Job(run, inputs, config, progress)
        able = job.load(place(folder))
        job.encode(images, stamp)
        return job.finish(job.recalled(able), stamp)


def _job_of(engine: str, workers: int | None) -> Callable[..., Job]:
    """What makes a job on this engine."""
    checks.one_of("engine", engine, ENGINES)
    if engine == "local":
        if workers is not None:
            raise ValueError("workers are the cluster's: give engine 'ray', or GDUI_THREADS for this machine's threads")
        return Job
    from gdui.labeling.distribute import RayJob, join_cluster

    return partial(RayJob, join_cluster(workers))


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


def _opened(out: Path, settings: dict[str, Any], mode: str) -> Run:
    """The run in `out`; if an older gdui made it without settings that there are now, nobody can give the same."""
    try:
        return Run(out, settings, mode=mode)
    except OtherSettingsError:
        manifest = read_manifest(out)
        if not (lacking := _lacking(manifest["settings"])):
            raise
        raise OtherSettingsError(
            f"{out} was made by gdui {manifest['gdui']} without {', '.join(lacking)}, so this gdui can't continue it: "
            "choose another folder, or mode 'overwrite'; relabel and predict work on it as it is"
        ) from None


def _lacking(settings: Mapping[str, Any]) -> list[str]:
    """What a run's gdui had no setting for: those that have some value in every run of today."""
    known = flat(settings)
    usual = Config.named(settings.get("preset", "default")).items()
    return [name for name, value in usual if value is not None and name not in known]


def _config_of(settings: dict[str, Any]) -> Config:
    return Config.from_dict({name: value for name, value in settings.items() if name not in NO_CONFIG})


def _kept_pins(path: Path) -> dict[str, str]:
    """What a person has said of the run's images so far."""
    return read_pins(path) if path.exists() else {}


def _active(pins: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Those that say that no class fits, or name one that there is."""
    meant = {"", *names}
    return {id_: name for id_, name in pins.items() if name in meant}


def _pin_stamp(pins: Mapping[str, str]) -> dict[str, str]:
    return {"corrections": fingerprint(sorted(pins.items()))} if pins else {}


def _is_done(run: Run, stamp: dict[str, str]) -> bool:
    """Whether these inputs are labelled, and no file of the features has gone since."""
    stores = [folder for folder in (run.features, run.embeddings) if folder.exists()]
    return run.stages.get("label", {}).get("stamp") == stamp and all(map(is_whole, stores)) and run.labels.exists()


def _as_it_stands(run: Run) -> Outcome:
    """What a finished run came to; a call that was killed at its very end has left the parts of the labels."""
    remove(run.parts)
    return outcome(run)


def _refuse_others(folder: str | Path, settings: dict[str, Any]) -> None:
    """The demo and `predict` leave run folders too, but nothing that can be taken up again."""
    if "inputs" not in settings or "learned" in settings:
        raise ValueError(f"{folder} was not made by gdui label, so there is nothing to relabel or predict with")


@contextmanager
def _logged(run: Run) -> Iterator[None]:
    """What gdui logs meanwhile, from INFO on, also goes to the run's own log."""
    logger = logging.getLogger("gdui")
    level = logger.level
    with appended(run.log) as path:
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()
