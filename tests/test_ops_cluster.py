"""cluster_loss: values and gradients against PyTorch's softmax and cross-entropy head by head, and closed forms."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backends import device_of, runnable
from tolerance import assert_no_worse
from torch import Tensor

from gdui import ops
from gdui.kernels import reference
from gdui.ops import dispatch
from gdui.ops.cluster import TRITON_CLUSTERS, double_softmax_loss_backward_op, double_softmax_loss_op

BACKENDS = runnable(native=True)
SHAPES = [(1, 1, 1), (3, 50, 7), (2, 17, 16), (1, 300, 33), (2, 5, 1000), (1, 2, 4097), (0, 4, 3), (2, 0, 3)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def head_by_head(logits: Tensor, targets: Tensor) -> Tensor:
    """What people write: a loop over the heads."""
    losses = [F.cross_entropy(F.softmax(z, 1), t, ignore_index=-1) for z, t in zip(logits, targets, strict=True)]
    return torch.stack(losses).nan_to_num(0) if losses else logits.sum((1, 2))


def heads(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    logits = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits.to(device), torch.randint(-1, shape[2], shape[:2], generator=generator).to(device)


def value_and_gradient(loss, logits: Tensor, upstream: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    logits = logits.detach().requires_grad_()
    out = loss(logits)
    return [out.detach(), *torch.autograd.grad(out, logits, upstream.to(out.dtype))]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradient(backend: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    exact, targets = heads(shape, device_of(backend))
    logits = exact.to(dtype)
    upstream = torch.arange(1.0, shape[0] + 1, device=logits.device)
    ours = value_and_gradient(lambda z: ops.cluster_loss(z, targets, backend=backend), logits, upstream)
    plain = value_and_gradient(lambda z: head_by_head(z, targets), logits, upstream)
    truth = value_and_gradient(lambda z: head_by_head(z, targets), logits.double(), upstream.double())
    assert_no_worse(ours[0], plain[0].float(), truth[0], "loss")
    assert_no_worse(ours[1], plain[1], truth[1].nan_to_num(0), "gradient")


@pytest.mark.parametrize("clusters", [1, 2, 10, 1000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_forms(backend: str, clusters: int) -> None:
    """Equal logits: log K. A sure head: log(e + K - 1), less 1 where it is right."""
    logits = torch.zeros(2, 3, clusters, device=device_of(backend))
    logits[1, :, 0] = 1e4
    targets = torch.zeros(2, 3, dtype=torch.int64, device=logits.device)
    equal, right = ops.cluster_loss(logits, targets, backend=backend).tolist()
    assert equal == pytest.approx(math.log(clusters), abs=1e-6)
    assert right == pytest.approx(math.log(math.e + clusters - 1) - 1, abs=1e-6)
    if clusters > 1:
        wrong = ops.cluster_loss(logits, targets + 1, backend=backend).tolist()[1]
        assert wrong == pytest.approx(math.log(math.e + clusters - 1), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_chosen_samples_count(backend: str) -> None:
    logits, targets = heads((2, 40, 9), device_of(backend))
    logits = logits.float().requires_grad_()
    targets[1] = -1
    loss = ops.cluster_loss(logits, targets, backend=backend)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    chosen = targets[0] >= 0
    alone = ops.cluster_loss(logits[:1, chosen], targets[:1, chosen], backend=backend)
    torch.testing.assert_close(loss[:1], alone)
    assert loss[1] == 0
    assert not gradient[targets < 0].any()
    torch.testing.assert_close(gradient.sum(2), torch.zeros_like(gradient.sum(2)), atol=1e-7, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_beyond_the_clusters_is_none(backend: str) -> None:
    """On a GPU, where nobody waits to look; on the CPU it raises before a kernel is reached."""
    logits = torch.linspace(-1, 1, 12, device=device_of(backend)).view(3, 4)
    targets = torch.tensor([2, 4, -7], device=logits.device)
    if backend == "native":
        with pytest.raises(ValueError, match="below the number of clusters 4, but hold 4"):
            ops.cluster_loss(logits[None], targets[None], backend="native")
        return
    module: Any = reference
    if backend == "triton":
        from gdui.kernels import cluster

        module = cluster
    losses = module.double_softmax_loss(logits, targets)
    gradient = module.double_softmax_loss_backward(logits, targets, torch.ones_like(losses))
    assert losses[0] != 0
    assert gradient[0].any()
    assert not losses[1:].any()
    assert not gradient[1:].any()


def test_a_forced_choice_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every obstacle but the number of clusters is taken away, as on a GPU."""
    monkeypatch.setattr(dispatch, "triton_obstacle", lambda tensors: None)
    logits, targets = torch.zeros(1, 1, TRITON_CLUSTERS + 1), torch.zeros(1, 1, dtype=torch.int64)
    message = "'triton' was asked for, but its kernel takes at most 16384 clusters, not 16385"
    with pytest.raises(RuntimeError, match=message):
        ops.cluster_loss(logits, targets, backend="triton")
    assert ops.cluster_loss(logits, targets) > 0
    monkeypatch.setenv("GDUI_BACKEND", "triton")
    with pytest.raises(RuntimeError, match=message):
        ops.cluster_loss(logits, targets)


