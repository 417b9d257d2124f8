"""The networks that learn from pixels: residual networks with the stem of small pictures, named as torchvision's."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from gdui import checks
from gdui.training.precision import autocast

__all__ = ["NAMES", "Backbone", "backbone", "centre", "outputs", "settle"]

SHAPES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], Sequence[int], Sequence[int]]] = {
    "small": (BasicBlock, (1, 1, 1), (32, 64, 128)),
    "resnet18": (BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": (BasicBlock, (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": (Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)),
}
NAMES = tuple(SHAPES)
SMALL = 32  # pixels to a side


class Backbone(nn.Module):
    """Features [B, dim] of pictures [B, 3, H, W]; of `channels` 1 it looks at the first of them alone.

    The stem is 3 x 3 with stride 1, so a picture of 8 or 32 pixels is not worn away before the first block; with `pool`
    it halves larger ones. `center` [dim] is taken off the features: those of a ReLU network all point one way, and
    angles between them tell little.
    """

    name = ""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        channels: int = 3,
        pool: bool = False,
        norm: type[nn.BatchNorm2d] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.channels, self.pool, self.dim = channels, pool, widths[-1] * block.expansion
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = norm(widths[0])
        inputs, layers = widths[0], []
        for at, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stride, outputs = (1 if at == 0 else 2), width * block.expansion
            shortcut = None
            if stride > 1 or inputs != outputs:
                shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
            blocks = [block(inputs, width, stride, shortcut, norm_layer=norm)]
            blocks += [block(outputs, width, norm_layer=norm) for _ in range(depth - 1)]
            self.add_module(f"layer{at + 1}", nn.Sequential(*blocks))
            layers.append(f"layer{at + 1}")
            inputs = outputs
        self.layers = tuple(layers)
        self.register_buffer("center", torch.zeros(self.dim))
        self.center: Tensor
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x[:, : self.channels])))
        if self.pool:
            x = F.max_pool2d(x, 2, 2, 1)
        for layer in self.layers:
            x = self.get_submodule(layer)(x)
        return x.float().mean((2, 3)) - self.center


def backbone(name: str, channels: int = 3, *, side: int = 32, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> Backbone:
    """A network of this name, for pictures of `side` pixels, with fresh weights from torch's own generator."""
    name = ("small" if side <= SMALL else "resnet18") if name == "auto" else name
    made = Backbone(*SHAPES[checks.one_of("backbone", name, NAMES)], channels, side > SMALL, norm)
    made.name = name
    return made


@torch.no_grad()
def settle(network: Backbone, batches: Callable[[], Iterable[Tensor]]) -> Backbone:
    """The network ready for use: its batch norms have the statistics of the pictures, not those of random views."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # the plain mean over all batches
    network.train()
    for _ in outputs(network, batches()):
        pass
    return network.eval().requires_grad_(False)


@torch.no_grad()
def centre(network: Backbone, batches: Iterable[Tensor]) -> Backbone:
    """The network with the mean of its features taken off."""
    network.center.zero_()
    total, count = torch.zeros_like(network.center, dtype=torch.float64), 0
    for found in outputs(network, batches):
        total, count = total + found.double().sum(0), count + len(found)
    network.center.copy_(total / count)
    return network


@torch.no_grad()
def outputs(network: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """What the network makes of each batch, in the precision it was taught in."""
    for batch in batches:
        with autocast(batch.device.type):
            found = network(batch)
        yield found.float()
