"""What a diffusion model is trained on: the error of its prediction, and the variational bound."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from gdui import _core
from gdui.checks import one_of
from gdui.kernels import reference_diffusion as reference
from gdui.ops.dispatch import Backend, choose
from gdui.ops.images import (
    Tabulated,
    array,
    check_images,
    check_noise,
    check_prediction,
    dense_like,
    halves,
    per_image,
    planes,
    require_steps,
    runner,
    table_of,
    threads,
)

__all__ = ["Kind", "Target", "Weighting", "denoising_loss"]

Kind = Literal["simple", "hybrid", "rescaled_hybrid", "vlb"]
Target = Literal["eps", "x0", "v"]
Weighting = Literal["min_snr", "p2"]


def denoising_loss(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    schedule: Tabulated,
    *,
    noise: Tensor | None = None,
    seed: Tensor | None = None,
    kind: Kind = "simple",
    target: Target = "eps",
    weighting: Weighting | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Each image's loss [B], with the gradient of the prediction; x0 and the noise count as given.

    Args:
        prediction: what the network said of the noisy images [B, C, ...], or [B, 2C, ...] with the values that place
            the variance between its bounds, which all kinds but "simple" need.
        x0: the clean images [B, C, ...].
        t: the step of each image [B].
        noise, seed: the noise in the images, or the seeds [B] that `noise_images` drew it from.
        kind: the mean square ("simple"), the variational bound in bits for each number ("vlb"), or their sum
            ("hybrid"), where the bound trains the variance alone; "rescaled_hybrid" scales it by steps / 1000.
        target: what is predicted: the noise, the image, or the velocity √ᾱ noise - √(1-ᾱ) x0.
        weighting: of the mean square by the signal-to-noise ratio: min-SNR with 5, or P2 with k = γ = 1.
    """
    one_of("kind", kind, ["simple", "hybrid", "rescaled_hybrid", "vlb"])
    one_of("target", target, ["eps", "x0", "v"])
    if weighting is not None:
        one_of("weighting", weighting, ["min_snr", "p2"])
        if kind == "vlb":
            raise ValueError("weighting must be None for kind 'vlb', which has no mean square to weigh")
    check_images("x0", x0)
    check_prediction("prediction", prediction, x0, "x0", learned=None if kind == "simple" else True)
    t = per_image("t", t, x0, "x0")
    seed = check_noise(noise, seed, x0, "x0")
    table = table_of(schedule, x0)
    run = runner(denoising_loss_op, DenoisingLoss.apply, compute, prediction)
    out: Tensor = run(prediction, x0, t, table, noise, seed, kind, target, weighting or "none", backend)
    return out


def compute(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    kind: str,
    target: str,
    weighting: str,
    backend: str,
) -> Tensor:
    chosen = choose(backend, prediction, x0, noise)
    require_steps(t, table)
    out = x0.new_zeros(len(x0), dtype=table.dtype)
    if chosen == "reference":
        return out.copy_(reference.denoising_loss(prediction, x0, t, table, noise, seed, kind, target, weighting))
    if not x0.numel():
        return out
    if chosen == "native":
        return native(None, None, out, prediction, x0, t, table, noise, seed, kind, target, weighting)
    from gdui.kernels import objective

    predicted, values = halves(prediction, x0.shape[1])
    inputs = (predicted, values, planes(x0), t, table, planes(noise), seed, kind, target, weighting)
    return out.copy_(objective.denoising_loss(*inputs))


def compute_gradient(
    dloss: Tensor,
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    kind: str,
    target: str,
    weighting: str,
    backend: str,
) -> Tensor:
    chosen = choose(backend, prediction, x0, noise)
    out = dense_like(prediction, torch.float32 if chosen == "native" else None)
    if chosen == "reference":
        inputs = (prediction, x0, t, table, noise, seed, kind, target, weighting)
        return out.copy_(reference.denoising_loss_backward(dloss, *inputs))
    if not out.numel():
        return out.to(prediction.dtype)
    if chosen == "native":
        losses = x0.new_empty(len(x0), dtype=table.dtype)
        native(dloss, out, losses, prediction, x0, t, table, noise, seed, kind, target, weighting)
        return out.to(prediction.dtype)
    channels = x0.shape[1]
    dpredicted, dvalues = halves(out, channels)
    if kind == "simple" and dvalues is not None:
        dvalues.zero_()
    from gdui.kernels import objective

    predicted, values = halves(prediction, channels)
    objective.denoising_loss_backward(
        dloss,
        predicted,
        values,
        planes(x0),
        t,
        table,
        planes(noise),
        seed,
        kind,
        target,
        weighting,
        dpredicted,
        dvalues,
    )
    return out


