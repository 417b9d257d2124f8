"""SPICE's stages from pixels beside the published algorithm's cost: our own plain rewrite of it, on the same pictures.

The rewrite does what the publications say and no more cleverly: float32, every logit written out, the trunk run again
for every view of every step, one head after the other, similarities of all pairs. It makes its views in batches, as we
do, though the published code makes them one by one. Both stages 2 begin with the same network and run for as many
epochs. The accuracies stand beside the times, and ours may not be less right.
"""

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.harness import Bench
from benchmarks.limits import convolutions, operations, products
from gdui.config import ClusterConfig, Config, JointConfig, RepresentConfig
from gdui.demo.digits import images
from gdui.evaluation.agreement import mapped_accuracy
from gdui.labeling.augment import draws
from gdui.labeling.cluster import Heads, assign
from gdui.labeling.joint import Head, Joint, Reliable, choose
from gdui.labeling.joint import step as joint_step
from gdui.labeling.looks import Looks, Pixels
from gdui.labeling.neighbors import consistency
from gdui.labeling.represent import Contrast, represent
from gdui.labeling.represent import step as contrast_step
from gdui.labeling.spice import learn_heads, unit_features
from gdui.spice_config import PUBLISHED
from gdui.training.backbones import Backbone
from gdui.training.order import rows_of

DEVICES = ("cpu",)

REPEATS, HEADS = 8, 10  # passes over the chosen images in one published epoch, and heads
FASTER, FASTER_HEADS = 1.3, 40  # what is promised of stages 1 and 2
STEPS = 1000  # of the whole training, which rates depend on
PLAIN, LIMIT = "plain eager float32", "bf16 convolutions"
CPU = torch.device("cpu")


def run(bench: Bench) -> None:
    small, large = digits(), noise(512, 32)
    stage_1(bench, "small, 8 x 8, an epoch in batches of 256", small, RepresentConfig(queue=1024), len(small) // 256)
    stage_1(bench, "resnet18, 32 x 32, a batch of 64", large, RepresentConfig("resnet18", batch=64, queue=65536), 1)
    stage_2(bench, small, epochs=1 if bench.quick else ClusterConfig().epochs)
    stage_3(bench, "small, 8 x 8, an epoch in batches of 128", small)


def digits() -> Pixels:
    return images()[..., None].repeat(3, axis=3)


def noise(count: int, side: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def stage_1(bench: Bench, size: str, pixels: Pixels, settings: RepresentConfig, steps: int) -> None:
    """Steps of MoCo, beside plain ones."""
    looks = Looks.of(pixels)
    ours, theirs = (Contrast.begin(looks, settings, 0, CPU) for _ in range(2))

    def way() -> float:
        found = contrast_step(ours, ours.query.train(), ours.key.train(), pixels, looks, settings, STEPS, 0)
        ours.step += 1
        return found

    plain = plain_contrast(theirs, pixels, looks, settings)
    limit = convolutions(steps * operations(way), torch.bfloat16)
    plain()  # both have made as many steps
    took = bench.compare(
        f"stage 1, {size}",
        {PLAIN: partial(mean_of, plain, steps), "gdui": partial(mean_of, way, steps), LIMIT: limit},
        agree=partial(agree, rtol=0.02),
        peers=(PLAIN,),
        limits=(LIMIT,),
        work=float(steps * settings.batch),
        unit="images/s",
    )
    assert bench.quick or took[PLAIN] >= FASTER * took["gdui"], took


def mean_of(step: Callable[[], float], steps: int) -> float:
    """The mean loss of some steps."""
    return float(np.mean([step() for _ in range(steps)]))


def plain_contrast(state: Contrast, pixels: Pixels, looks: Looks, settings: RepresentConfig) -> Callable[[], float]:
    """A step of MoCo as its text says."""
    query, key = (network.to(memory_format=torch.contiguous_format).train() for network in (state.query, state.key))
    descent = torch.optim.SGD(query.parameters(), settings.rate, momentum=0.9, weight_decay=settings.decay)

    def way() -> float:
        climb, turn = min(1.0, (state.step + 1) / 20), np.cos(np.pi * state.step / STEPS)
        descent.param_groups[0]["lr"] = settings.rate * climb * 0.5 * (1 + turn)
        rows = rows_of(state.step, len(pixels), settings.batch, 0)
        shuffled = torch.from_numpy(np.random.default_rng([0, 1, state.step]).permutation(settings.batch))
        first, second = (
            looks.views(pixels[rows], draws(settings.batch, 0, 2 + which, state.step), CPU).contiguous()
            for which in range(2)
        )
        q = F.normalize(torch.cat([query(part) for part in first.chunk(settings.groups)]), dim=1)
        with torch.no_grad():
            found = torch.cat([key(part) for part in second[shuffled].chunk(settings.groups)])
            k = F.normalize(found, dim=1)[torch.argsort(shuffled)]
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ state.queue.T], 1) / settings.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        descent.zero_grad()
        loss.backward()
        descent.step()
        with torch.no_grad():
            for mean, p in zip(key.parameters(), query.parameters(), strict=True):
                mean.mul_(settings.momentum).add_(p, alpha=1 - settings.momentum)
            at = state.step * settings.batch % len(state.queue)
            state.queue[at : at + settings.batch] = k
        state.step += 1
        return float(loss.detach())

    return way


