"""Group normalisation, scale and shift, and SiLU as one operation: what a UNet does between its convolutions."""

import math
from typing import Any

import torch
from torch import Tensor

from gdui.checks import flag, in_range, whole
from gdui.kernels import reference
from gdui.ops.arguments import check_floats, refuse_tangents
from gdui.ops.dispatch import Backend, choose, wider
from gdui.ops.once import only_once

__all__ = ["group_norm_silu"]

TRITON_GROUP = 4096  # channels; a larger group doesn't fit into a kernel's registers
Three = tuple[Tensor, Tensor, Tensor]


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    eps: float = 1e-5,
    silu: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """f((weight norm + bias) (1 + scale) + shift) of x normalised over groups of channels, f SiLU or nothing.

    Args:
        x: images [B, C, ...] in float32, bfloat16, float16 or float64; channels_last ones are read where they lie.
        groups: a divisor of C.
        weight, bias: of each channel [C].
        scale, shift: of each image's channels [B, C]; without them 0.
        eps: is added to the variance, at least 0.
        silu: whether f is SiLU.
        backend: "triton", "native" (C++, not for float64) or "reference".

    Returns:
        x's shape and type, in channels_last order.
    """
    check_images(x, groups)
    check_channels(x, {"weight": weight, "bias": bias}, x.shape[1:2])
    check_channels(
        x, {name: value for name, value in (("scale", scale), ("shift", shift)) if value is not None}, x.shape[:2]
    )
    in_range("eps", eps, 0.0, math.inf)
    flag("silu", silu)
    refuse_tangents("group_norm_silu", x, weight, bias, scale, shift)
    gain, offset = affine(x, weight, bias, scale, shift)
    pixels = x.flatten(2).transpose(1, 2).contiguous()
    y: Tensor = group_norm_op(pixels, gain, offset, groups, eps, silu, backend)[0]
    return y.transpose(1, 2).view(x.shape)


def affine(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One gain and one offset for each image's channels [B, C], in float32 at least."""
    gain, offset = reference.exact(weight), reference.exact(bias)
    if scale is not None:
        factor = 1 + reference.exact(scale)
        gain, offset = gain * factor, offset * factor
    if shift is not None:
        offset = offset + reference.exact(shift)
    dtype = reference.exact_type(x)
    return gain.to(dtype).expand(x.shape[:2]).contiguous(), offset.to(dtype).expand(x.shape[:2]).contiguous()


def check_images(x: Tensor, groups: int) -> None:
    check_floats("x", x)
    whole("groups", groups, lowest=1)
    if x.ndim < 3 or x.shape[1:].numel() == 0:
        raise ValueError(f"x must be [B, C, ...] with channels and pixels, but its shape is {tuple(x.shape)}")
    if x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels of x, but is {groups}")


def check_channels(x: Tensor, values: dict[str, Tensor], shape: torch.Size) -> None:
    for name, value in values.items():
        check_floats(name, value)
        if value.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)}, not {tuple(value.shape)}")
        if value.device != x.device:
            raise ValueError(f"{name} must be on x's device {x.device}, not on {value.device}")


@torch.library.custom_op("gdui::group_norm", mutates_args=())
def group_norm_op(
    x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, P, C], and the mean and 1/deviation of each channel's group [B, C]."""
    chosen = backend_for(x, groups, backend)
    out: Three
    if chosen == "reference":
        out = reference.group_norm(x, gain, offset, groups, eps, silu)
    elif chosen == "native":
        from gdui import _core

        read = native_input(x)
        y, mean, rstd = torch.empty_like(read), torch.empty_like(gain), torch.empty_like(gain)
        given, filled = map(bits, (read, gain, offset)), map(bits, (y, mean, rstd))
        _core.group_norm(*given, groups, eps, silu, *filled, torch.get_num_threads())
        out = y.to(x.dtype), mean, rstd
    else:
        from gdui.kernels import norm

        out = norm.group_norm(x, gain, offset, groups, eps, silu)
    return out


@group_norm_op.register_fake
def _(
    x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(gain), torch.empty_like(gain)


@torch.library.custom_op("gdui::group_norm_backward", mutates_args=())
def group_norm_backward_op(
    dy: Tensor,
    x: Tensor,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients to x [B, P, C], gain and offset [B, C]."""
    chosen = backend_for(x, groups, backend)
    out: Three
    if chosen == "reference":
        out = reference.group_norm_backward(dy, x, gain, offset, mean, rstd, groups, silu)
    elif chosen == "native":
        from gdui import _core

        read = native_input(x)
        dx, dgain, doffset = torch.empty_like(read), torch.empty_like(gain), torch.empty_like(gain)
        given = map(bits, (native_input(dy), read, gain, offset, mean, rstd))
        _core.group_norm_backward(*given, groups, silu, *map(bits, (dx, dgain, doffset)), torch.get_num_threads())
        out = dx.to(x.dtype), dgain, doffset
    else:
        from gdui.kernels import norm

        out = norm.group_norm_backward(dy, x, gain, offset, mean, rstd, groups, silu)
    return out


@group_norm_backward_op.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(gain), torch.empty_like(gain)


def backend_for(x: Tensor, groups: int, backend: str) -> str:
    too_wide = wider("channels in a group", x.shape[2] // groups, TRITON_GROUP)
    return choose(backend, x, too_wide=too_wide)


def native_input(images: Tensor) -> Tensor:
    """What the C++ core reads: the images, but float16 ones, which it doesn't know, in float32."""
    return images.float() if images.dtype == torch.float16 else images


def bits(tensor: Tensor) -> Any:
    """The tensor's memory as an array; bfloat16, which numpy lacks, by its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gain, offset, ctx.groups, _, ctx.silu, ctx.backend = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, gain, offset, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)


def backward(ctx: Any, dy: Tensor, _dmean: Tensor, _drstd: Tensor) -> tuple[Tensor | None, ...]:
    gradients = group_norm_backward_op(dy.contiguous(), *ctx.saved_tensors, ctx.groups, ctx.silu, ctx.backend)
    return *gradients, None, None, None, None


group_norm_op.register_autograd(backward, setup_context=save_for_backward)
only_once("group_norm_silu", group_norm_backward_op)
