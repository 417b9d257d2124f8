"""Gradients of several tasks become one in which none works against another."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["balanced"]


def balanced(tasks: Sequence[Sequence[Tensor]], seed: Sequence[int]) -> list[Tensor]:
    """The sum over tasks of each task's gradient, less what in it opposes the others.

    Yu et al. 2020 (PCGrad), as Go et al. 2023 use it on intervals of time steps: gᵢ loses (gᵢ·gⱼ / |gⱼ|²) gⱼ for every
    j with gᵢ·gⱼ < 0, the j in random order.

    Args:
        tasks: the gradients of each task, a tensor for every parameter.
        seed: of the order.
    """
    flat = [torch.cat([gradient.flatten() for gradient in gradients]) for gradients in tasks]
    generator = np.random.default_rng([3, *seed])
    projected = []
    for i, own in enumerate(flat):
        left = own.clone()
        for j in generator.permutation(len(flat)).tolist():
            if j != i:
                along = torch.clamp(left @ flat[j], max=0) / flat[j].square().sum().clamp_min(1e-20)
                left -= along * flat[j]
        projected.append(left)
    total = torch.stack(projected).sum(dim=0)
    pieces = torch.split(total, [gradient.numel() for gradient in tasks[0]])
    return [piece.view_as(gradient) for piece, gradient in zip(pieces, tasks[0], strict=True)]
