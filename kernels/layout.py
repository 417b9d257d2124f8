"""How kernels see an image tensor: [images, channels, positions] with any strides, in blocks of logical order."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["BLOCK", "WARPS", "all_flat", "block_offsets", "blocks_of", "given_of", "launch_on", "read", "strided"]

BLOCK = 1024
WARPS = 4


@triton.jit
def block_offsets(image, i, positions, strides, FLAT: tl.constexpr):
    """Where an image's elements i lie; i counts as in a contiguous tensor, strides are image, channel, position."""
    start = image.to(tl.int64) * strides[0]
    if FLAT:
        return start + i
    return start + (i // positions).to(tl.int64) * strides[1] + (i % positions).to(tl.int64) * strides[2]


@triton.jit
def read(tensor, strides, image, i, inside, positions, FLAT: tl.constexpr):
    """The elements i of an image in float32, zero where `inside` is false."""
    return tl.load(tensor + block_offsets(image, i, positions, strides, FLAT), inside, 0.0).to(tl.float32)


def all_flat(tensors: Sequence[Tensor | None]) -> bool:
    """Whether each image of every tensor [B, C, P] lies in one piece."""
    return all(t is None or t.stride()[1:] == (t.shape[2], 1) for t in tensors)


def strided(*tensors: Tensor) -> list[Any]:
    """Each tensor followed by its strides: how kernels take them."""
    return [argument for tensor in tensors for argument in (tensor, tensor.stride())]


def blocks_of(images: Tensor) -> int:
    """How many blocks each of the images [B, C, P] is cut into."""
    return int(triton.cdiv(images.shape[1] * images.shape[2], BLOCK))


def given_of(noise: Tensor | None, seed: Tensor | None) -> Tensor:
    """The noise if it is given, else the seeds."""
    if noise is not None:
        return noise
    if seed is None:
        raise ValueError("neither noise nor seed was given")
    return seed


def launch_on(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes the tensor's device the current one: Triton launches there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
