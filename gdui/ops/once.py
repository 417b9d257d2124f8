"""Gradients that can't be differentiated once more: to try raises, where PyTorch would leave out what it can't see."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["once", "only_once"]


class Once(torch.autograd.Function):
    """Runs a function on the tensors that a gradient is made of, and raises where that is to be differentiated."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[..., Any], *inputs: Any) -> Any:
        ctx.name = name
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> None:
        raise RuntimeError(f"{ctx.name} has no second derivative")


def once(name: str, run: Callable[..., Any], *inputs: Any) -> Any:
    """Runs a function that has no derivative: `Once`, where one might be asked for."""
    return Once.apply(name, run, *inputs) if torch.is_grad_enabled() else run(*inputs)


def only_once(name: str, gradient_op: Any) -> None:
    """The same for the gradient of op `name` where it is a registered op itself."""

    def backward(_ctx: Any, *_gradients: Any) -> None:
        raise RuntimeError(f"{name} has no second derivative")

    gradient_op.register_autograd(backward)
