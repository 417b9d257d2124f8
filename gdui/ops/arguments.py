"""Checks that all ops make of what they are handed."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

__all__ = ["check_floats", "check_tensor", "refuse_gradients", "refuse_tangents", "tangent_of"]


def check_tensor(name: str, value: object, wanted: str = "a tensor") -> None:
    """Raises unless `value` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def check_floats(name: str, value: Tensor) -> None:
    """Raises unless `value` is a floating-point tensor."""
    check_tensor(name, value, "a floating-point tensor")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating-point, not {value.dtype}")


def refuse_gradients(**tensors: Tensor | None) -> None:
    """Raises where a gradient would be lost: none is made of these."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} gets no gradient: detach it")


def tangent_of(tensor: Tensor) -> Tensor | None:
    """The tensor's tangent, where forward-mode differentiation is under way."""
    tangent: Tensor | None = unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return tangent


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Raises where a tangent would be lost: an op without a gradient to make is not asked for its jvp."""
    if torch.compiler.is_compiling():
        return
    if any(tensor is not None and tangent_of(tensor) is not None for tensor in tensors):
        raise RuntimeError(f"{name} has no forward-mode derivative (jvp)")
