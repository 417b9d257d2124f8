"""SPICE from pixels: the three stages in their order, each continuing where a killed run left it."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gdui.config import Config
from gdui.images import Source, Transform
from gdui.labeling import graph
from gdui.labeling.cluster import Assignment, HeadFit, Heads, assign, fit_centroids, fit_heads
from gdui.labeling.encoders import Encoder, load_encoder
from gdui.labeling.encoders.load import IMAGENET
from gdui.labeling.encoders.published import SIDES, published_heads, published_trunk, read_checkpoint
from gdui.labeling.joint import Head, Reliable, choose, train_jointly
from gdui.labeling.looks import Looks, Pixels
from gdui.labeling.neighbors import consistency, neighbors
from gdui.labeling.pictures import pictures_of
from gdui.labeling.represent import represent
from gdui.runs import atomic_path
from gdui.training.backbones import Backbone, backbone, centre, outputs
from gdui.training.ranks import check_groups, from_first, joined, own_device

__all__ = [
    "SPICE",
    "Spice",
    "Stages",
    "cluster_of_class",
    "learn",
    "learn_heads",
    "learn_source",
]

Progress = Callable[[str, int, int], None]
Matrix = npt.NDArray[np.float32]
Clusters = npt.NDArray[np.int32]
NAME = "spice"  # of the encoder that comes out
SPICE = "spice.safetensors"  # and of the file it stands in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spice:
    """What was learned from pixels: the network, the head on its unit features, and how pictures are brought to it."""

    trunk: Backbone
    head: Heads
    transform: Transform

    def encoder(self, batch: int | None = None) -> Encoder:
        """The network as any other encoder: its vectors go into a feature store, its hash tells them from others."""
        made = load_encoder(self.trunk, transform=self.transform, dtype="float32", batch=batch)
        return replace(made, name=NAME)

    def logits(self, features: npt.NDArray[np.float32]) -> Tensor:
        """P as logits [n, K], from the encoder's vectors [n, d]."""
        return self.head(features)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything into one file of safetensors."""
        head = {f"head.{name}": torch.from_numpy(getattr(self.head, name)) for name in Heads.__dataclass_fields__}
        tensors = {f"trunk.{name}": value.cpu() for name, value in self.trunk.state_dict().items()} | head
        about = {"backbone": self.trunk.name, "channels": self.trunk.channels, "size": self.transform.size}
        about |= {"mean": self.transform.mean, "std": self.transform.std}
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"gdui": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["gdui"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            trunk = backbone(about["backbone"], about["channels"], side=about["size"])
            trunk.load_state_dict({name: tensors[f"trunk.{name}"] for name in trunk.state_dict()})
            head = Heads(**{name: tensors[f"head.{name}"].numpy() for name in Heads.__dataclass_fields__})
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{os.fspath(path)} holds nothing that was learned from pixels: {error!r}") from None
        transform = _transform(about["size"], about["mean"], about["std"])
        return cls(trunk.eval().requires_grad_(False), head, transform)


@dataclass(frozen=True)
class Stages:
    """How the images fell after stage 2 and after stage 3, and how many were reliable in each round."""

    head: HeadFit
    before: Assignment
    after: Assignment
    reliable: tuple[int, ...]


def learn(
    pixels: Pixels,
    k: int,
    config: Config,
    folder: str | os.PathLike[str],
    *,
    given: npt.NDArray[np.integer] | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[Spice, Stages]:
    """Clusters pictures by nothing but themselves; the checkpoints of each stage stand below `folder`.

    Args:
        pixels: uint8 [N, size, size, 3].
        k: clusters.
        given: classes that are known, -1 where none is [N]; their images join the reliable ones, under the clusters
            that hold most of each class.
        progress: called with (stage, pictures shown, pictures to show).
    """
    if not 1 <= k <= len(pixels):
        raise ValueError(f"k must be between 1 and the {len(pixels)} pictures, not {k}")
    folder, place = Path(folder), torch.device(device)
    tell = [None if progress is None else partial(progress, stage) for stage in ("represent", "joint")]
    with joined(place):
        check_groups("joint", config.joint.groups)
        trunk, looks, said = _first_network(pixels, k, config, folder / "represent", place, tell[0])
        unit = unit_features(trunk, looks, pixels, place)
        fit = from_first(partial(learn_heads, unit, k, config, said), place)
        log.info("head %d kept, loss %.3f, %d revived", fit.kept, fit.losses.min(), fit.revived)
        head, reliable = fit.model, []
        before = found = assign(head, unit)
        for round_ in range(config.joint.rounds):
            taught = from_first(partial(_reliable, unit, found, k, config, given), place)
            log.info("round %d: %d of %d images are reliable", round_ + 1, len(taught.rows), len(unit))
            reliable.append(len(taught.rows))
            trunk, top = train_jointly(
                *_beginning(trunk, head, looks, config),
                pixels,
                looks,
                taught,
                config.joint,
                folder / f"joint-{round_ + 1}",
                seed=config.seed + round_,
                device=place,
                progress=tell[1],
            )
            unit, head = unit_features(trunk, looks, pixels, place), Heads(*top.arrays())
            found = assign(head, unit)
    spice = Spice(trunk, head, _transform(looks.side, looks.mean, looks.std))
    return spice, Stages(fit, before, found, tuple(reliable))


def learn_source(
    source: Source | None,
    classes: Sequence[str],
    config: Config,
    folder: str | os.PathLike[str],
    *,
    pins: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Spice:
    """`learn` from the pictures of a source, or a sample as large as config.fit_rows says, on a GPU where there is one.

    Args:
        classes: as many clusters are learned as there are names, unless config.k says otherwise.
        pins: labels that a person gave, id -> class name; other names are passed over.
    """
    if source is None:
        raise ValueError("clusterer 'spice' learns from pixels: hand in a source of images, not their features")
    if config.k == "auto":
        raise ValueError("k can't be 'auto' with clusterer 'spice', whose heads must know it: give a number, or None")
    pins, position = pins or {}, {name: at for at, name in enumerate(classes)}
    most = config.rows_to_fit(len(classes))
    decoded = pictures_of(source, config.represent.size, most=most, always=pins.keys(), seed=config.seed)
    given = np.array([position.get(pins.get(id_, ""), -1) for id_ in decoded.ids], np.int64)
    return learn(
        decoded.pixels,
        len(classes) if config.k is None else int(config.k),
        config,
        folder,
        given=given if (given >= 0).any() else None,
        device=own_device(),
        progress=progress,
    )[0]


def cluster_of_class(cluster: npt.NDArray[np.integer], given: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.int64]:
    """For each class that is given the cluster that stands for it, and -1 at the end, for images without a class.

    Classes and clusters are paired so that most of the given images lie where they belong; a class for which no cluster
    is left joins the one that holds most of it.
    """
    known = np.flatnonzero(given >= 0)
    counts = np.zeros((int(given.max(initial=-1)) + 1, k), np.int64)
    np.add.at(counts, (given[known], cluster[known]), 1)
    wanted = counts.argmax(axis=1) if len(counts) else np.empty(0, np.int64)
    rows, columns = linear_sum_assignment(-counts)
    wanted[rows] = columns
    return np.append(wanted, -1)


def unit_features(trunk: Backbone, looks: Looks, pixels: Pixels, device: torch.device) -> npt.NDArray[np.float32]:
    """Features of all pictures at length 1 [N, d]."""
    rows = [F.normalize(found, dim=1).cpu() for found in outputs(trunk, looks.batches(pixels, device))]
    return torch.cat(rows).numpy()


def _first_network(
    pixels: Pixels,
    k: int,
    config: Config,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> tuple[Backbone, Looks, list[Clusters]]:
    """Stage 1, or the published network in its place; how it sees pictures; what published heads of k clusters say."""
    settings, looks = config.represent, Looks.of(pixels, config.represent.views)
    if settings.weights is None:
        trunk = represent(pixels, looks, settings, folder, seed=config.seed, device=device, progress=progress)
        return trunk, looks, []
    if settings.backbone not in SIDES:
        raise ValueError(
            f"represent.backbone must say which network represent.weights are of, one of {', '.join(SIDES)}, "
            f"not {settings.backbone!r}"
        )
    state = read_checkpoint(settings.weights)
    trunk = published_trunk(settings.backbone, state, looks.side).to(device)
    looks = replace(looks, channels=trunk.channels, mean=IMAGENET.mean, std=IMAGENET.std)
    heads = [Heads(*one) for one in published_heads(state)]
    if others := {head.k for head in heads} - {k}:
        log.warning("heads of %s clusters in %s say nothing of %d", sorted(others), settings.weights, k)
    raw = torch.cat([found.cpu() for found in outputs(trunk, looks.batches(pixels, device))]).numpy()
    said = [assign(head, raw).cluster for head in heads if head.k == k]
    return centre(trunk, looks.batches(pixels, device)), looks, said


def _reliable(
    unit: Matrix, found: Assignment, k: int, config: Config, given: npt.NDArray[np.integer] | None
) -> Reliable:
    """The images that teach in stage 3, those of a given class among them."""
    agree = consistency(unit, found.cluster, min(config.neighbors.consistency, len(unit)), config.neighbors.method)
    pinned = None if given is None else cluster_of_class(found.cluster, given, k)[given]
    return choose(agree, found.cluster, found.confidence, k, config.joint, pinned)


def _beginning(trunk: Backbone, head: Heads, looks: Looks, config: Config) -> tuple[Backbone, Head]:
    """What stage 3 starts from: the first two stages, or fresh weights of the same shapes."""
    top = Head(head.hidden, head.hidden_bias, head.out, head.out_bias)
    if config.joint.init == "warm":
        return trunk, top
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        fresh = backbone(trunk.name, trunk.channels, side=looks.side)
        for weight in top.weights:
            torch.nn.init.normal_(weight, std=(2 / len(weight)) ** 0.5) if weight.ndim == 2 else weight.data.zero_()
    return fresh, top


def learn_heads(unit: Matrix, k: int, config: Config, said: Sequence[Clusters] = ()) -> HeadFit:
    """Stage 2. Some heads learn what published ones `said`, and clusters among the slow modes of the neighbours' graph.

    The neighbours then also say which head is kept: the one whose clusters leave least of them, as many as eq. 7 asks.
    A few of the nearest would not do: clusters that cut through a class part hardly any of those.
    """
    settings = config.cluster.of_heads() | {"seed": config.seed}
    if not (config.cluster.informed or said) or len(unit) < 3:
        return fit_heads(unit, k, **settings)
    edges, wide = (min(many, len(unit) - 1) for many in (config.graph.neighbors, config.neighbors.consistency - 1))
    near = neighbors(unit, max(edges, wide, 1), config.neighbors.method, include_self=False)
    count = min(config.graph.modes * k, config.graph.most_modes)
    web = graph.adjacency(near.indices[:, :edges], near.similarity[:, :edges])
    modes = graph.modes(web, count, seed=config.seed)
    seeds = range(config.seed, config.seed + config.cluster.informed)
    found = [*said, *(assign(fit_centroids(modes, k, seed=seed), modes).cluster for seed in seeds)]
    asked = near.indices[:, : max(wide, 1)]
    given = found[: config.cluster.heads]
    return fit_heads(unit, k, **settings, given=given, worth=lambda clusters: graph.modularity(clusters, asked))


def _transform(size: int, mean: Any = (0.5,), std: Any = (0.5,)) -> Transform:
    """To a square of this size; one mean stands for all three channels of grey pictures."""
    mean, std = (tuple(values) * (3 // len(values)) for values in (mean, std))
    return Transform(size, filter="bilinear", mean=mean, std=std)
