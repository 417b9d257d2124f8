"""Every decision of the labelling, one frozen dataclass a stage, with its reason, presets and overrides."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from gdui import checks
from gdui.spice_config import PUBLISHED, JointConfig, RepresentConfig

__all__ = [
    "LAYOUTS",
    "METHODS",
    "ClusterConfig",
    "Config",
    "EncodeConfig",
    "GraphConfig",
    "JointConfig",
    "LinearConfig",
    "MatchConfig",
    "NeighborsConfig",
    "RefineConfig",
    "RepresentConfig",
    "SourceConfig",
]

METHODS = ("auto", "exact", "faiss-flat", "faiss-ivf", "faiss-hnsw", "faiss-gpu")
PRESETS = ("paper", "default")
ROWS_PER_CLASS = 100
CLUSTERERS = ("heads", "kmeans", "modes", "spice")
LAYOUTS = ("NHWC", "NCHW", "NHW")


@dataclass(frozen=True)
class SourceConfig:
    """How a source is read where it leaves a doubt. A run remembers it for every later command that opens a source.

    image_column: the Parquet column of the images, where several may be meant.
    id_column: the Parquet column that names the images; without it they are called file/row.
    layout: the axes of an array: "NHWC", "NCHW" or "NHW", where its shape doesn't tell.
    """

    image_column: str | None = None
    id_column: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.layout is not None:
            checks.one_of("source.layout", self.layout, LAYOUTS)

    def given(self) -> dict[str, str]:
        """What is said, as `gdui.images.open_source` takes it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @staticmethod
    def remembered(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> "SourceConfig":
        """As a run's `settings` have it, with `changes` by dotted name; nothing else can be changed by them."""
        for name in changes:
            if not name.startswith("source."):
                raise ValueError(f"only how a source is read can be set here (source.image_column, ...), not {name!r}")
        return Config.from_dict({"source": settings.get("source", {})}).override(changes).source


@dataclass(frozen=True)
class EncodeConfig:
    """Images and names to features.

    encoder: what open_clip, a file or the package's own weights go by; None where features and opinions are handed in.
    cluster_by: another encoder, or a layer of the same ("NAME#layer3"), whose features are clustered while `encoder`
        finds the names; None clusters by the encoder itself, and by an inner layer of the shipped `digits`.
    templates: sentences around a class name, averaged; none means the encoder's own choice.
    batch: one fixed shape, so that a compiled encoder compiles once, and a vector does not depend on how many images it
        came with; None takes 16 on a CPU, a thread each, and 256 on a GPU. Another batch may change the last bits of
        some encoders' vectors.
    """

    encoder: str | None = None
    cluster_by: str | None = None
    templates: tuple[str, ...] = ()
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None:
            checks.in_range("encode.batch", self.batch, 1, 65536)
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"encode.templates must hold {{}} where the class name goes, not {template!r}")


@dataclass(frozen=True)
class NeighborsConfig:
    """The nearest neighbours by cosine, found once for every stage that asks.

    consistency: N_s of equation 7, the image itself included.
    method: as `gdui.labeling.neighbors.neighbors` takes it; what is learned from is small enough for the exact way.
    """

    consistency: int = 100
    method: str = "auto"

    def __post_init__(self) -> None:
        checks.in_range("neighbors.consistency", self.consistency, 1, 2048)
        checks.one_of("neighbors.method", self.method, METHODS)


