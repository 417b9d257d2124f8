"""Checks that all ops make of what they are handed."""

import torch
from torch import Tensor

__all__ = ["check_floats", "check_tensor"]


def check_tensor(name: str, value: object, wanted: str = "a tensor") -> None:
    """Raises unless `value` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def check_floats(name: str, value: Tensor) -> None:
    """Raises unless `value` is a floating-point tensor."""
    check_tensor(name, value, "a floating-point tensor")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating-point, not {value.dtype}")
