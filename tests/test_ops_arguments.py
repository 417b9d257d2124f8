"""What ops can't do with what they are handed, they say."""

from collections.abc import Callable

import pytest
import torch
from backends import device_of, runnable
from torch import Tensor
from torch.autograd import forward_ad

from gdui import ops

TAKING_A_TANGENT: dict[str, Callable[[Tensor, str], Tensor]] = {
    "info_nce": lambda x, backend: ops.info_nce(x, x.detach(), x.detach(), 0.1, backend=backend),
    "cluster_loss": lambda x, backend: ops.cluster_loss(
        x[None], torch.tensor([[0, 1, 2, -1]], device=x.device), backend=backend
    ),
    "group_norm_silu": lambda x, backend: ops.group_norm_silu(
        x[None], 2, torch.ones(4, device=x.device), torch.zeros(4, device=x.device), backend=backend
    ),
}


def halves(backend: str) -> Tensor:
    return torch.full((4, 4), 0.5, device=device_of(backend))


@pytest.mark.parametrize("backend", runnable(native=True))
@pytest.mark.parametrize("name", TAKING_A_TANGENT)
def test_a_tangent_is_not_lost(name: str, backend: str) -> None:
    op, x = TAKING_A_TANGENT[name], halves(backend)
    assert op(x, backend).isfinite().all()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=rf"{name} has no forward-mode derivative \(jvp\)"):
        op(forward_ad.make_dual(x, x), backend)


@pytest.mark.parametrize("backend", runnable(native=True))
@pytest.mark.parametrize("name", TAKING_A_TANGENT)
def test_looking_for_tangents_breaks_no_graph(name: str, backend: str) -> None:
    op, x = TAKING_A_TANGENT[name], halves(backend)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, backend), op(x, backend))


@pytest.mark.parametrize("backend", runnable(native=True))
@pytest.mark.parametrize("name", TAKING_A_TANGENT)
def test_a_second_derivative_raises(name: str, backend: str) -> None:
    op, leaf = TAKING_A_TANGENT[name], halves(backend).requires_grad_()
    (gradient,) = torch.autograd.grad(op(leaf, backend).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name} has no second derivative"):
        gradient.sum().backward()