def test_threads_do_not_change_a_bit() -> None:
    logits, targets = heads((3, 700, 21), "cpu")
    upstream, before = torch.ones(3), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(value_and_gradient(lambda z: ops.cluster_loss(z, targets), logits.float(), upstream))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_reference_gradients_in_float64() -> None:
    logits, targets = heads((2, 4, 5), "cpu")
    assert torch.autograd.gradcheck(lambda z: ops.cluster_loss(z, targets), logits.requires_grad_())


def test_registered_as_torch_wants_it() -> None:
    logits, targets = heads((1, 6, 5), "cpu")
    for backend in ("reference", "native"):
        torch.library.opcheck(double_softmax_loss_op, (logits[0].float().requires_grad_(), targets[0], backend))
        arguments = (logits[0].float().detach(), targets[0], torch.ones(6), backend)
        torch.library.opcheck(double_softmax_loss_backward_op, arguments)


def test_compiles_as_one_graph() -> None:
    logits, targets = heads((2, 6, 5), "cpu")
    compiled = torch.compile(lambda z: 2 * ops.cluster_loss(3 * z, targets), fullgraph=True, backend="aot_eager")
    ours = value_and_gradient(compiled, logits.float(), torch.tensor([1.0, 2.0]))
    eager = value_and_gradient(lambda z: 2 * head_by_head(3 * z, targets), logits.float(), torch.tensor([1.0, 2.0]))
    for one, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (torch.zeros(1, 2, 3).long(), torch.zeros(1, 2).long(), TypeError, "logits must be floating-point"),
        (torch.zeros(2, 3), torch.zeros(2).long(), ValueError, r"logits must be \[H, N, K\].* its shape is \(2, 3\)"),
        ([[[0.0]]], torch.zeros(1, 1).long(), TypeError, "logits must be a floating-point tensor, not list"),
        (torch.zeros(1, 1, 3), [[0]], TypeError, "targets must be a tensor, not list"),
        (torch.zeros(1, 2, 0), torch.zeros(1, 2).long(), ValueError, "at least one cluster"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2), TypeError, "targets must be int64, not torch.float32"),
        (torch.zeros(1, 2, 3), torch.zeros(2, 1).long(), ValueError, r"targets must be \(1, 2\).*, not \(2, 1\)"),
        (torch.zeros(1, 1, 3), torch.full((1, 1), 3), ValueError, "below the number of clusters 3, but hold 3"),
    ],
)
def test_mistakes_are_named(logits: Tensor, targets: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.cluster_loss(logits, targets)
