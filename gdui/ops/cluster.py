"""The clustering heads' loss: cross-entropy of a softmax of a softmax, all heads at once."""

from typing import Any

import torch
from torch import Tensor

from gdui.kernels import reference
from gdui.ops.arguments import check_floats, check_tensor, refuse_tangents
from gdui.ops.dispatch import Backend, choose, wider
from gdui.ops.once import only_once

__all__ = ["cluster_loss"]

TRITON_CLUSTERS = 16384  # a longer row doesn't fit into a kernel's registers


def cluster_loss(logits: Tensor, targets: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Each head's mean of -log softmax(softmax(logits)) at the targets of its chosen samples.

    The second softmax is SPICE's: it bounds the loss, so that a wrong pseudo-label can't dominate.

    Args:
        logits: of each head's samples and clusters [H, N, K], in float32, bfloat16, float16 or float64.
        targets: each head's pseudo-labels [H, N] in int64, negative for samples it hasn't chosen. One of K or more
            raises on the CPU; on a GPU, where looking would wait for it, it is not chosen either.
        backend: "triton", "native" (C++) or "reference".

    Returns:
        the loss of each head [H] in float32 (float64 for float64 logits); 0 where a head has chosen no sample.
    """
    check_heads(logits, targets)
    refuse_tangents("cluster_loss", logits)
    heads, samples, clusters = logits.shape
    losses = double_softmax_loss_op(logits.reshape(heads * samples, clusters), targets.reshape(-1), backend)
    chosen = ((targets >= 0) & (targets < clusters)).sum(1).clamp(min=1)
    loss: Tensor = losses.view(heads, samples).sum(1) / chosen
    return loss


def check_heads(logits: Tensor, targets: Tensor) -> None:
    check_floats("logits", logits)
    if logits.ndim != 3 or logits.shape[2] == 0:
        raise ValueError(f"logits must be [H, N, K] with at least one cluster, but its shape is {tuple(logits.shape)}")
    check_tensor("targets", targets)
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64, not {targets.dtype}")
    if targets.shape != logits.shape[:2]:
        raise ValueError(f"targets must be {tuple(logits.shape[:2])}, as logits are, not {tuple(targets.shape)}")
    if targets.device != logits.device:
        raise ValueError(f"targets must be on logits' device {logits.device}, not on {targets.device}")


@torch.library.custom_op("gdui::double_softmax_loss", mutates_args=())
def double_softmax_loss_op(logits: Tensor, targets: Tensor, backend: str) -> Tensor:
    chosen = backend_for(logits, backend)
    check_targets(targets, logits.shape[1])
    logits, targets = logits.detach().contiguous(), targets.contiguous()
    losses: Tensor
    if chosen == "reference":
        losses = reference.double_softmax_loss(logits, targets)
    elif chosen == "native":
        from gdui import _core

        losses = torch.empty(len(logits))
        _core.double_softmax_loss(logits.float().numpy(), targets.numpy(), losses.numpy(), torch.get_num_threads())
    else:
        from gdui.kernels import cluster

        losses = cluster.double_softmax_loss(logits, targets)
    return losses


@double_softmax_loss_op.register_fake
def _(logits: Tensor, targets: Tensor, backend: str) -> Tensor:
    return logits.new_empty(len(logits), dtype=reference.exact_type(logits))


@torch.library.custom_op("gdui::double_softmax_loss_backward", mutates_args=())
def double_softmax_loss_backward_op(logits: Tensor, targets: Tensor, dlosses: Tensor, backend: str) -> Tensor:
    chosen = backend_for(logits, backend)
    logits, targets, dlosses = logits.detach().contiguous(), targets.contiguous(), dlosses.detach().contiguous()
    dlogits: Tensor
    if chosen == "reference":
        dlogits = reference.double_softmax_loss_backward(logits, targets, dlosses)
    elif chosen == "native":
        from gdui import _core

        computed = torch.empty_like(logits, dtype=torch.float32)
        arrays = (tensor.numpy() for tensor in (logits.float(), targets, dlosses, computed))
        _core.double_softmax_loss_backward(*arrays, torch.get_num_threads())
        dlogits = computed.to(logits.dtype)
    else:
        from gdui.kernels import cluster

        dlogits = cluster.double_softmax_loss_backward(logits, targets, dlosses)
    return dlogits


@double_softmax_loss_backward_op.register_fake
def _(logits: Tensor, targets: Tensor, dlosses: Tensor, backend: str) -> Tensor:
    return logits.new_empty(logits.shape)


def backend_for(logits: Tensor, backend: str) -> str:
    too_wide = wider("clusters", logits.shape[1], TRITON_CLUSTERS)
    return choose(backend, logits, too_wide=too_wide)


def check_targets(targets: Tensor, clusters: int) -> None:
    """Raises unless all are below `clusters`; on a GPU that would wait for it, and the kernels skip such a sample."""
    if targets.device.type == "cpu" and targets.numel() and int(targets.max()) >= clusters:
        raise ValueError(f"targets must be below the number of clusters {clusters}, but hold {int(targets.max())}")


def save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    logits, targets, ctx.backend = inputs
    ctx.save_for_backward(logits, targets)


def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor, None, None]:
    return double_softmax_loss_backward_op(*ctx.saved_tensors, dlosses, ctx.backend), None, None


double_softmax_loss_op.register_autograd(backward, setup_context=save_for_backward)
only_once("cluster_loss", double_softmax_loss_backward_op)
