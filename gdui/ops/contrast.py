"""InfoNCE, the loss of contrastive learning against a queue, in memory that doesn't grow with batch × queue."""

from typing import Any

import torch
from torch import Tensor

from gdui.checks import number
from gdui.kernels import reference
from gdui.ops.arguments import check_tensor, refuse_gradients, refuse_tangents
from gdui.ops.dispatch import Backend, choose, wider
from gdui.ops.once import once

__all__ = ["info_nce"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TRITON_WIDTH = 512  # a wider row of q doesn't fit into a kernel's registers
BLOCKS, LEAST_BLOCK = 64, 1 << 18  # without Triton: as many parts of the queue at most, of as many logits at least


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float, *, backend: Backend = "auto") -> Tensor:
    """-log softmax([q·k, q·queue] / temperature) at q·k, for each row.

    The gradients to q and k need no second product: the way forward keeps the softmax's mean of the queue, [B, d].

    Args:
        q: queries [B, d] in float32, bfloat16, float16 or float64.
        k: the key that belongs to each query [B, d], of q's type.
        queue: keys that belong to none [Q, d], one a row, in any of these types; it gets no gradient.
        temperature: the divisor of the products, a number above 0: it gets no gradient.
        backend: "triton", "native" (PyTorch's products on blocks of the queue), "reference" (all logits at once).

    Returns:
        the loss of each row [B] in float32 (float64 for float64 queries).
    """
    check_vectors(q, k, queue)
    if not number("temperature", temperature) > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    refuse_tangents("info_nce", q, k, queue)
    loss: Tensor = info_nce_op(q, k, queue, float(temperature), backend)[0]
    return loss


def check_vectors(q: Tensor, k: Tensor, queue: Tensor) -> None:
    for name, value in (("q", q), ("k", k), ("queue", queue)):
        check_tensor(name, value)
        if value.dtype not in FLOATS:
            raise TypeError(f"{name} must be floating-point, not {value.dtype}")
        if value.ndim != 2:
            raise ValueError(f"{name} must have 2 axes, but its shape is {tuple(value.shape)}")
        if value.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, not on {value.device}")
    if k.dtype != q.dtype:
        raise TypeError(f"k must have q's type {q.dtype}, not {k.dtype}")
    if k.shape != q.shape:
        raise ValueError(f"k must have q's shape {tuple(q.shape)}, not {tuple(k.shape)}")
    if queue.shape[1] != q.shape[1] or len(queue) == 0:
        raise ValueError(f"queue must be [Q, {q.shape[1]}] with at least one row, not {tuple(queue.shape)}")
    refuse_gradients(queue=queue)


@torch.library.custom_op("gdui::info_nce", mutates_args=())
def info_nce_op(q: Tensor, k: Tensor, queue: Tensor, temperature: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss [B], the gradient to q before division by the temperature [B, d], and the negatives' share [B]."""
    too_wide = wider("numbers in a row", q.shape[1], TRITON_WIDTH)
    chosen = choose(backend, q, k, queue, native_types=FLOATS, native_devices=(q.device.type,), too_wide=too_wide)
    out: tuple[Tensor, Tensor, Tensor]
    if chosen == "reference":
        out = reference.info_nce(q, k, queue, temperature)
    elif chosen == "native":
        out = blocked_info_nce(q, k, queue, temperature)
    else:
        from gdui.kernels import contrast

        out = contrast.info_nce(q.contiguous(), k.contiguous(), queue.contiguous(), temperature)
    return out


@info_nce_op.register_fake
def _(q: Tensor, k: Tensor, queue: Tensor, temperature: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    like = q.new_empty(q.shape, dtype=reference.exact_type(q))
    return like.new_empty(len(q)), like, like.new_empty(len(q))


def blocked_info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """What `reference.info_nce` returns, from one block of logits at a time and a running softmax."""
    k = reference.exact(k)
    scaled = reference.exact(q) / temperature
    positive = (scaled * k).sum(1)
    top, negative, centre = positive, torch.zeros_like(positive), torch.zeros_like(k)
    size = min(len(queue), max(LEAST_BLOCK // max(1, len(q)), -(-len(queue) // BLOCKS)))
    logits = q.new_empty(len(q), size, dtype=k.dtype)
    for block in torch.split(queue, size):
        x = block.to(k.dtype)
        share = torch.mm(scaled, x.T, out=logits[:, : len(x)] if len(x) < size else logits)
        new_top = torch.maximum(top, share.amax(1))
        share.sub_(new_top[:, None]).exp_()
        shrink = torch.exp(top - new_top)
        negative = negative * shrink + share.sum(1)
        centre.mul_(shrink[:, None]).addmm_(share, x)
        top = new_top
    total = negative + torch.exp(positive - top)
    pull = centre.sub_(negative[:, None] * k).div_(total[:, None])
    return top + total.log() - positive, pull, negative / total


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, _, _, ctx.temperature, _ = inputs
    _, pull, rest = output
    ctx.save_for_backward(q, pull, rest)
    ctx.mark_non_differentiable(pull, rest)


def backward(ctx: Any, dloss: Tensor, _dpull: Tensor, _drest: Tensor) -> tuple[Tensor | None, ...]:
    needs_q, needs_k, *_ = ctx.needs_input_grad

    def run(dloss: Tensor, q: Tensor, pull: Tensor, rest: Tensor) -> tuple[Tensor | None, Tensor | None]:
        scale = dloss[:, None] / ctx.temperature
        dq = (scale * pull).to(q.dtype) if needs_q else None
        dk = (-scale * rest[:, None] * q).to(q.dtype) if needs_k else None
        return dq, dk

    return *once("info_nce", run, dloss, *ctx.saved_tensors), None, None, None


info_nce_op.register_autograd(backward, setup_context=save_for_backward)