def native(
    dloss: Tensor | None,
    gradient: Tensor | None,
    losses: Tensor,
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    kind: str,
    target: str,
    weighting: str,
) -> Tensor:
    """Fills `losses` and, where it is given, `gradient` in the same pass; without dloss that of the losses' sum."""
    predicted, values = halves(prediction, x0.shape[1])
    dpredicted, dvalues = (None, None) if gradient is None else halves(gradient, x0.shape[1])
    if kind == "simple":
        if dvalues is not None:
            dvalues.zero_()
        values, dvalues = None, None
    _core.denoising_loss(
        array(predicted), array(values), array(planes(x0)), array(t), array(table), array(planes(noise)),
        array(seed), kind.removeprefix("rescaled_"), target, weighting,
        len(table) / 1000 if kind == "rescaled_hybrid" else 1.0, None if dloss is None else array(dloss.contiguous()),
        array(dpredicted), array(dvalues), array(losses), threads(),
    )  # fmt: skip
    return losses


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kind, ctx.target, ctx.weighting, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def backward_by(run: Callable[..., Tensor]) -> Callable[[Any, Tensor], tuple[Tensor | None, ...]]:
    """The backward pass, with `run` to compute the prediction's gradient."""

    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        return run(dloss, *ctx.saved_tensors, ctx.kind, ctx.target, ctx.weighting, ctx.backend), *[None] * 9

    return backward


class Once(torch.autograd.Function):
    """Runs a function on the tensors that a gradient is made of, and raises where that is to be differentiated."""

    @staticmethod
    def forward(_ctx: Any, run: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return run(*inputs)

    @staticmethod
    def backward(_ctx: Any, *_gradient: Tensor) -> None:
        raise RuntimeError("denoising_loss has no second derivative")


def scaled(dloss: Tensor, gradient: Tensor, prediction: Tensor) -> Tensor:
    """The prediction's gradient, from that of the losses' sum."""
    return (gradient * dloss.view(-1, *(1,) * (gradient.ndim - 1))).to(prediction.dtype)


class DenoisingLoss(torch.autograd.Function):
    """The op without the dispatcher's layers of Python, which cost more than a small batch's arithmetic.

    The C++ core makes the gradient along with the loss: to draw the noise once more would cost more than to keep it.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        prediction, x0, t, table, noise, *_, backend = inputs
        ctx.fused = choose(backend, prediction, x0, noise) == "native" and x0.numel() > 0
        if not ctx.fused:
            output = compute(*inputs)
            save_for_backward(ctx, inputs, output)
            return output
        require_steps(t, table)
        gradient, losses = dense_like(prediction, torch.float32), x0.new_empty(len(x0), dtype=table.dtype)
        ctx.save_for_backward(gradient, prediction)
        return native(None, gradient, losses, *inputs[:-1])

    @staticmethod
    def backward(ctx: Any, *dloss: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.fused:
            return backward_by(partial(Once.apply, compute_gradient))(ctx, *dloss)
        return Once.apply(scaled, *dloss, *ctx.saved_tensors), *[None] * 9


denoising_loss_op = torch.library.custom_op("gdui::denoising_loss", compute, mutates_args=())
denoising_loss_backward_op = torch.library.custom_op("gdui::denoising_loss_backward", compute_gradient, mutates_args=())
denoising_loss_op.register_autograd(backward_by(denoising_loss_backward_op), setup_context=save_for_backward)


@denoising_loss_op.register_fake
def _(prediction: Tensor, x0: Tensor, t: Tensor, table: Tensor, *others: object) -> Tensor:
    return x0.new_empty(len(x0), dtype=table.dtype)


@denoising_loss_backward_op.register_fake
def _(dloss: Tensor, prediction: Tensor, *others: object) -> Tensor:
    return dense_like(prediction)
