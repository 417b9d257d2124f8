"""Attention and its way back equal the formula in float64, in both of ADM's orders."""

import pytest
import torch
from tolerance import assert_no_worse
from torch import Tensor

from gdui.diffusion import attention


def formula(qkv: Tensor, heads: int, *, heads_first: bool) -> Tensor:
    """One picture, one head and one token at a time."""
    channels = qkv.shape[2] // (3 * heads)
    shape = (heads, 3, channels) if heads_first else (3, heads, channels)
    pictures = []
    for picture in qkv:
        parts = picture.view(-1, *shape)
        mixed = []
        for head in range(heads):
            q, k, v = (parts[:, head, i] if heads_first else parts[:, i, head] for i in range(3))
            mixed.append(torch.stack([(k @ row / channels**0.5).softmax(0) @ v for row in q]))
        pictures.append(torch.cat(mixed, dim=1))
    return torch.stack(pictures)


@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("tokens", [1, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradient_equal_the_formula(tokens: int, heads_first: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    qkv, upstream = torch.randn(3, tokens, 36).to(dtype), torch.randn(3, tokens, 12).to(dtype)

    def out_and_gradient(function, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        given = qkv.to(dtype).requires_grad_()
        out = function(given, 2, heads_first=heads_first)
        return out.detach(), torch.autograd.grad(out, given, upstream.to(dtype))[0]

    ours, plain = out_and_gradient(attention.attend, dtype), out_and_gradient(formula, dtype)
    for one, other, truth in zip(ours, plain, out_and_gradient(formula, torch.float64), strict=True):
        assert_no_worse(one, other, truth)


def test_chunks_of_the_way_back_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, upstream = torch.randn(4, 5, 3, 8, 4)

    def gradients() -> tuple[Tensor, ...]:
        given = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        return torch.autograd.grad(attention.Attend.apply(*given), given, upstream)

    together = gradients()
    monkeypatch.setattr(attention, "CACHED", 2 * 8**2)
    for one, other in zip(gradients(), together, strict=True):
        torch.testing.assert_close(one, other)
