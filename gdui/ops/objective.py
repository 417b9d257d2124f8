"""What a diffusion model is trained on: the error of its prediction, and the variational bound."""

from collections.abc import Callable
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
    check_steps,
    dense_like,
    halves,
    planes,
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
    check_steps("t", t, x0, "x0")
    check_noise(noise, seed, x0, "x0")
    table = table_of(schedule, x0)
    run = denoising_loss_op if torch.compiler.is_compiling() else DenoisingLoss.apply
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
    chosen = choose(backend, prediction, x0, noise, native=True)
    out = x0.new_zeros(len(x0), dtype=table.dtype)
    if chosen == "reference":
        return out.copy_(reference.denoising_loss(prediction, x0, t, table, noise, seed, kind, target, weighting))
    if not x0.numel():
        return out
    if chosen == "native":
        rows = native_rows(prediction, x0, t, table, noise, seed, kind, target, weighting)
        _core.denoising_loss(*rows, out.numpy(), threads())
        return out
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
    chosen = choose(backend, prediction, x0, noise, native=True)
    out = dense_like(prediction)
    if chosen == "reference":
        inputs = (prediction, x0, t, table, noise, seed, kind, target, weighting)
        return out.copy_(reference.denoising_loss_backward(dloss, *inputs))
    if not out.numel():
        return out
    channels = x0.shape[1]
    dpredicted, dvalues = halves(out, channels)
    if kind == "simple" and dvalues is not None:
        dvalues.zero_()
    if chosen == "native":
        rows = native_rows(prediction, x0, t, table, noise, seed, kind, target, weighting)
        to_values = None if kind == "simple" else array(dvalues)
        _core.denoising_loss_backward(*rows, array(dloss.contiguous()), array(dpredicted), to_values, threads())
        return out
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


def native_rows(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    kind: str,
    target: str,
    weighting: str,
) -> tuple[Any, ...]:
    """The arguments that the C++ core's loss and its gradient share."""
    predicted, values = halves(prediction, x0.shape[1])
    scale = len(table) / 1000 if kind == "rescaled_hybrid" else 1.0
    return (
        array(predicted),
        None if kind == "simple" else array(values),
        array(planes(x0)),
        array(t.contiguous()),
        array(table),
        array(planes(noise)),
        None if seed is None else array(seed.contiguous()),
        "hybrid" if kind == "rescaled_hybrid" else kind,
        target,
        weighting,
        scale,
    )


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kind, ctx.target, ctx.weighting, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
    run: Callable[..., Tensor] = denoising_loss_backward_op if torch.compiler.is_compiling() else compute_gradient
    options = (ctx.kind, ctx.target, ctx.weighting, ctx.backend)
    return run(dloss, *ctx.saved_tensors, *options), *[None] * 9


class DenoisingLoss(torch.autograd.Function):
    """The op without the dispatcher's layers of Python, which cost more than a small batch's arithmetic."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = compute(*inputs)
        save_for_backward(ctx, inputs, output)
        return output

    backward = staticmethod(backward)


denoising_loss_op = torch.library.custom_op("gdui::denoising_loss", compute, mutates_args=())
denoising_loss_backward_op = torch.library.custom_op("gdui::denoising_loss_backward", compute_gradient, mutates_args=())
denoising_loss_op.register_autograd(backward, setup_context=save_for_backward)


@denoising_loss_op.register_fake
def _(prediction: Tensor, x0: Tensor, t: Tensor, table: Tensor, *others: object) -> Tensor:
    return x0.new_empty(len(x0), dtype=table.dtype)


@denoising_loss_backward_op.register_fake
def _(dloss: Tensor, prediction: Tensor, *others: object) -> Tensor:
    return dense_like(prediction)
