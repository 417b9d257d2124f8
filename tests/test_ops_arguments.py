"""What ops can't do with what they are handed, they say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from gdui import ops

HALVES = torch.full((4, 4), 0.5)

TAKING_A_TANGENT: dict[str, Callable[[Tensor], Tensor]] = {
    "info_nce": lambda x: ops.info_nce(x, HALVES, HALVES, 0.1),
    "cluster_loss": lambda x: ops.cluster_loss(x[None], torch.tensor([[0, 1, 2, -1]])),
    "group_norm_silu": lambda x: ops.group_norm_silu(x[None], 2, torch.ones(4), torch.zeros(4)),
}


@pytest.mark.parametrize("name", TAKING_A_TANGENT)
def test_a_tangent_is_not_lost(name: str) -> None:
    op = TAKING_A_TANGENT[name]
    assert op(HALVES).isfinite().all()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=rf"{name} has no forward-mode derivative \(jvp\)"):
        op(forward_ad.make_dual(HALVES, HALVES))


@pytest.mark.parametrize("name", TAKING_A_TANGENT)
def test_looking_for_tangents_breaks_no_graph(name: str) -> None:
    op = TAKING_A_TANGENT[name]
    torch.testing.assert_close(torch.compile(op, fullgraph=True, backend="aot_eager")(HALVES), op(HALVES))
