"""Tolerances that are derived: a fast result may be off by twice what plain PyTorch in the same type is off by."""

import torch
from torch import Tensor


def assert_no_worse(ours: Tensor, plain: Tensor, truth: Tensor, what: str = "the result") -> None:
    """Raises unless `ours` is as near to `truth` (float64) as twice `plain` is, give or take eight roundings."""
    assert ours.dtype == plain.dtype, f"{what}: {ours.dtype}, not {plain.dtype}"
    assert ours.shape == truth.shape, f"{what}: {tuple(ours.shape)}, not {tuple(truth.shape)}"
    assert not ours.isnan().any(), f"{what}: NaN"
    if not truth.numel():
        return
    off, allowed = ((value.double() - truth).abs().max().item() for value in (ours, plain))
    rounding = torch.finfo(ours.dtype).eps * truth.abs().max().item()
    assert off <= 2 * allowed + 8 * rounding, f"{what}: off by {off:.3g}, plain PyTorch by {allowed:.3g}"
