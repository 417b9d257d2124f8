"""One step of sampling: what is predicted is bounded, steered by a gradient, and the next noise added, in one pass."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from gdui import _core
from gdui.checks import in_range, one_of
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Step, halves
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
        x: the images at step t [B, C, ...] in float32, bfloat16, float16 or float64.
        prediction: the network's [B, C, ...], or [B, 2C, ...] with the values of a learned variance, which only
            "ancestral" with "learned_range" reads.
        t: the step of each image [B] in int64, an index into the schedule; at step 0 no noise is added.
        schedule: a `gdui.diffusion.schedule.Schedule`, of whose steps (after respacing) `t` speaks.
        gradient: of a classifier's log probability by x [B, C, ...], multiplied by `scale`: it moves the mean by the
            variance ("ancestral") or the predicted noise by -√(1-ᾱ) ("ddim").
        scale: how strongly the gradient steers; without a gradient nothing.
        noise, seed: the noise to add, or an int64 seed for each image [B]: each step draws other noise from it, so one
            seed serves a whole run. "ddim" needs either only where `eta` is above 0.
        method: "ancestral" draws from p(x' | x); "ddim" takes DDIM's step.
        eta: how much of the ancestral step's noise "ddim" adds, from 0 (none) to 1; "ancestral" doesn't read it.
        variance: of the ancestral step: between its bounds by the prediction's second half ("learned_range"), or the
            lower bound ("fixed_small") or the upper one ("fixed_large").
        clip: bound the predicted x0 by 1 (True), not at all (False), or by a quantile of its own size, a float from 0
            to 1, by which it is then divided (dynamic thresholding).
        target: what is predicted: the noise, the image, or the velocity √ᾱ noise - √(1-ᾱ) x0.
        unconditional: a second, weaker prediction (without the class, or by a weaker network); the one used is
            unconditional + guidance (prediction - unconditional). The variance is the first one's.
        guidance: 1 is the prediction itself, more moves it away from the other; without `unconditional` nothing.
        backend: "triton", "native" (C++, not for float64) or "reference".

    Returns:
        the images, of x's shape, type and memory format.
    """
    one_of("method", method, ["ancestral", "ddim"])
    one_of("variance", variance, ["learned_range", "fixed_small", "fixed_large"])
    one_of("target", target, ["eps", "x0", "v"])
    in_range("eta", eta, 0.0, 1.0)
    in_range("scale", scale, -math.inf, math.inf)
    in_range("guidance", guidance, -math.inf, math.inf)
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
    if not isinstance(clip, bool):
        in_range("clip", clip, 0.0, 1.0)
    how, quantile = ("one" if clip else "none", 1.0) if isinstance(clip, bool) else ("quantile", float(clip))
    run = guided_step_op if torch.compiler.is_compiling() else compute
    out: Tensor = run(
        x, prediction, t, table_of(schedule, x), gradient, float(scale), noise, seed, method, float(eta), variance, how,
        quantile, target, unconditional, float(guidance), backend,
    )  # fmt: skip
    return out


def compute(*arguments: Any) -> Tensor:
    step, backend = Step(*arguments[:-1]), arguments[-1]
    chosen = choose(backend, step.x, step.prediction, step.gradient, step.noise, step.unconditional)
    if chosen != "native":  # which looks itself
        require_steps(step.t, step.table)
    if chosen == "reference":
        return dense_like(step.x).copy_(reference.guided_step(step))
    out = dense_like(step.x, torch.float32 if chosen == "native" else None)
    if out.numel() and chosen == "native":
        native(step, out)
    elif out.numel():
        from gdui.kernels import guidance as kernel

        weak, images = step.unconditional, (step.x, step.prediction, step.gradient, step.noise)
        x, prediction, gradient, noise = map(planes, images)
        inputs = step._replace(x=x, prediction=prediction, gradient=gradient, noise=noise, unconditional=planes(weak))
        kernel.guided_step(inputs, planes(out))
    return out.to(step.x.dtype)


def native(step: Step, out: Tensor) -> None:
    predicted, values = halves(planes(step.prediction), step.x.shape[1])
    weak = None if step.unconditional is None else halves(planes(step.unconditional), step.x.shape[1])[0]
    _core.guided_step(
        array(planes(step.x)), array(predicted), array(values), array(step.t), array(step.table),
        array(planes(step.gradient)), step.scale, array(planes(step.noise)), array(step.seed), step.method, step.eta,
        step.variance, step.clip, step.rank(), step.target, array(weak), step.guidance, array(planes(out)), threads(),
    )  # fmt: skip


guided_step_op = torch.library.custom_op(
    "gdui::guided_step",
    compute,
    mutates_args=(),
    schema="(Tensor x, Tensor prediction, Tensor t, Tensor table, Tensor? gradient, float scale, Tensor? noise, "
    "Tensor? seed, str method, float eta, str variance, str clip, float quantile, str target, Tensor? unconditional, "
    "float guidance, str backend) -> Tensor",
)


@guided_step_op.register_fake
def _(x: Tensor, *others: object) -> Tensor:
    return dense_like(x)