def stage_2(bench: Bench, pixels: Pixels, epochs: int) -> None:
    """All heads for so many epochs, features included, and how right they are."""
    looks, truth = Looks.of(pixels), load_digits().target
    with tempfile.TemporaryDirectory() as folder:
        trunk = represent(pixels, looks, RepresentConfig(epochs=3 if bench.quick else 40), folder)

    def ours(seed: int) -> float:
        config = Config.named("default", seed=seed, **{"cluster.epochs": epochs, "cluster.heads": HEADS})
        unit = unit_features(trunk, looks, pixels, CPU)
        return mapped_accuracy(assign(learn_heads(unit, 10, config).model, unit).cluster, truth)

    def theirs(seed: int) -> float:
        unit = unit_features(trunk, looks, pixels, CPU)
        return mapped_accuracy(assign(plain_heads(trunk, looks, pixels, unit, epochs, seed), unit).cluster, truth)

    size, took, right = f"stage 2, digits, {epochs} epoch{'s' * (epochs > 1)}", {}, {}
    alone = products(operations(partial(ours, 0)))
    bench.record(size, "float32 products", "time", "s", [timed(alone)[0] for _ in range(3)], "limit")
    for name, way, seeds, role in (
        ("gdui", ours, 5, "ours"),
        ("trunk run at each step", theirs, 1 if bench.quick else 3, "peer"),
    ):
        seconds, found = zip(*(timed(partial(way, seed)) for seed in range(seeds)), strict=True)
        bench.record(size, name, "time", "s", list(seconds), role)
        bench.record(size, name, "rate", "images/s", [epochs * len(pixels) / one for one in seconds], role)
        bench.record(size, name, "accuracy", "share", list(found), role)
        took[name], right[name] = np.median(seconds), np.median(found)
    if not bench.quick:
        assert took["trunk run at each step"] >= FASTER_HEADS * took["gdui"], took
        assert right["gdui"] >= right["trunk run at each step"], right


def timed(way: Callable[[], Any]) -> tuple[float, Any]:
    """Its seconds and what it returns."""
    start = time.perf_counter()
    found = way()
    return time.perf_counter() - start, found


