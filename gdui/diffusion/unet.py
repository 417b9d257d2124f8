"""The UNet of ADM, for pictures of any size and any number of classes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gdui import checks
from gdui.diffusion.attention import Attention
from gdui.diffusion.layers import Block, Resample, ResBlock, TimeEmbedding, norm_silu
from gdui.diffusion.norm import zeroed

__all__ = ["PRESETS", "Trunk", "UNet", "UNetConfig", "preset"]


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a network.

    attention_at: the edges (in pixels) at which attention takes place.
    head_width: channels of an attention head; None for `heads` heads of whatever width.
    heads_first: the order of ADM's attention channels, its flag use_new_attention_order turned round.
    resblock_resample: resample inside residual blocks (ADM's resblock_updown), else by convolutions.
    """

    image_size: int
    width: int
    depth: int = 2
    multipliers: tuple[float, ...] = (1, 2, 2)
    attention_at: tuple[int, ...] = (16, 8)
    channels: int = 3
    classes: int | None = None
    learned_variance: bool = True
    head_width: int | None = 64
    heads: int = 1
    heads_up: int | None = None
    heads_first: bool = True
    scale_shift: bool = True
    resblock_resample: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_size", "width", "depth", "channels"):
            checks.whole(name, getattr(self, name), 1)
        checks.in_range("dropout", self.dropout, 0, 1)
        smallest = 2 ** (len(self.multipliers) - 1)
        if self.image_size % smallest:
            raise ValueError(
                f"image_size must be a multiple of {smallest} for {len(self.multipliers)} levels, not {self.image_size}"
            )
        for edge in self.attention_at:
            if edge < 1 or edge > self.image_size:
                raise ValueError(f"attention_at must lie between 1 and the image size {self.image_size}, not {edge}")
        for level, width in enumerate(self.level_widths):
            if self.attends(level) or level + 1 == len(self.multipliers):
                self.heads_at(width)
                self.heads_at(width, up=True)

    @property
    def level_widths(self) -> list[int]:
        return [int(multiplier * self.width) for multiplier in self.multipliers]

    def attends(self, level: int) -> bool:
        """Whether the edge at `level` is one of attention_at; ADM compares the factors, rounded down."""
        return 2**level in {self.image_size // edge for edge in self.attention_at}

    def heads_at(self, channels: int, *, up: bool = False) -> int:
        """How many heads an attention of so many channels has."""
        if self.head_width is None:
            name, asked = "heads", (self.heads_up or self.heads) if up else self.heads
        else:
            name, asked = "head_width", self.head_width
        if channels % asked:
            raise ValueError(f"{name} must divide the {channels} channels of its level, {asked} does not")
        return asked if self.head_width is None else channels // asked


ADM = UNetConfig(image_size=64, width=192, depth=3, multipliers=(1, 2, 3, 4), attention_at=(32, 16, 8), classes=1000)
PRESETS: dict[str, UNetConfig] = {
    "tiny": UNetConfig(image_size=8, width=48, depth=1, multipliers=(1, 2), attention_at=(4,), head_width=32),
    "small": UNetConfig(
        image_size=32, width=64, depth=2, multipliers=(1, 2, 2, 2), attention_at=(16, 8), head_width=32
    ),
    "medium": UNetConfig(image_size=64, width=128, multipliers=(1, 2, 3, 4), attention_at=(32, 16, 8)),
    "stl64": UNetConfig(image_size=64, width=128, multipliers=(1, 2, 3, 4), attention_at=(16, 8)),
    "stl96": UNetConfig(image_size=96, width=128, multipliers=(1, 2, 3, 4), attention_at=(24, 12)),
    "adm64": replace(ADM, heads_first=False, dropout=0.1),
    "adm128": replace(ADM, image_size=128, width=256, depth=2, multipliers=(1, 1, 2, 3, 4), head_width=None, heads=4),
    "adm256": replace(ADM, image_size=256, width=256, depth=2, multipliers=(1, 1, 2, 2, 4, 4)),
    "adm512": replace(ADM, image_size=512, width=256, depth=2, multipliers=(0.5, 1, 1, 2, 2, 4, 4)),
}


def preset(name: str, **changes: Any) -> UNetConfig:
    """A named configuration, with fields changed."""
    return replace(PRESETS[checks.one_of("preset", name, list(PRESETS))], **changes)


class Trunk(nn.Module):
    """The way down and the middle: what the UNet and the classifier share."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_width = 4 * config.width
        self.time_embed = TimeEmbedding(config.width)
        first = config.level_widths[0]
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config.channels, first, 3, padding=1))])
        self.widths = [first]
        for block, width in self._way_down(first):
            self.input_blocks.append(block)
            self.widths.append(width)
        last = config.level_widths[-1]
        self.middle_block = Block(self.residual(last, last), self.attention(last), self.residual(last, last))

    def _way_down(self, channels: int) -> Iterator[tuple[Block, int]]:
        for level, width in enumerate(self.config.level_widths):
            for _ in range(self.config.depth):
                block = Block(self.residual(channels, width))
                if self.config.attends(level):
                    block.append(self.attention(width))
                yield block, width
                channels = width
            if level + 1 < len(self.config.multipliers):
                yield Block(self.resample(width, "down")), width

    def residual(self, channels: int, out_channels: int, resample: str | None = None) -> ResBlock:
        return ResBlock(
            channels,
            out_channels,
            self.embedding_width,
            dropout=self.config.dropout,
            scale_shift=self.config.scale_shift,
            resample=resample,
        )

    def attention(self, channels: int, *, up: bool = False) -> Attention:
        return Attention(channels, self.config.heads_at(channels, up=up), heads_first=self.config.heads_first)

    def resample(self, channels: int, direction: str) -> nn.Module:
        if self.config.resblock_resample:
            return self.residual(channels, channels, resample=direction)
        return Resample(channels, up=direction == "up", convolution=True)

    def descend(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The middle's output, and every output on the way to it."""
        seen = []
        for block in self.input_blocks:
            x = block(x, embedding)
            seen.append(x)
        return self.middle_block(x, embedding), seen


class UNet(Trunk):
    """Pictures [B, C, H, W] in [-1, 1], time steps [B] and classes [B] -> [B, C or 2 C, H, W].

    With `null_class` the table has one row more, for no class named: classifier-free training and sampling use it.
    """

    def __init__(self, config: UNetConfig, *, null_class: bool = False) -> None:
        super().__init__(config)
        self.null_class = null_class
        if config.classes is not None:
            self.label_emb = nn.Embedding(config.classes + null_class, self.embedding_width)
        self.output_blocks = nn.ModuleList(self._way_up())
        first = config.level_widths[0]
        outputs = config.channels * (1 + config.learned_variance)
        self.out = nn.Sequential(*norm_silu(first), zeroed(nn.Conv2d(first, outputs, 3, padding=1)))

    def _way_up(self) -> Iterator[Block]:
        channels, skips = self.config.level_widths[-1], list(self.widths)
        for level, width in reversed(list(enumerate(self.config.level_widths))):
            for i in range(self.config.depth + 1):
                block = Block(self.residual(channels + skips.pop(), width))
                if self.config.attends(level):
                    block.append(self.attention(width, up=True))
                if level and i == self.config.depth:
                    block.append(self.resample(width, "up"))
                yield block
                channels = width

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        if (classes is None) != (self.config.classes is None):
            wanted = (
                "takes no classes" if classes is not None else f"needs classes, one of {self.config.classes} a picture"
            )
            raise ValueError(f"this network {wanted}")
        embedding = self.time_embed(t)
        if classes is not None:
            embedding = embedding + self.label_emb(classes)
        h, seen = self.descend(x, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, seen.pop()], dim=1), embedding)
        return cast(Tensor, self.out(h.to(x.dtype)))
