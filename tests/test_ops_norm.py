"""group_norm_silu: values and gradients against PyTorch's own parts, and what any normalising must do."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backends import device_of, runnable
from tolerance import assert_no_worse
from torch import Tensor

from gdui import ops
from gdui.ops import dispatch
from gdui.ops.norm import group_norm_backward_op, group_norm_op

BACKENDS = runnable(native=True)
# Images, and groups: one channel a group, odd numbers, one group, more pixels than a block, one pixel, no image.
SHAPES = [((2, 4, 3, 5), 4), ((3, 70, 5, 7), 7), ((2, 24, 4, 4), 1), ((1, 96, 17, 19), 32), ((2, 64, 1, 1), 32)]
SHAPES += [((2, 12, 9), 4), ((0, 8, 3, 3), 2), ((1, 160, 3, 3), 2)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
FLAGS = [(True, True), (False, True), (True, False)]


def parts(x: Tensor, groups: int, values: list[Tensor], silu: bool) -> Tensor:
    """What people write: three operations of PyTorch's."""
    weight, bias, *film = values
    out = F.group_norm(x, groups, weight, bias) if len(x) else x * 1
    if film:
        scale, shift = (value.view(*value.shape, *(1,) * (x.ndim - 2)) for value in film)
        out = out * (1 + scale) + shift
    return F.silu(out) if silu else out


def made(shape: tuple[int, ...], film: bool, device: str) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(sum(shape))
    shapes = [shape[1:2], shape[1:2], *[shape[:2]] * 2 * film]
    x = 1 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(device), [torch.randn(s, generator=generator, dtype=torch.float64).to(device) for s in shapes]