def plain_heads(trunk: Backbone, looks: Looks, pixels: Pixels, unit: np.ndarray, epochs: int, seed: int) -> Heads:
    """The published stage 2: scores from weak views, then 8 passes of strong views through the trunk for every head."""
    torch.manual_seed(seed)
    heads = [nn.Sequential(nn.Linear(trunk.dim, 512), nn.ReLU(), nn.Linear(512, 10)) for _ in range(HEADS)]
    descents = [torch.optim.Adam(head.parameters(), PUBLISHED["cluster.rate"]) for head in heads]
    rows, size, number = torch.from_numpy(unit), len(pixels) // 10, itertools.count()

    def seen(chosen: np.ndarray, how: Any) -> Tensor:
        with torch.no_grad():
            u = draws(len(chosen), seed, next(number))
            return F.normalize(trunk(looks.views(pixels[chosen], u, CPU, how).contiguous()), dim=1)

    losses = torch.zeros(HEADS)
    for _ in range(epochs):
        weak = torch.cat(
            [seen(part, looks.weak) for part in np.array_split(np.arange(len(pixels)), len(pixels) // 100)]
        )
        chosen = []
        for head in heads:
            best = head(weak).softmax(1).topk(size // 2, dim=0).indices.T
            chosen.append((rows @ rows[best].mean(1).T).topk(size, dim=0).indices.T.flatten().numpy())
        target = torch.arange(10).repeat_interleave(size)
        losses.zero_()
        for _ in range(REPEATS):
            for part in torch.randperm(len(target)).split(PUBLISHED["cluster.step"]):
                for h, head in enumerate(heads):
                    scores = head(seen(chosen[h][part.numpy()], looks.strong)).softmax(1)
                    loss = F.cross_entropy(scores, target[part])
                    descents[h].zero_grad()
                    loss.backward()
                    descents[h].step()
                    losses[h] += loss.detach()
    first, _, second = heads[int(losses.argmin())]
    weights = (first.weight.T, first.bias[None], second.weight.T, second.bias[None])
    return Heads(*(value.detach().contiguous().numpy() for value in weights))


def stage_3(bench: Bench, size: str, pixels: Pixels) -> None:
    """The choice of the reliable images and an epoch of joint training, beside a plain one."""
    looks, settings = Looks.of(pixels), JointConfig()
    torch.manual_seed(0)
    trunk = Contrast.begin(looks, RepresentConfig(), 0, CPU).query[0]
    shapes = ((trunk.dim, 512), (512,), (512, 10), (10,))
    head = Head(*(np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1 for shape in shapes))
    ours, theirs = (Joint.begin(trunk, head, settings, CPU) for _ in range(2))
    unit, cluster = unit_features(copy.deepcopy(trunk).eval(), looks, pixels, CPU), load_digits().target
    steps, sure = len(pixels) // settings.batch, np.ones(len(pixels))

    def chosen(agreeing: np.ndarray) -> Reliable:
        return choose(agreeing, cluster, sure, 10, settings)

    np.testing.assert_array_equal(chosen(consistency(unit, cluster, 100)).rows, chosen(dense(unit, cluster)).rows)

    def way() -> float:
        taught, losses = chosen(consistency(unit, cluster, 100)), []
        for _ in range(steps):
            losses.append(joint_step(ours, pixels, looks, taught, settings, STEPS, 0))
            ours.step += 1
        return float(np.mean(losses))

    def plainly() -> float:
        return mean_of(plain_joint(theirs, pixels, looks, chosen(dense(unit, cluster)), settings), steps)

    limit = convolutions(operations(way), torch.bfloat16)
    plainly()  # both have made as many steps
    bench.compare(
        f"stage 3, {size}",
        {PLAIN: plainly, "gdui": way, LIMIT: limit},
        agree=partial(agree, rtol=0.05),
        peers=(PLAIN,),
        limits=(LIMIT,),
        work=float(steps * settings.batch),
        unit="images/s",
    )


def dense(unit: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Eq. 7 by all similarities at once, the image itself included."""
    near = (torch.from_numpy(unit) @ torch.from_numpy(unit).T).topk(100, dim=1).indices.numpy()
    return (cluster[near] == cluster[:, None]).mean(1)


def plain_joint(
    state: Joint, pixels: Pixels, looks: Looks, taught: Reliable, settings: JointConfig
) -> Callable[[], float]:
    """A step of FixMatch as its text says."""
    network = state.network.to(memory_format=torch.contiguous_format).train()
    descent = state.optimiser

    def way() -> float:
        descent.param_groups[0]["lr"] = settings.rate * np.cos(7 * np.pi * state.step / (16 * STEPS))
        some = rows_of(state.step, len(taught.rows), settings.batch, 0)
        any_ = rows_of(state.step, len(pixels), settings.batch, 1)
        seen = [
            looks.views(pixels[rows], draws(settings.batch, 0, 10 + which, state.step), CPU, how).contiguous()
            for which, (rows, how) in enumerate(
                [(taught.rows[some], looks.weak), (any_, looks.weak), (any_, looks.strong)]
            )
        ]
        parts = zip(*(views.chunk(settings.groups) for views in seen), strict=True)
        logits = [network(torch.cat(part)).chunk(3) for part in parts]
        reliable, weak, strong = (torch.cat(kind) for kind in zip(*logits, strict=True))
        sure, says = weak.detach().softmax(1).max(1)
        follows = F.cross_entropy(strong, says, reduction="none") * (sure >= settings.threshold)
        loss = F.cross_entropy(reliable, torch.from_numpy(taught.cluster[some])) + follows.mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
        state.step += 1
        return float(loss.detach())

    return way


def agree(results: Mapping[str, float], rtol: float) -> None:
    """The mean loss of both is the same, but for mixed precision."""
    np.testing.assert_allclose(results["gdui"], results[PLAIN], rtol=rtol)
