"""One step of sampling: what is predicted is bounded, steered by a gradient, and the next noise added, in one pass."""

from typing import Literal

import torch
from torch import Tensor

from gdui import _core
from gdui.checks import in_range, one_of
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
    same_shape,
    table_of,
    threads,
)
from gdui.ops.objective import Target

__all__ = ["Method", "Variance", "guided_step"]

Method = Literal["ancestral", "ddim"]
Variance = Literal["learned_range", "fixed_small", "fixed_large"]


@torch.no_grad()
def guided_step(
    x: Tensor,
    prediction: Tensor,
    t: Tensor,
    schedule: Tabulated,
    *,
    gradient: Tensor | None = None,
    scale: float = 1.0,
    noise: Tensor | None = None,
    seed: Tensor | None = None,
    method: Method = "ancestral",
    eta: float = 0.0,
    variance: Variance = "learned_range",
    clip: bool | float = True,
    target: Target = "eps",
    unconditional: Tensor | None = None,
    guidance: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """The images one step earlier; not differentiable: this is sampling.

    Args:
        x: the images at step t [B, C, ...].
        prediction: the network's [B, C, ...], or [B, 2C, ...] with the values of a learned variance, which only
            "ancestral" with "learned_range" reads.
        t: the step of each image [B]; at step 0 no noise is added.
        gradient: of a classifier's log probability by x, scaled by `scale`: it moves the mean by the variance
            ("ancestral") or the predicted noise by -√(1-ᾱ) ("ddim").
        noise, seed: the noise to add, or an int64 seed for each image [B]: each step draws other noise from it, so one
            seed serves a whole run. "ddim" needs either only where `eta` is above 0.
        clip: bound the predicted x0 by 1 (True), not at all (False), or by that quantile of its own size, by which it
            is then divided (dynamic thresholding).
        unconditional: a second, weaker prediction (without the class, or by a weaker network); the one used is
            unconditional + guidance (prediction - unconditional).
    """
    one_of("method", method, ["ancestral", "ddim"])
    one_of("variance", variance, ["learned_range", "fixed_small", "fixed_large"])
    one_of("target", target, ["eps", "x0", "v"])
    in_range("eta", eta, 0.0, 1.0)
    check_images("x", x)
    t = per_image("t", t, x, "x")
    learned = True if method == "ancestral" and variance == "learned_range" else None
    check_prediction("prediction", prediction, x, "x", learned=learned)
    if unconditional is not None:
        check_prediction("unconditional", unconditional, x, "x", learned=None)
    if gradient is not None:
        same_shape("gradient", gradient, x, "x")
    if method == "ancestral" or eta or noise is not None or seed is not None:
        seed = check_noise(noise, seed, x, "x")
    table = table_of(schedule, x)
    limit = limit_of(clip, x, prediction, t, table, target, unconditional, guidance)
    run = guided_step_op if torch.compiler.is_compiling() else compute
    out: Tensor = run(
        x, prediction, t, table, gradient, float(scale), noise, seed, method, float(eta), variance, limit, target,
        unconditional, float(guidance), backend,
    )  # fmt: skip
    return out


def limit_of(
    clip: bool | float,
    x: Tensor,
    prediction: Tensor,
    t: Tensor,
    table: Tensor,
    target: str,
    unconditional: Tensor | None,
    guidance: float,
) -> Tensor | None:
    """What each image's predicted x0 is held within [B]."""
    if clip is False:
        return None
    if clip is True:
        return table.new_ones(len(x))
    in_range("clip", clip, 0.0, 1.0)
    if not torch.compiler.is_compiling():
        require_steps(t, table)
    limit: Tensor = reference.dynamic_limit(x, prediction, t, table, clip, target, unconditional, guidance)
    return limit


def compute(
    x: Tensor,
    prediction: Tensor,
    t: Tensor,
    table: Tensor,
    gradient: Tensor | None,
    scale: float,
    noise: Tensor | None,
    seed: Tensor | None,
    method: str,
    eta: float,
    variance: str,
    limit: Tensor | None,
    target: str,
    unconditional: Tensor | None,
    guidance: float,
    backend: str,
) -> Tensor:
    chosen = choose(backend, x, prediction, gradient, noise, unconditional)
    require_steps(t, table)
    out = dense_like(x, torch.float32 if chosen == "native" else None)
    if chosen == "reference":
        options = (method, eta, variance, limit, target, unconditional, guidance)
        return out.copy_(reference.guided_step(x, prediction, t, table, gradient, scale, noise, seed, *options))
    if not out.numel():
        return out.to(x.dtype)
    predicted, values = halves(prediction, x.shape[1])
    weak = None if unconditional is None else halves(unconditional, x.shape[1])[0]
    if chosen == "native":
        _core.guided_step(
            array(planes(x)), array(predicted), array(values), array(t), array(table),
            array(planes(gradient)), scale, array(planes(noise)), array(seed),
            method, eta, variance, array(limit), target, array(weak), guidance, array(planes(out)), threads(),
        )  # fmt: skip
        return out.to(x.dtype)
    from gdui.kernels import guidance as kernel

    kernel.guided_step(
        planes(x), predicted, values, t, table, planes(gradient), scale, planes(noise), seed, method, eta, variance,
        limit, target, weak, guidance, planes(out),
    )  # fmt: skip
    return out


guided_step_op = torch.library.custom_op("gdui::guided_step", compute, mutates_args=())


@guided_step_op.register_fake
def _(x: Tensor, *others: object) -> Tensor:
    return dense_like(x)
