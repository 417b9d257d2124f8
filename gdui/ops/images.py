"""What the diffusion ops ask of their arguments, and the one shape their kernels see: [images, channels, positions]."""

from collections.abc import Callable
from typing import Any, Protocol, overload

import numpy.typing as npt
import torch
from torch import Tensor

from gdui.ops.arguments import check_floats, check_tensor, tangent_of

__all__ = [
    "Tabulated",
    "array",
    "check_images",
    "check_noise",
    "check_prediction",
    "dense_like",
    "per_image",
    "planes",
    "require_steps",
    "runner",
    "same_shape",
    "table_of",
    "threads",
]


class Tabulated(Protocol):
    """A schedule, as the ops see it."""

    def table(self, device: torch.device, dtype: torch.dtype = ...) -> Tensor: ...


def check_images(name: str, images: Tensor) -> None:
    """Raises unless `images` are floating-point [B, C, ...]."""
    check_floats(name, images)
    if images.ndim < 2:
        raise ValueError(f"{name} must be [B, C, ...], but its shape is {tuple(images.shape)}")


def same_shape(name: str, value: Tensor, like: Tensor, owner: str) -> None:
    """Raises unless `value` is floating-point, and of the shape and on the device of `like`."""
    check_floats(name, value)
    if value.shape != like.shape:
        raise ValueError(f"{name} must have {owner}'s shape {tuple(like.shape)}, not {tuple(value.shape)}")
    same_device(name, value, like, owner)


def per_image(name: str, t: Tensor, images: Tensor, owner: str) -> Tensor:
    """`t` in one piece, as the kernels read it, if it is one int64 an image, on the images' device."""
    check_tensor(name, t, "an int64 tensor with one entry for each image")
    if t.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, not {t.dtype}")
    if t.shape != images.shape[:1]:
        raise ValueError(f"{name} must have one entry for each image of {owner}, {len(images)}, not {tuple(t.shape)}")
    same_device(name, t, images, owner)
    return t.contiguous()


def require_steps(t: Tensor, table: Tensor) -> None:
    """Raises unless all of `t` are rows of the table; a GPU isn't waited for, there such an image becomes NaN."""
    if t.device.type != "cpu":
        return
    outside = t[(t < 0) | (t >= len(table))]
    if outside.numel():
        raise ValueError(f"t must be in [0, {len(table)}), but holds {int(outside[0])}")


def check_noise(noise: Tensor | None, seed: Tensor | None, images: Tensor, owner: str) -> Tensor | None:
    """The seed in one piece; raises unless either the noise or one int64 seed an image is given."""
    if (noise is None) == (seed is None):
        raise ValueError(f"give either noise or seed, not {'neither' if noise is None else 'both'}")
    if noise is not None:
        same_shape("noise", noise, images, owner)
    return None if seed is None else per_image("seed", seed, images, owner)


def same_device(name: str, value: Tensor, like: Tensor, owner: str) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on {owner}'s device {like.device}, not on {value.device}")


def table_of(schedule: Tabulated, images: Tensor) -> Tensor:
    """The schedule's coefficients where the images are, in float64 for float64 images and float32 for all others."""
    if not hasattr(schedule, "table"):
        raise TypeError(f"schedule must be a gdui.diffusion.schedule.Schedule, not {type(schedule).__name__}")
    return schedule.table(images.device, torch.float64 if images.dtype == torch.float64 else torch.float32)


@overload
def planes(images: Tensor) -> Tensor: ...
@overload
def planes(images: None) -> None: ...
def planes(images: Tensor | None) -> Tensor | None:
    """`images` [B, C, ...] as [B, C, P]: a view where the strides allow it."""
    if images is None:
        return None
    return images.flatten(2) if images.ndim > 2 else images.unsqueeze(2)


def check_prediction(name: str, prediction: Tensor, images: Tensor, owner: str, *, learned: bool | None) -> None:
    """Raises unless `prediction` has the channels of `images`, or twice as many where `learned`; with None either."""
    check_floats(name, prediction)
    batch, channels, *rest = images.shape
    allowed = [channels * factor for factor in ({True: [2], False: [1], None: [1, 2]}[learned])]
    if prediction.ndim != images.ndim or list(prediction.shape) not in [[batch, n, *rest] for n in allowed]:
        shapes = " or ".join(str((batch, n, *rest)) for n in allowed)
        raise ValueError(f"{name} must be {shapes} for this {owner}, not {tuple(prediction.shape)}")
    same_device(name, prediction, images, owner)


@overload
def array(tensor: Tensor) -> npt.NDArray[Any]: ...
@overload
def array(tensor: None) -> None: ...
def array(tensor: Tensor | None) -> npt.NDArray[Any] | None:
    """The tensor's own memory as an array for the C++ core; of bfloat16 and float16 a copy in float32."""
    if tensor is None:
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def runner(
    op: Callable[..., Tensor], differentiable: Callable[..., Tensor], plain: Callable[..., Tensor], *by: Tensor | None
) -> Callable[..., Tensor]:
    """What to run: the registered op where PyTorch compiles, else only as much as the gradients wanted ask for.

    A tangent asks too: forward-mode differentiation then raises, where it would be lost.
    """
    if torch.compiler.is_compiling():
        return op
    given = [tensor for tensor in by if tensor is not None and torch.is_grad_enabled()]
    asked = any(tensor.requires_grad or tangent_of(tensor) is not None for tensor in given)
    return differentiable if asked else plain


def threads() -> int:
    """As many threads as PyTorch uses, so the ops follow `torch.set_num_threads`."""
    return torch.get_num_threads()


def dense_like(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """New memory in the images' format, channels_last where they are, else contiguous; so `planes` of it is a view."""
    layout = torch.contiguous_format
    if images.ndim == 4 and not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return torch.empty(images.shape, dtype=dtype or images.dtype, device=images.device, memory_format=layout)
