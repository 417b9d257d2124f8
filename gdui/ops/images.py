"""What the diffusion ops ask of their arguments, and the one shape their kernels see: [images, channels, positions]."""

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Tabulated", "check_images", "check_noise", "check_steps", "dense_like", "planes", "same_shape", "table_of"]


class Tabulated(Protocol):
    """A schedule, as the ops see it."""

    def table(self, device: torch.device, dtype: torch.dtype = ...) -> Tensor: ...


def check_images(name: str, images: Tensor) -> None:
    """Raises unless `images` are floating-point [B, C, ...]."""
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating-point, not {images.dtype}")
    if images.ndim < 2:
        raise ValueError(f"{name} must be [B, C, ...], but its shape is {tuple(images.shape)}")


def same_shape(name: str, value: Tensor, like: Tensor, owner: str) -> None:
    """Raises unless `value` is floating-point, and of the shape and on the device of `like`."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating-point, not {value.dtype}")
    if value.shape != like.shape:
        raise ValueError(f"{name} must have {owner}'s shape {tuple(like.shape)}, not {tuple(value.shape)}")
    same_device(name, value, like, owner)


def check_steps(name: str, t: Tensor, images: Tensor, owner: str) -> None:
    """Raises unless `t` is one integer an image, on the images' device."""
    if t.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int64 or int32, not {t.dtype}")
    if t.shape != images.shape[:1]:
        raise ValueError(f"{name} must have one entry for each image of {owner}, {len(images)}, not {tuple(t.shape)}")
    same_device(name, t, images, owner)


def check_noise(noise: Tensor | None, seed: Tensor | None, images: Tensor, owner: str) -> None:
    """Raises unless either the noise or one int64 seed an image is given."""
    if (noise is None) == (seed is None):
        raise ValueError(f"give either noise or seed, not {'neither' if noise is None else 'both'}")
    if noise is not None:
        same_shape("noise", noise, images, owner)
    if seed is not None:
        if seed.dtype != torch.int64:
            raise TypeError(f"seed must be int64, not {seed.dtype}")
        check_steps("seed", seed, images, owner)


def same_device(name: str, value: Tensor, like: Tensor, owner: str) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on {owner}'s device {like.device}, not on {value.device}")


def table_of(schedule: Tabulated, images: Tensor) -> Tensor:
    """The schedule's coefficients where the images are, in float64 for float64 images and float32 for all others."""
    return schedule.table(images.device, torch.float64 if images.dtype == torch.float64 else torch.float32)


def planes(images: Tensor) -> Tensor:
    """`images` [B, C, ...] as [B, C, P]: a view where the strides allow it."""
    return images.flatten(2) if images.ndim > 2 else images.unsqueeze(2)


def dense_like(images: Tensor, channels: int | None = None) -> Tensor:
    """New memory in the images' format, channels_last where they are, else contiguous; so `planes` of it is a view."""
    shape = list(images.shape)
    shape[1] = channels or shape[1]
    channels_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last and not images.is_contiguous() else torch.contiguous_format
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=layout)
