"""The same work on the machines of a Ray cluster: shards encoded, learned from and labelled to the same bytes.

Ray's actors and tasks, and not Ray Data: a shard already is what is read, decoded ahead, encoded and written by one
process in little memory. What goes around is the names of shards; no pixel and no vector passes through Ray.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gdui import checks
from gdui.config import Config
from gdui.images import Shard, Source
from gdui.labeling.features import encode_shards
from gdui.labeling.handed import Inputs
from gdui.labeling.job import Classes, Job, Pass, Work, counted, write_part
from gdui.labeling.parts import parts as pieces
from gdui.labeling.spice import SPICE, Spice
from gdui.runs import Run

__all__ = ["Cluster", "RayJob", "join_cluster", "share"]

HANDFUL = 4  # shards at once: while one is written, the next is decoded
DEATHS = 5  # of its workers that a handful survives
PATIENCE = 60.0  # seconds beyond three times the longest yet, before a second worker gets what one may have died of

Spec = tuple[Run, Inputs, Config]


@dataclass(frozen=True)
class Cluster:
    """What each worker gets of the machines: so many of them, of cores and of GPUs."""

    workers: int
    cores: float
    gpus: float
    machine: float  # the cores of one machine, for what is done once

    def each(self) -> dict[str, Any]:
        """What Ray is asked for."""
        return {"num_cpus": self.cores, "num_gpus": self.gpus}

    def alone(self) -> dict[str, Any]:
        """The same for a task that is alone."""
        return {"num_cpus": self.machine, "num_gpus": min(1.0, self.gpus)}


def share(held: Sequence[float], workers: int) -> float:
    """The largest share that `workers` can have each, where machines hold so much and no share spans two."""
    fits = (whole for one in held for at in range(1, workers + 1) if _fit(held, whole := _even(one / at)) >= workers)
    return max(fits)


def _even(cores: float) -> float:
    """Ray counts whole cores, or parts of one."""
    return float(int(cores)) if cores >= 1 else int(cores * 1000) / 1000


def _fit(held: Sequence[float], each: float) -> int:
    return sum(int(one / each + 1e-6) for one in held)


def join_cluster(workers: int | None) -> Cluster:
    """The cluster that `ray start` or RAY_ADDRESS names, or else one of this machine alone."""
    try:
        import ray
    except ImportError:
        raise ImportError("engine 'ray' needs Ray, which is not installed: pip install 'gdui[ray]'") from None
    if workers is not None:
        checks.whole("workers", workers, 1, 1 << 16)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [node["CPU"] for node in nodes if node.get("CPU")]
    gpus = [node["GPU"] for node in nodes if node.get("GPU") and node.get("CPU")]
    if not cores:
        raise ValueError("the Ray cluster has no machine with a core to work on")
    if not gpus:
        count = workers or len(cores)
        return Cluster(count, share(cores, count), 0.0, min(cores))
    count = workers or int(sum(gpus))
    beside = [node["CPU"] for node in nodes if node.get("GPU") and node.get("CPU")]
    return Cluster(count, share(beside, count), min(1.0, share(gpus, count)), min(beside))


class RayJob(Job):
    """A piece of work on a run folder that every machine of a cluster can reach; this process keeps the books."""

    def __init__(self, cluster: Cluster, *given: Any) -> None:
        super().__init__(*given)
        self.cluster = cluster

    @property
    def _spec(self) -> Spec:
        return self.run, self.inputs, self.config

    def _encode(self, images: Source) -> pa.Table:
        start, seen, done, total = time.perf_counter(), 0, 0, counted(images.shards)
        size = max(1, min(HANDFUL, len(images.shards) // (4 * self.cluster.workers)))
        handfuls = [images.shards[at : at + size] for at in range(0, len(images.shards), size)]
        with self._workers(len(handfuls)) as workers:
            for at, (encoded, met) in _spread(workers, "encode", handfuls):
                done, seen = done + (counted(handfuls[at]) or met), seen + encoded
                if self.progress is not None:
                    self.progress("encode", done, total)
            rejected = _got(workers[0].seal.remote(images.shards))
        self.run.sweep()
        if seen:
            self.ledger["encode"] = time.perf_counter() - start, seen
        return rejected

    def begun(self, classes: Classes, pins: Mapping[str, str], stamp: Mapping[str, str]) -> Work:
        import ray

        if (work := self.taken_up(stamp)) is None:
            # Threads change no result, so the task may take the machine that it gets as it is.
            fit = ray.remote(max_retries=DEATHS, **self.cluster.alone())(_fit_once)
            self.ledger |= _got(fit.remote(self._spec, self.cluster.machine, classes, dict(pins), dict(stamp)))
            work = self.taken_up(stamp)
        if work is None:
            raise OSError(f"what was learned has gone from {self.run.parts}")
        return work

    def _label(self, work: Work, stamp: Mapping[str, str]) -> int:
        if work.known is not None and len(work.known.rows) == len(work.images):
            return super()._label(work, stamp)
        extends, done = work.kept is not None, 0
        parts, count = self.parts(stamp, extends=extends), 0
        todo = []
        for count, rows in enumerate(pieces(len(work.images)), 1):
            if not parts.path(count - 1).exists():
                todo.append((count - 1, int(rows[0]), len(rows)))
        with self._workers(len(todo), dict(stamp), extends) as workers:
            for at, _ in _spread(workers, "label", todo):
                done += todo[at][2]
                work.clock.predicted(0, done)
        return count

    @contextmanager
    def _workers(self, work: int, *about: Any) -> Iterator[list[Any]]:
        """As many as so many pieces of work can keep busy."""
        import ray

        actor = ray.remote(max_restarts=-1, max_task_retries=DEATHS, **self.cluster.each())(_Worker)
        count = max(1, min(self.cluster.workers, work))
        made = [actor.remote(self._spec, self.cluster.cores, *about) for _ in range(count)]
        try:
            yield made
        finally:
            for one in made:
                ray.kill(one)


class _Worker:
    """A process that encodes shards, or labels parts, with what it has loaded once."""

    def __init__(self, spec: Spec, cores: float, stamp: Mapping[str, str] | None = None, extends: bool = False) -> None:
        self.job, self.stamp, self.extends = _local_job(spec, cores), stamp or {}, extends
        self._work: Work | None = None
        self._passes: list[Pass] = []

    @property
    def passes(self) -> list[Pass]:
        """Encoders and stores, opened when first asked for: a mistake in them is the work's, and not the actor's."""
        self._passes = self._passes or self.job.passes()
        return self._passes

    @property
    def work(self) -> Work:
        """The labeler and the images."""
        if self._work is None:
            self._work = self.job.extension() if self.extends else self.job.taken_up(self.stamp)
        if self._work is None:
            raise OSError(f"what was learned has gone from {self.job.run.parts}")
        return self._work

    def encode(self, shards: Sequence[Shard]) -> tuple[int, int]:
        """Encodes those shards that lack; how many images that were, and how many with those that can't be read."""
        done = [encode_shards(shards, encoder, store, beside=beside) for _, encoder, store, beside in self.passes]
        return done[-1].images, done[-1].images + done[-1].quarantined

    def seal(self, shards: Sequence[Shard]) -> pa.Table:
        """Writes down that these are all; what could not be read of them."""
        for _, _, store, beside in self.passes:
            for kept in (store, *([beside[1]] if beside is not None else [])):
                kept.seal(shards)
        return self.passes[-1].store.quarantine()

    def label(self, part: tuple[int, int, int]) -> None:
        """Labels a part: its number, its first row and how many there are."""
        at, first, count = part
        path = self.job.parts(self.stamp, extends=self.extends).path(at)
        write_part(self.work, np.arange(first, first + count), path)


