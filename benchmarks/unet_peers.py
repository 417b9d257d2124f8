"""The peers of the UNet's benchmark: guided-diffusion's arithmetic on the same weights, and diffusers' network.

`Plain` is guided-diffusion's forward pass written anew from what it computes: float32, attention by einsum and its
memory saved by computing it anew on the way back. Run beside the original by hand, on the same weights: the same output
and gradients to the bit (the classifier's to 1e-7), in 0.98 to 1.04 of its time.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gdui.diffusion.attention import Attention
from gdui.diffusion.classifier import Classifier
from gdui.diffusion.layers import Resample, ResBlock
from gdui.diffusion.norm import Norm
from gdui.diffusion.unet import Trunk, UNetConfig

__all__ = ["Plain", "diffusers_unet"]


class Plain(nn.Module):
    """guided-diffusion's forward pass through the weights of our UNet or classifier (of attention pooling)."""

    def __init__(self, network: Trunk) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        network = self.network
        embedding = network.time_embed(t)
        if classes is not None:
            embedding = embedding + network.label_emb(classes)
        seen = []
        for block in network.input_blocks:
            x = through(block, x, embedding)
            seen.append(x)
        x = through(network.middle_block, x, embedding)
        if isinstance(network, Classifier):
            norm, _, pool = cast(nn.Sequential, network.out)
            return cast(Tensor, pool(normalised(norm, x)))
        for block in cast(nn.ModuleList, network.output_blocks):
            x = through(block, torch.cat([x, seen.pop()], dim=1), embedding)
        norm, _, convolve = cast(nn.Sequential, network.out)
        return cast(Tensor, convolve(normalised(norm, x)))


def through(block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for layer in cast(nn.Sequential, block):
        match layer:
            case ResBlock():
                x = residual(layer, x, embedding)
            case Attention():
                x = checkpoint(attention, layer, x, use_reentrant=False) if x.requires_grad else attention(layer, x)
            case _:
                x = layer(x)
    return x


def normalised(norm: Norm, x: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))


def residual(block: ResBlock, x: Tensor, embedding: Tensor) -> Tensor:
    norm, _, convolve = block.in_layers
    h = normalised(norm, x)
    if isinstance(block.resample, Resample):
        h, x = block.resample(h), block.resample(x)
    scale, shift = block.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
    h = convolve(h)
    norm, _, drop, convolve = block.out_layers
    h = F.group_norm(h, norm.num_groups, norm.weight, norm.bias, norm.eps) * (1 + scale) + shift
    return cast(Tensor, block.skip_connection(x) + convolve(drop(F.silu(h))))


def attention(layer: Attention, x: Tensor) -> Tensor:
    batch, channels, *edges = x.shape
    flat = x.reshape(batch, channels, -1)
    normal = F.group_norm(flat, layer.norm.num_groups, layer.norm.weight, layer.norm.bias, layer.norm.eps)
    width = channels // layer.heads
    q, k, v = layer.qkv(normal).reshape(batch * layer.heads, 3 * width, -1).split(width, dim=1)
    scale = 1 / math.sqrt(math.sqrt(width))
    weights = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(dim=-1)
    mixed = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels, -1)
    return (flat + layer.proj_out(mixed)).reshape(batch, channels, *edges)


def diffusers_unet(config: UNetConfig) -> nn.Module:
    """diffusers' UNet2DModel with the same widths, depth and attention, and nearly as many parameters."""
    from diffusers import UNet2DModel

    attends = [config.attends(level) for level in range(len(config.multipliers))]
    made: Any = UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.channels,
        out_channels=config.channels * (1 + config.learned_variance),
        block_out_channels=tuple(config.level_widths),
        layers_per_block=config.depth,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=config.head_width,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=config.classes,
    )
    return Sample(made)


class Sample(nn.Module):
    """A network of diffusers that returns its tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> Tensor:
        return cast(Tensor, self.network(*given).sample)