@dataclass(frozen=True)
class ClusterConfig:
    """Clusters of frozen features, by SPICE's heads or by k-means.

    heads, hidden: SPICE trains 10 heads of 512-512-K and keeps the one of lowest loss; no label takes part in that.
    informed: from pixels, so many of the heads learn clusters among the slow modes of the graph of neighbours, and the
        head is kept whose clusters part the fewest of the neighbours that eq. 7 asks. None in `paper`, where the lowest
        loss decides; but a loss that asks for clusters of one size is lower for some that cut through a class.
    agreed: from pixels, so many of the last epochs teach every head what all say together; where that makes none of
        them better by the same measure, the best head from before is kept. None in `paper`.
    top_share: a prototype is the mean feature of this share of B/K, the best by score (1/2 in SPICE).
    batch, step, epochs, rate: B, the images of a gradient step, and Adam's schedule. SPICE passes eight times over its
        pseudo-labels, in steps of 128 at 0.005 (`paper` keeps those two); one pass in smaller steps is as good.
    least_steps: so many gradient steps at least; epochs of a small heap have few, and it gets more of them.
    iterations: of k-means, which starts from centroids that are spread out already.
    """

    heads: int = 10
    informed: int = 5
    agreed: int = 2
    hidden: int = 512
    top_share: float = 0.5
    batch: int = 5000
    step: int = 32
    epochs: int = 10
    least_steps: int = 500
    rate: float = 0.002
    iterations: int = 12

    def __post_init__(self) -> None:
        for name in ("heads", "hidden", "batch", "step", "epochs", "iterations"):
            checks.in_range(f"cluster.{name}", getattr(self, name), 1, 1 << 24)
        for name in ("informed", "agreed", "least_steps"):
            checks.in_range(f"cluster.{name}", getattr(self, name), 0, 1 << 24)
        checks.in_range("cluster.top_share", self.top_share, 0, 1)
        checks.in_range("cluster.rate", self.rate, 0, 1)

    def of_heads(self) -> dict[str, Any]:
        """What the training of the heads is told."""
        names = ("heads", "hidden", "batch", "step", "epochs", "least_steps", "rate", "top_share", "agreed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class MatchConfig:
    """Names for clusters, by stable marriage (PLM).

    most: N_top = N_btm = min(most, a tenth of the cluster), so that small clusters vote with what they have.
    """

    most: int = 100

    def __post_init__(self) -> None:
        checks.in_range("match.most", self.most, 1, 1 << 24)


@dataclass(frozen=True)
class RefineConfig:
    """Repair of doubtful labels (LMR): where delta <= lambda_delta and r_btm < sigma, below sigma the opinion rules.

    lambda_delta, lambda_top, lambda_btm, weight: the paper's thresholds, and the weight of the top votes in delta.
    sigma: the cluster probability below which an image is relabelled; below 1/K it changes nothing.
    unvoted: what becomes of a cluster whose match had no vote: its name is kept in `paper`; in `default` the opinion
        relabels it, since a name nobody voted for is a leftover.
    """

    lambda_delta: float = 0.95
    lambda_top: float = 0.9
    lambda_btm: float = 0.9
    weight: float = 0.5
    sigma: float = 0.5
    unvoted: str = "relabel"

    def __post_init__(self) -> None:
        for name in ("lambda_delta", "lambda_top", "lambda_btm", "weight", "sigma"):
            checks.in_range(f"refine.{name}", getattr(self, name), 0, 1)
        checks.one_of("refine.unvoted", self.unvoted, ("keep", "relabel"))


@dataclass(frozen=True)
class GraphConfig:
    """The third witness: votes averaged over clusters of several sizes, then diffused over the graph of neighbours.

    enabled: `paper` has no such step.
    neighbors: edges an image has; more smear small classes, fewer leave islands. There are never more than half as
        many as a class has images on average: of a small class most would be others'. (SPICE's stage 2 takes all.)
    modes: of the graph's walk, for each class. k-means among them follows the data's shape, where k-means on
        the features takes bent regions for balls.
    most_modes: their bound, for the memory of many classes.
    scales: clusters for each class; large ones outvote noise in the opinion, small ones keep to one class.
    steps, keep: rounds of diffusion, and the share of its own vote an image keeps in each.
    pin: as how many images one votes whose label a person gave; its neighbours hear little of a single voice.
    least: where fewer images than this share get their nearest neighbour's label, features and classes have little to
        do with each other, and the opinion stands as it is. On real pictures it was never below 0.7.
    gain: classes are taken as equally large unless other sizes explain the witnesses better by this part.
    """

    enabled: bool = True
    neighbors: int = 15
    modes: int = 2
    most_modes: int = 256
    scales: tuple[float, ...] = (1.5, 2.0, 3.0, 6.0)
    steps: int = 20
    keep: float = 0.2
    pin: float = 5.0
    least: float = 0.5
    gain: float = 0.01

    def __post_init__(self) -> None:
        checks.in_range("graph.neighbors", self.neighbors, 1, 2048)
        checks.in_range("graph.modes", self.modes, 1, 64)
        checks.in_range("graph.most_modes", self.most_modes, 1, 1 << 16)
        checks.in_range("graph.steps", self.steps, 0, 10_000)
        checks.in_range("graph.keep", self.keep, 0, 1)
        checks.in_range("graph.pin", self.pin, 0, 1e6)
        checks.in_range("graph.least", self.least, 0, 1)
        checks.in_range("graph.gain", self.gain, 0, 1)
        for scale in self.scales:
            checks.in_range("graph.scales", scale, 0, 1000)
        if not self.scales:
            raise ValueError("graph.scales must hold at least one number of clusters for each class")


@dataclass(frozen=True)
class LinearConfig:
    """The linear model that learns what the graph found, smooths it, and labels new images.

    decay: half of it times the squared weights is the penalty.
    rounds: of L-BFGS; stopping early keeps it from learning single wrong labels by heart.
    """

    decay: float = 1e-3
    rounds: int = 30

    def __post_init__(self) -> None:
        checks.in_range("linear.decay", self.decay, 0, 1e6)
        checks.in_range("linear.rounds", self.rounds, 1, 1 << 16)


@dataclass(frozen=True)
class Config:
    """All of it: `Config.named("default")` labels best, `Config.named("paper")` follows the text.

    preset: "default" clusters among the slow modes of the graph of neighbours, names and repairs, diffuses the votes
        over the graph and ends with a linear model on features and opinion. "paper" is SPICE's heads, marriage and
        repair; with clusterer "spice" all three stages of SPICE in their published settings.
    clusterer: "heads" (SPICE stage 2), "kmeans", "modes": k-means among the slow modes of the graph of neighbours, or
        "spice": all three stages, which learn from the pixels themselves where no good encoder exists.
    k: how many clusters; None takes one for each class in `paper` and with "spice", three in `default` (purer clusters,
        and a class that falls in two parts is named twice); "auto" estimates it from the graph.
    reject: an image is said to belong to no class where its neighbours' opinions are less sure than this: the mean of
        their largest probabilities. Tried on STL-10 with two of its names withheld, it tells such images from others
        with an area under the curve of 0.97 to 0.99, where the label's own confidence has 0.67. None never abstains.
    fit_rows: above so many images the labelling is learned from a random sample of this size (or 100 images a class
        if that is more), and what was learned labels the rest in one pass. So time grows with N, not with its square.
        With "spice" the network learns from a sample of this size, too, which is held in memory.
    seed: everything random follows from it.
    """

    preset: str = "default"
    clusterer: str = "modes"
    k: int | str | None = None
    reject: float | None = None
    fit_rows: int = 50_000
    seed: int = 0
    source: SourceConfig = field(default_factory=SourceConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    represent: RepresentConfig = field(default_factory=RepresentConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)

    def __post_init__(self) -> None:
        checks.one_of("preset", self.preset, PRESETS)
        checks.one_of("clusterer", self.clusterer, CLUSTERERS)
        if isinstance(self.k, str):
            checks.one_of("k", self.k, ("auto",))
        elif self.k is not None:
            checks.in_range("k", self.k, 1, 1 << 24)
        if self.reject is not None:
            checks.in_range("reject", self.reject, 0, 1)
        checks.in_range("fit_rows", self.fit_rows, 2, 1 << 40)
        checks.in_range("seed", self.seed, 0, (1 << 63) - 1)

    @classmethod
    def named(cls, preset: str, **overrides: Any) -> Self:
        """The preset's configuration with `overrides` by dotted name, as in `{"refine.sigma": 0.4}`."""
        checks.one_of("preset", preset, PRESETS)
        config = cls(preset=preset)
        if preset == "paper":
            paper = {"clusterer": "heads", "graph.enabled": False, "refine.unvoted": "keep"}
            config = config.override(paper | PUBLISHED)
        return config.override(overrides)

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A copy in which the fields of these dotted names have these values; the preset stays."""
        config = self
        for name, value in changes.items():
            if name == "preset":
                raise ValueError("preset can't be changed afterwards, as it sets other fields: begin with Config.named")
            if name not in config.names():
                instead = checks.setting_instead(name, config.names(), "gdui.config (docs/reference/settings.md)")
                raise ValueError(f"no setting is named {name!r}{instead}")
            stage, _, inner = name.partition(".")
            if inner:
                value = _replaced(getattr(config, stage), name, inner, value)
            else:
                value = checks.typed(type(config), stage, name, value)
            config = dataclasses.replace(config, **{stage: value})
        return config

    def rows_to_fit(self, classes: int) -> int:
        """How many images are learned from at most."""
        return max(self.fit_rows, ROWS_PER_CLASS * classes)

    def names(self) -> list[str]:
        """The dotted name of every setting."""
        return [name for name, _ in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """Every setting's dotted name and value."""
        flat: list[tuple[str, Any]] = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if dataclasses.is_dataclass(value):
                flat += [(f"{f.name}.{inner.name}", getattr(value, inner.name)) for inner in dataclasses.fields(value)]
            else:
                flat.append((f.name, value))
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for TOML (which has no None: such settings are left out) or JSON."""
        nested: dict[str, Any] = {}
        for name, value in self.items():
            stage, _, inner = name.partition(".")
            if value is not None:
                target = nested.setdefault(stage, {}) if inner else nested
                target[inner or stage] = list(value) if isinstance(value, tuple) else value
        return nested

    @classmethod
    def from_dict(cls, nested: Mapping[str, Any]) -> Self:
        """The configuration of `to_dict`'s result; what it leaves out comes from its preset."""
        flat: dict[str, Any] = {}
        for name, value in nested.items():
            flat |= (
                {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {name: value}
            )
        return cls.named(flat.pop("preset", "default"), **flat)


def _replaced(stage: Any, name: str, inner: str, value: Any) -> Any:
    return dataclasses.replace(stage, **{inner: checks.typed(type(stage), inner, name, value)})