def _fit_once(
    spec: Spec, cores: float, classes: Classes, pins: Mapping[str, str], stamp: Mapping[str, str]
) -> dict[str, tuple[float, int]]:
    """Learns, and writes down what; how long each stage took."""
    job = _local_job(spec, cores)
    work = job.begun(classes, pins, stamp)
    job.keep(work, stamp)
    return work.clock.ledger


def _local_job(spec: Spec, cores: float) -> Job:
    """The job for this process, which has so many of its machine's cores."""
    os.environ["GDUI_THREADS"] = str(max(1, int(cores)))
    run, inputs, config = spec
    job = Job(run, inputs, config, None)
    if (learned := run.path / SPICE).exists():
        job.spice = Spice.load(learned)
    return job


def _spread(workers: Sequence[Any], method: str, work: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(number, outcome) of each piece of work as it is done, a piece at a time to each worker that is free.

    Ray restarts a dead worker and hands it its piece again. Where no machine is left for it, that waits forever; so a
    piece that takes far too long also goes to another worker. Both come to the same bytes, and the first one counts.
    """
    import ray

    waiting, free, done = deque(range(len(work))), deque(workers), set[int]()
    underway: dict[Any, tuple[int, Any, float]] = {}
    longest = 0.0
    while len(done) < len(work):
        late = [at for at, _, begun in underway.values() if time.monotonic() - begun > PATIENCE + 3 * longest]
        again = [at for at in late if at not in done and [a for a, _, _ in underway.values()].count(at) == 1]
        while free and (waiting or again):
            at, worker = waiting.popleft() if waiting else again.pop(), free.popleft()
            underway[getattr(worker, method).remote(work[at])] = at, worker, time.monotonic()
        for reference in ray.wait(list(underway), timeout=1.0)[0]:
            at, worker, begun = underway.pop(reference)
            free.append(worker)
            if at not in done:
                outcome = _got(reference)
                longest = max(longest, time.monotonic() - begun)
                done.add(at)
                yield at, outcome


def _got(reference: Any) -> Any:
    """What a task or an actor came to; its own mistake, and not Ray's story of it."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise OSError(f"the cluster gave a piece of work up, run again to continue: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
