"""info_nce: values and gradients against PyTorch's cross-entropy over all logits, and against closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backends import device_of, runnable
from tolerance import assert_no_worse
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gdui import ops
from gdui.kernels import reference
from gdui.ops import dispatch
from gdui.ops.contrast import blocked_info_nce, info_nce_op

BACKENDS = runnable(native=True)
SHAPES = [(3, 5, 2), (1, 1, 1), (7, 1100, 33), (33, 130, 128), (5, 70, 200), (2, 40, 512), (0, 9, 4)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def cross_entropy(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """What people write: every logit, then cross-entropy with the key first."""
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device), reduction="none")


def vectors(rows: int, entries: int, width: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows + entries + width)
    drawn = [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (rows, rows, entries)]
    return [F.normalize(value, dim=1).to(device) for value in drawn]


def value_and_gradients(loss, q: Tensor, k: Tensor, upstream: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    q, k = (value.detach().requires_grad_() for value in (q, k))
    out = loss(q, k)
    return [out.detach(), *torch.autograd.grad(out, (q, k), upstream.to(out.dtype))]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradients(backend: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    q, k, queue = (value.to(dtype) for value in vectors(*shape, device_of(backend)))
    upstream = torch.linspace(-2, 3, len(q), device=q.device)
    ours = value_and_gradients(lambda q, k: ops.info_nce(q, k, queue, 0.2, backend=backend), q, k, upstream)
    plain = value_and_gradients(lambda q, k: cross_entropy(q, k, queue, 0.2), q, k, upstream)
    exact = [value.double() for value in (q, k, queue, upstream)]
    truth = value_and_gradients(lambda q, k: cross_entropy(q, k, exact[2], 0.2), exact[0], exact[1], exact[3])
    for what, one, other, right in zip(("loss", "dq", "dk"), ours, plain, truth, strict=True):
        assert_no_worse(one, other.float() if what == "loss" else other, right, what)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_entries_have_a_closed_form(backend: str) -> None:
    """With Q equal entries x the loss is log(1 + Q exp((q·x - q·k) / T)), so its gradient is a sigmoid's."""
    q, k, x = (value.float() for value in vectors(4, 4, 24, device_of(backend)))
    apart = (q @ x[0] - (q * k).sum(1)).double() / 0.3
    loss, dq, dk = value_and_gradients(
        lambda q, k: ops.info_nce(q, k, x[:1].expand(1500, -1), 0.3, backend=backend), q, k, torch.ones(4).to(q)
    )
    torch.testing.assert_close(loss.double(), torch.log1p(1500 * apart.exp()), rtol=1e-5, atol=1e-6)
    share = torch.sigmoid(apart + math.log(1500)).float()[:, None]
    torch.testing.assert_close(dq, share * (x[:1] - k) / 0.3, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dk, -share * q / 0.3, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_do_not_overflow(backend: str) -> None:
    device = device_of(backend)
    q, queue = torch.ones(1, 16, device=device), torch.full((3, 16), 40.0, device=device)
    loss = ops.info_nce(q, -queue[:1], queue, 0.01, backend=backend)
    torch.testing.assert_close(loss.item(), 2 * 16 * 40 / 0.01 + math.log(3), rtol=1e-6, atol=0)
    torch.testing.assert_close(ops.info_nce(q, queue[:1], -queue, 0.01, backend=backend).item(), 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_queue_of_another_type(backend: str) -> None:
    q, k, queue = (value.bfloat16() for value in vectors(3, 50, 16, device_of(backend)))
    mixed = ops.info_nce(q, k, queue.float(), 0.2, backend=backend)
    torch.testing.assert_close(mixed, ops.info_nce(q, k, queue, 0.2, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_row_is_alone(backend: str) -> None:
    q, k, queue = (value.float() for value in vectors(9, 77, 20, device_of(backend)))
    together = ops.info_nce(q, k, queue, 0.2, backend=backend)
    alone = torch.cat([ops.info_nce(q[i : i + 1], k[i : i + 1], queue, 0.2, backend=backend) for i in range(9)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_raises(backend: str) -> None:
    q, k, queue = (value.float() for value in vectors(3, 7, 4, device_of(backend)))
    q, k = q.requires_grad_(), k.requires_grad_()
    loss = ops.info_nce(q, k, queue, 0.2, backend=backend)  # type: ignore[arg-type]
    gradients = torch.autograd.grad(loss.sum(), (q, k), create_graph=True)
    with pytest.raises(RuntimeError, match="info_nce has no second derivative"):
        sum(gradient.square().sum() for gradient in gradients).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_rounds_nothing(backend: str) -> None:
    q, k, queue = (value.float() for value in vectors(8, 70, 64, device_of(backend)))
    with torch.autocast(q.device.type, torch.bfloat16):
        loss = ops.info_nce(q, k, queue, 0.07, backend=backend)  # type: ignore[arg-type]
    assert torch.equal(loss, ops.info_nce(q, k, queue, 0.07, backend=backend))  # type: ignore[arg-type]


def test_a_forced_choice_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every obstacle but the width is taken away, as on a GPU."""
    monkeypatch.setattr(dispatch, "triton_obstacle", lambda tensors: None)
    q, k, queue = (value.float() for value in vectors(2, 40, 600, "cpu"))
    with pytest.raises(RuntimeError, match="'triton' was asked for, but its kernel takes at most 512 numbers in a row"):
        ops.info_nce(q, k, queue, 0.2, backend="triton")
    torch.testing.assert_close(ops.info_nce(q, k, queue, 0.2), cross_entropy(q, k, queue, 0.2))


def test_reference_gradients_in_float64() -> None:
    q, k, queue = vectors(3, 11, 5, "cpu")
    q.requires_grad_()
    k.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: ops.info_nce(q, k, queue, 0.2, backend="reference"), (q, k))
    assert torch.autograd.gradcheck(lambda q, k: ops.info_nce(q, k, queue, 0.2, backend="native"), (q, k))


def test_registered_as_torch_wants_it() -> None:
    q, k, queue = (value.float() for value in vectors(3, 11, 5, "cpu"))
    for backend in ("reference", "native"):
        torch.library.opcheck(info_nce_op, (q.requires_grad_(), k.requires_grad_(), queue, 0.2, backend))


def test_compiles_as_one_graph() -> None:
    q, k, queue = (value.float() for value in vectors(4, 30, 8, "cpu"))
    upstream = torch.arange(4.0)
    compiled = torch.compile(lambda q, k: 2 * ops.info_nce(2 * q, k, queue, 0.2), fullgraph=True, backend="aot_eager")
    eager = value_and_gradients(lambda q, k: 2 * ops.info_nce(2 * q, k, queue, 0.2), q, k, upstream)
    for one, other in zip(value_and_gradients(compiled, q, k, upstream), eager, strict=True):
        torch.testing.assert_close(one, other)


def test_no_tensor_comes_near_the_size_of_the_logits() -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out._base is None:
                self.elements = max(self.elements, out.numel())
            return out

    q, k, queue = (value.float() for value in vectors(256, 65536, 2, "cpu"))
    with Largest() as seen:
        blocked_info_nce(q, k, queue, 0.2)
    assert 0 < seen.elements <= q.shape[0] * queue.shape[0] / 60


@pytest.mark.parametrize(("rows", "entries"), [(300, 9000), (1000, 13001)])
def test_blocks_add_up_to_the_whole(rows: int, entries: int) -> None:
    """More logits than one block holds, the last block shorter than the others."""
    q, k, queue = (value.float() for value in vectors(rows, entries, 8, "cpu"))
    for ours, whole in zip(blocked_info_nce(q, k, queue, 0.2), reference.info_nce(q, k, queue, 0.2), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "q must be floating-point, not torch.int64"),
        ({"q": torch.zeros(3)}, ValueError, r"q must have 2 axes, but its shape is \(3,\)"),
        ({"k": torch.zeros(2, 3).half()}, TypeError, "k must have q's type torch.float32, not torch.float16"),
        ({"k": np.zeros((2, 3))}, TypeError, "k must be a tensor, not ndarray"),
        ({"k": torch.zeros(1, 3)}, ValueError, r"k must have q's shape \(2, 3\), not \(1, 3\)"),
        ({"queue": torch.zeros(0, 3)}, ValueError, r"queue must be \[Q, 3\] with at least one row, not \(0, 3\)"),
        ({"queue": torch.zeros(5, 4)}, ValueError, r"queue must be \[Q, 3\] with at least one row, not \(5, 4\)"),
        ({"queue": torch.zeros(5, 3, requires_grad=True)}, ValueError, "queue gets no gradient: detach it"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0, not 0.0"),
        ({"temperature": torch.tensor(0.2, requires_grad=True)}, TypeError, "temperature must be a number, not Tensor"),
        ({"temperature": float("nan")}, ValueError, "temperature must be above 0, not nan"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"q": torch.zeros(2, 3), "k": torch.zeros(2, 3), "queue": torch.zeros(5, 3), "temperature": 0.2}
    with pytest.raises(error, match=message):
        ops.info_nce(**(arguments | change))