def value_and_gradients(function: Any, x: Tensor, values: list[Tensor]) -> list[Tensor]:
    inputs = [value.detach().requires_grad_() for value in (x, *values)]
    out = function(inputs[0], inputs[1:])
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream, allow_unused=True)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("film", "silu"), FLAGS, ids=["all", "no scale", "no silu"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradients(
    backend: str, shape: tuple[int, ...], groups: int, dtype: torch.dtype, film: bool, silu: bool
) -> None:
    x, values = made(shape, film, device_of(backend))
    x, values = x.to(dtype), [value.to(dtype) for value in values]

    def ours(x: Tensor, values: list[Tensor]) -> Tensor:
        return ops.group_norm_silu(x, groups, *values, silu=silu, backend=backend)

    def plain(x: Tensor, values: list[Tensor]) -> Tensor:
        return parts(x, groups, values, silu)

    exact = value_and_gradients(plain, x.double(), [value.double() for value in values])
    names = ("y", "dx", "dweight", "dbias", "dscale", "dshift")
    given = (names, value_and_gradients(ours, x, values), value_and_gradients(plain, x, values), exact)
    for what, one, other, right in zip(*given, strict=False):  # fewer names are needed without scale and shift
        if len(x):
            assert_no_worse(one, other, right, what)
        else:
            assert not one.any(), what


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_last_is_kept(backend: str) -> None:
    x, values = made((2, 8, 5, 3), False, device_of(backend))
    x, values = x.float(), [value.float() for value in values]
    last = x.contiguous(memory_format=torch.channels_last)
    from_last = ops.group_norm_silu(last, 4, *values, backend=backend)
    assert from_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_last, ops.group_norm_silu(x, 4, *values, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_mean_cancels_nothing(backend: str) -> None:
    x = 3e4 + torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(device_of(backend))
    one, zero = torch.ones(8, device=x.device), torch.zeros(8, device=x.device)
    y = ops.group_norm_silu(x, 2, one, zero, silu=False, backend=backend)
    torch.testing.assert_close(y.double(), F.group_norm(x.double(), 2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_pixel_far_from_the_others_cancels_nothing(backend: str) -> None:
    x = torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    x[..., 0, 0] = 64.0
    x = x.to(device_of(backend))
    one, zero = torch.ones(8, device=x.device), torch.zeros(8, device=x.device)
    y = ops.group_norm_silu(x, 2, one, zero, silu=False, backend=backend)
    right = F.group_norm(x.double(), 2)
    torch.testing.assert_close(y[..., 1:, :].double(), right[..., 1:, :], atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_forms(backend: str) -> None:
    """A flat group becomes its offset; ±1 has mean 0 and variance 1."""
    device = device_of(backend)
    weight, bias = (
        torch.tensor([2.0, -3.0, 0.5, 1.0], device=device),
        torch.tensor([0.1, 0.2, -0.3, 4.0], device=device),
    )
    x = torch.full((1, 4, 2, 3), 7.0, device=device)
    x[:, 2:, 0], x[:, 2:, 1] = 1.0, -1.0
    y = ops.group_norm_silu(x, 2, weight, bias, eps=1e-5, backend=backend)
    z = bias.view(4, 1, 1).repeat(1, 2, 3)
    z[2:] += x[0, 2:] * weight[2:].view(2, 1, 1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(y[0], z / (1 + torch.exp(-z)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_or_stretching_a_group_changes_nothing(backend: str) -> None:
    """So the gradient to x is at right angles to both, whatever comes from above."""
    x, values = made((2, 12, 6, 6), True, device_of(backend))
    x, values = x.float(), [value.float() for value in values]
    y = ops.group_norm_silu(x, 3, *values, eps=1e-12, backend=backend)
    torch.testing.assert_close(ops.group_norm_silu(4 * x - 9, 3, *values, eps=1e-12, backend=backend), y)
    function = lambda x, values: ops.group_norm_silu(x, 3, *values, eps=1e-12, backend=backend)  # noqa: E731
    dx = value_and_gradients(function, x, values)[1].reshape(2, 3, -1)
    size = dx.norm(dim=2)
    assert (dx.sum(2).abs() < 1e-5 * size * dx.shape[2] ** 0.5).all()
    assert ((dx * x.view(2, 3, -1)).sum(2).abs() < 1e-5 * size * x.view(2, 3, -1).norm(dim=2)).all()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_a_bit(dtype: torch.dtype, batch: int) -> None:
    x, values = made((batch, 128, 9, 9), True, "cpu")
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        function = lambda x, values: ops.group_norm_silu(x, 32, *values, backend="native")  # noqa: E731
        results.append(value_and_gradients(function, x.to(dtype), [value.to(dtype) for value in values]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_a_forced_choice_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every obstacle but the group's size is taken away, as on a GPU."""
    monkeypatch.setattr(dispatch, "triton_obstacle", lambda tensors: None)
    x, weight = torch.ones(1, 4097, 1), torch.ones(4097)
    message = "'triton' was asked for, but its kernel takes at most 4096 channels in a group, not 4097"
    with pytest.raises(RuntimeError, match=message):
        ops.group_norm_silu(x, 1, weight, weight, backend="triton")
    torch.testing.assert_close(ops.group_norm_silu(x, 1, weight, weight, silu=False), x)


def test_far_tails_of_silu() -> None:
    x = torch.tensor([-1.0, 1.0]).repeat(1, 1, 50).requires_grad_()
    for weight in (1e1, 1e2, 1e4):
        y = ops.group_norm_silu(x, 1, torch.tensor([weight]), torch.zeros(1), backend="native")
        right = F.silu(F.group_norm(x.double(), 1) * weight)
        torch.testing.assert_close(y.double(), right, rtol=2e-5, atol=1e-30)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.isfinite().all()


def test_reference_gradients_in_float64() -> None:
    x, values = made((2, 6, 2, 3), True, "cpu")
    inputs = [value.requires_grad_() for value in (x, *values)]
    assert torch.autograd.gradcheck(lambda x, *values: ops.group_norm_silu(x, 3, *values), inputs)


def test_registered_as_torch_wants_it() -> None:
    x, values = made((2, 6, 5), True, "cpu")
    inputs = [value.float().requires_grad_() for value in (x.transpose(1, 2).contiguous(), *values[2:])]
    for backend in ("reference", "native"):
        torch.library.opcheck(group_norm_op, (*inputs, 3, 1e-5, True, backend))
        x, gain, offset = (value.detach() for value in inputs)
        back = (torch.ones_like(x), x, gain, offset, 0.1 * gain, torch.ones_like(gain), 3, True, backend)
        torch.library.opcheck(group_norm_backward_op, back)


def test_compiles_as_one_graph() -> None:
    x, values = made((2, 6, 4, 4), True, "cpu")
    x, values = x.float(), [value.float() for value in values]

    def function(x: Tensor, values: list[Tensor]) -> Tensor:
        return 2 * ops.group_norm_silu(3 * x, 3, *values)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = value_and_gradients(function, x, values)
    for one, other in zip(value_and_gradients(compiled, x, values), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(1, 4, 2).long()}, TypeError, "x must be floating-point, not torch.int64"),
        ({"x": torch.zeros(1, 4)}, ValueError, r"x must be \[B, C, ...\].*, but its shape is \(1, 4\)"),
        ({"x": torch.zeros(1, 4, 0)}, ValueError, "with channels and pixels"),
        ({"groups": 3}, ValueError, "groups must divide the 4 channels of x, but is 3"),
        ({"groups": 0}, ValueError, "groups must be at least 1, not 0"),
        ({"groups": 2.0}, TypeError, "groups must be a whole number, not float"),
        ({"x": [[[0.0]]]}, TypeError, "x must be a floating-point tensor, not list"),
        ({"weight": 1.0}, TypeError, "weight must be a floating-point tensor, not float"),
        ({"bias": None}, TypeError, "bias must be a floating-point tensor, not NoneType"),
        ({"shift": torch.zeros(1, 4).long()}, TypeError, "shift must be floating-point, not torch.int64"),
        ({"weight": torch.zeros(3)}, ValueError, r"weight must be \(4,\), not \(3,\)"),
        ({"eps": -1.0}, ValueError, "eps must be between 0.0 and inf, not -1.0"),
        ({"eps": "small"}, TypeError, "eps must be a number, not str"),
        ({"silu": "no"}, TypeError, "silu must be True or False, not 'no'"),
        ({"scale": torch.zeros(4)}, ValueError, r"scale must be \(1, 4\), not \(4,\)"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x": torch.zeros(1, 4, 2), "groups": 2, "weight": torch.zeros(4), "bias": torch.zeros(4)}
    with pytest.raises(error, match=message):
        ops.group_norm_silu(**(arguments | change))
