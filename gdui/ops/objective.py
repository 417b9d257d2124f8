"""What a diffusion model is trained on: the error of its prediction, and the variational bound."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from gdui import _core
from gdui.checks import one_of
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Denoising, halves
from gdui.ops.arguments import refuse_gradients, refuse_tangents
from gdui.ops.dispatch import Backend, choose
from gdui.ops.images import (
    Tabulated,
    array,
    check_images,
    check_noise,
    check_prediction,
    dense_like,
    per_image,
    planes,
    require_steps,
    runner,
    table_of,
    threads,
)
from gdui.ops.once import once

__all__ = ["Kind", "Target", "Weighting", "denoising_loss"]

Kind = Literal["simple", "hybrid", "rescaled_hybrid", "vlb"]
Target = Literal["eps", "x0", "v"]
Weighting = Literal["min_snr", "p2"]
NAME = "denoising_loss"


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
    """How wrong a network is about each image, with the gradient to its prediction.

    Args:
        prediction: what the network said of the noisy images [B, C, ...], or [B, 2C, ...] with the values that place
            the variance between its bounds, which all kinds but "simple" need; its type may be another than x0's.
        x0: the clean images [B, C, ...] in float32, bfloat16, float16 or float64, from -1 to 1 where the bound counts;
            like the noise it gets no gradient, and one that wants it is refused.
        t: the step of each image [B] in int64, an index into the schedule.
        schedule: a `gdui.diffusion.schedule.Schedule`, of whose steps (after respacing) `t` speaks.
        noise, seed: the noise in the images, of x0's shape, or the int64 seeds [B] that `noise_images` drew it from.
        kind: the mean square ("simple"), the variational bound in bits for each number ("vlb"), or their sum
            ("hybrid"), where the bound trains the variance alone; "rescaled_hybrid" scales it by steps / 1000.
        target: what is predicted: the noise, the image, or the velocity √ᾱ noise - √(1-ᾱ) x0.
        weighting: of the mean square by the signal-to-noise ratio: min-SNR with 5, or P2 with k = γ = 1; without it
            all steps weigh the same.
        backend: "triton", "native" (C++, not for float64) or "reference".

    Returns:
        the loss of each image [B] in float32 (float64 for float64 images).
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
    refuse_gradients(x0=x0, noise=noise)
    refuse_tangents(NAME, x0, noise)
    table = table_of(schedule, x0)
    run = runner(denoising_loss_op, DenoisingLoss.apply, compute, prediction)
    out: Tensor = run(prediction, x0, t, table, noise, seed, kind, target, weighting or "none", backend)
    return out


@torch.no_grad()
def compute(*arguments: Any) -> Tensor:
    given, backend = Denoising(*arguments[:-1]), arguments[-1]
    chosen = choose(backend, given.prediction, given.x0, given.noise)
    if chosen != "native":  # which looks itself
        require_steps(given.t, given.table)
    losses: Tensor
    if not given.x0.numel():
        losses = given.x0.new_zeros(len(given.x0), dtype=given.table.dtype)
    elif chosen == "reference":
        losses = reference.denoising_loss(given)
    elif chosen == "native":
        losses = native(given, None, None)
    else:
        from gdui.kernels import objective

        losses = objective.denoising_loss(in_planes(given))
    return losses


def compute_gradient(dloss: Tensor, *arguments: Any) -> Tensor:
    given, backend = Denoising(*arguments[:-1]), arguments[-1]
    chosen = choose(backend, given.prediction, given.x0, given.noise)
    if chosen == "reference":
        return dense_like(given.prediction).copy_(reference.denoising_loss_backward(dloss, given))
    out = dense_like(given.prediction, torch.float32 if chosen == "native" else None)
    if out.numel() and chosen == "native":
        native(given, dloss, out)
    elif out.numel():
        from gdui.kernels import objective

        objective.denoising_loss_backward(dloss, in_planes(given), planes(out))
    return out.to(given.prediction.dtype)


def in_planes(given: Denoising) -> Denoising:
    """The same of images [B, C, P]."""
    return given._replace(prediction=planes(given.prediction), x0=planes(given.x0), noise=planes(given.noise))


def native(given: Denoising, dloss: Tensor | None, gradient: Tensor | None) -> Tensor:
    """The losses; `gradient` is filled in the same pass where it is given, without dloss that of the losses' sum."""
    predicted, values = halves(planes(given.prediction), given.x0.shape[1])
    dpredicted, dvalues = (None, None) if gradient is None else halves(planes(gradient), given.x0.shape[1])
    if given.kind == "simple":
        if dvalues is not None:
            dvalues.zero_()
        values, dvalues = None, None
    losses: Tensor = given.x0.new_empty(len(given.x0), dtype=given.table.dtype)
    _core.denoising_loss(
        array(predicted), array(values), array(planes(given.x0)), array(given.t), array(given.table),
        array(planes(given.noise)), array(given.seed), given.kind.removeprefix("rescaled_"), given.target,
        given.weighting, len(given.table) / 1000 if given.kind == "rescaled_hybrid" else 1.0,
        None if dloss is None else array(dloss.contiguous()), array(dpredicted), array(dvalues), array(losses),
        threads(),
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


def scaled(gradient: Tensor, dloss: Tensor, prediction: Tensor) -> Tensor:
    """The prediction's gradient, made in place from that of the losses' sum."""
    return gradient.mul_(dloss.view(-1, *(1,) * (gradient.ndim - 1))).to(prediction.dtype)


class DenoisingLoss(torch.autograd.Function):
    """The op without the dispatcher's layers of Python, which cost more than a small batch's arithmetic.

    The C++ core makes the gradient along with the loss: to draw the noise once more would cost more than to keep it.
    It is given away on the way back; on a second one it is computed.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        given, ctx.gradient = Denoising(*inputs[:-1]), None
        native_runs = choose(inputs[-1], given.prediction, given.x0, given.noise) == "native" and given.x0.numel() > 0
        if native_runs:
            ctx.gradient = dense_like(given.prediction, torch.float32)
        output = native(given, None, ctx.gradient) if native_runs else compute(*inputs)
        save_for_backward(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *dloss: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            return backward_by(partial(once, NAME, compute_gradient))(ctx, *dloss)
        return once(NAME, partial(scaled, gradient), *dloss, ctx.saved_tensors[0]), *[None] * 9


ARGUMENTS = (
    "Tensor prediction, Tensor x0, Tensor t, Tensor table, Tensor? noise, Tensor? seed, str kind, str target, "
    "str weighting, str backend"
)
denoising_loss_op = torch.library.custom_op(
    "gdui::denoising_loss", compute, mutates_args=(), schema=f"({ARGUMENTS}) -> Tensor"
)
denoising_loss_backward_op = torch.library.custom_op(
    "gdui::denoising_loss_backward", compute_gradient, mutates_args=(), schema=f"(Tensor dloss, {ARGUMENTS}) -> Tensor"
)
denoising_loss_op.register_autograd(backward_by(denoising_loss_backward_op), setup_context=save_for_backward)


@denoising_loss_op.register_fake
def _(prediction: Tensor, x0: Tensor, t: Tensor, table: Tensor, *others: object) -> Tensor:
    return x0.new_empty(len(x0), dtype=table.dtype)


@denoising_loss_backward_op.register_fake
def _(dloss: Tensor, prediction: Tensor, *others: object) -> Tensor:
    return dense_like(prediction)
