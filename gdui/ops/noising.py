"""Images with noise added: the forward process of diffusion."""

from typing import Any

import torch
from torch import Tensor

from gdui import _core
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.tables import Column
from gdui.ops.dispatch import Backend, choose
from gdui.ops.images import (
    Tabulated,
    array,
    check_images,
    check_noise,
    dense_like,
    per_image,
    planes,
    require_steps,
    runner,
    table_of,
    threads,
)

__all__ = ["noise_images"]


def noise_images(
    x0: Tensor,
    t: Tensor,
    schedule: Tabulated,
    *,
    noise: Tensor | None = None,
    seed: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """√ᾱ x0 + √(1-ᾱ) noise, with ᾱ at each image's step.

    Args:
        x0: images [B, C, ...] in float32, bfloat16, float16 or float64.
        t: the step of each image [B] in int64, an index into the schedule.
        schedule: a `gdui.diffusion.schedule.Schedule`, of whose steps (after respacing) `t` speaks.
        noise: the noise, of x0's shape.
        seed: in place of noise, an int64 seed for each image [B]; `denoising_loss` draws the same noise from it.
        backend: "triton", "native" (C++, not for float64) or "reference".

    Returns:
        the noisy images, of x0's shape, type and memory format, with gradients to x0 and noise.
    """
    check_images("x0", x0)
    t = per_image("t", t, x0, "x0")
    seed = check_noise(noise, seed, x0, "x0")
    run = runner(noise_images_op, NoiseImages.apply, compute, x0, noise)
    out: Tensor = run(x0, t, table_of(schedule, x0), noise, seed, backend)
    return out


def compute(x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, backend: str) -> Tensor:
    chosen = choose(backend, x0, noise)
    if chosen != "native":  # which looks itself
        require_steps(t, table)
    out = dense_like(x0, torch.float32 if chosen == "native" else None)
    if chosen == "reference":
        return out.copy_(reference.noise_images(x0, t, table, noise, seed))
    if not out.numel():
        return out.to(x0.dtype)
    if chosen == "native":
        images, given, to = array(planes(x0)), array(planes(noise)), array(planes(out))
        _core.noise_images(images, array(t), array(table), given, array(seed), to, threads())
        return out.to(x0.dtype)
    from gdui.kernels import noising

    noising.noise_images(planes(x0), t, table, planes(noise), seed, planes(out))
    return out


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, t, table, noise, _, _ = inputs
    ctx.save_for_backward(t, table)
    ctx.noise_dtype = noise.dtype if noise is not None else None


def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    t, table = ctx.saved_tensors
    needs_x0, _, _, needs_noise, _, _ = ctx.needs_input_grad
    by_x0 = gradient * reference.at(table, t, Column.SIGNAL, gradient).to(gradient.dtype) if needs_x0 else None
    by_noise = gradient * reference.at(table, t, Column.NOISE, gradient) if needs_noise else None
    return by_x0, None, None, by_noise.to(ctx.noise_dtype) if by_noise is not None else None, None, None


class NoiseImages(torch.autograd.Function):
    """The op without the dispatcher's layers of Python, which cost more than a small batch's arithmetic."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = compute(*inputs)
        save_for_backward(ctx, inputs, output)
        return output

    backward = staticmethod(backward)


noise_images_op = torch.library.custom_op("gdui::noise_images", compute, mutates_args=())
noise_images_op.register_autograd(backward, setup_context=save_for_backward)


@noise_images_op.register_fake
def _(x0: Tensor, *others: object) -> Tensor:
    return dense_like(x0)
