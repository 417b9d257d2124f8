"""The decisions of learning from pixels: SPICE's stages 1 and 3, and all that differs where it was published."""

from dataclasses import dataclass

from gdui import checks

__all__ = ["PUBLISHED", "JointConfig", "RepresentConfig"]

BACKBONES = ("auto", "small", "resnet18", "resnet34", "resnet50")
VIEWS = ("auto", "natural", "drawn")
# The stages as MoCo v2 and SPICE were published; what a machine without several GPUs can't do in a day.
PUBLISHED = {
    "represent.backbone": "resnet34",
    "represent.views": "natural",
    "represent.epochs": 1000,
    "represent.rate": 0.015,
    "represent.decay": 1e-4,
    "represent.queue": 65_536,
    "represent.momentum": 0.999,
    "represent.groups": 8,
    "cluster.informed": 0,
    "cluster.agreed": 0,
    "cluster.step": 128,
    "cluster.least_steps": 0,
    "cluster.rate": 0.005,
    "joint.confidence": 0.99,
    "joint.balance": True,
    "joint.init": "scratch",
    "joint.epochs": 1000,
    "joint.batch": 64,
    "joint.rate": 0.03,
}


@dataclass(frozen=True)
class RepresentConfig:
    """SPICE stage 1: a network learns from the pictures alone (MoCo v2).

    weights: a checkpoint of `backbone` that MoCo or SPICE published; stage 1 is left out. Where it has heads of as many
        clusters, those of stage 2 may learn what they say.
    backbone: "auto" is "small", a quarter of a ResNet-18 in depth and width, up to 32 pixels, and resnet18 above.
    size: pixels to a side; None takes the first picture's shorter side, at most 96.
    views: "natural" is MoCo v2's (crop, flip, colour, grey, blur); "drawn" moves, turns and slants a little, as digits
        and letters bear it; "auto" is "drawn" for grey pictures of up to 32 pixels.
    epochs, batch, rate, decay: SGD with momentum 0.9 on a cosine.
    queue, momentum, temperature, width: MoCo's. A queue never holds a picture twice: an image's own older key would be
        held against it. `paper` has 1,000 epochs, where a short run needs a higher rate and a quicker average.
    groups: parts of a batch with batch norms of their own; keys are shuffled among them, so that a picture can't be
        known by the company its statistics come from.
    average: whether the features are those of the running average of the weights.
    compile: torch.compile; worth its wait where an epoch takes minutes.
    save_every: steps between two checkpoints.
    """

    weights: str | None = None
    backbone: str = "auto"
    size: int | None = None
    views: str = "auto"
    epochs: int = 60
    batch: int = 256
    rate: float = 0.06
    decay: float = 5e-4
    queue: int = 4096
    momentum: float = 0.99
    temperature: float = 0.2
    width: int = 128
    groups: int = 4
    average: bool = False
    compile: bool = False
    save_every: int = 500

    def __post_init__(self) -> None:
        checks.one_of("represent.backbone", self.backbone, BACKBONES)
        checks.one_of("represent.views", self.views, VIEWS)
        if self.size is not None:
            checks.in_range("represent.size", self.size, 8, 4096)
        for name in ("epochs", "batch", "queue", "width", "groups", "save_every"):
            checks.in_range(f"represent.{name}", getattr(self, name), 1, 1 << 24)
        for name in ("rate", "decay", "momentum"):
            checks.in_range(f"represent.{name}", getattr(self, name), 0, 1)
        checks.in_range("represent.temperature", self.temperature, 1e-3, 100)
        if self.batch % self.groups or self.batch < 2 * self.groups:
            raise ValueError(
                f"represent.batch must be a multiple of represent.groups with two pictures in each, not {self.batch} "
                f"for {self.groups}"
            )


@dataclass(frozen=True)
class JointConfig:
    """SPICE stage 3: reliable images teach network and head together (eq. 7 to 9).

    consistency: sigma_r, the share of its nearest neighbours that an image's cluster must hold for it to be reliable.
    confidence: and how sure its head must be; 0 asks for nothing, 0.99 in `paper`.
    least: never fewer than this share of a cluster: its bar goes down instead.
    balance: as many reliable images from every cluster as the smallest has (`paper`); else sizes stay what they are.
    threshold: how sure a weak view must be for its strong view to follow it.
    init: "warm" starts from stages 1 and 2; "scratch" from fresh weights, as the published code does.
    rounds: how often the reliable images are chosen anew, by what was learned from the last ones.
    groups: parts of a batch with batch norms of their own; the ranks of torchrun share them out.
    epochs, batch, rate, decay: of each round; SGD with Nesterov's momentum 0.9 on FixMatch's cosine.
    """

    consistency: float = 0.9
    confidence: float = 0.0
    least: float = 0.1
    balance: bool = False
    threshold: float = 0.95
    init: str = "warm"
    rounds: int = 1
    groups: int = 4
    epochs: int = 10
    batch: int = 128
    rate: float = 0.01
    decay: float = 5e-4
    save_every: int = 500

    def __post_init__(self) -> None:
        checks.one_of("joint.init", self.init, ("warm", "scratch"))
        for name in ("consistency", "confidence", "least", "threshold", "rate", "decay"):
            checks.in_range(f"joint.{name}", getattr(self, name), 0, 1)
        for name in ("rounds", "groups", "epochs", "batch", "save_every"):
            checks.in_range(f"joint.{name}", getattr(self, name), 1, 1 << 24)
        if self.batch % self.groups:
            raise ValueError(f"joint.batch must be a multiple of joint.groups, not {self.batch} for {self.groups}")
