"""noise_images: what it computes, on every backend, in every type and layout."""

from typing import Any

import pytest
import torch
from backends import device_of, runnable
from diffusion_cases import SHAPES, backends_and_types, moved, steps_for, wave
from tolerance import assert_no_worse
from torch.autograd import forward_ad

from gdui import ops
from gdui.diffusion.schedule import Schedule
from gdui.ops.dispatch import Backend

BACKENDS: list[Any] = runnable(native=True)
SCHEDULE = Schedule.from_name("cosine", 50)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 6)], ids=str)
@pytest.mark.parametrize(("backend", "dtype"), backends_and_types())
def test_given_noise_is_mixed_in(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, poisoned: None
) -> None:
    t = steps_for(shape)
    signal = torch.from_numpy((1 - SCHEDULE.betas).cumprod())[t].view(-1, *(1,) * (len(shape) - 1))
    x0, noise = wave(0.7, *shape).to(dtype), wave(2.1, *shape).to(dtype)
    truth = signal.sqrt() * x0.double() + (1 - signal).sqrt() * noise.double()
    plain = signal.sqrt().to(dtype) * x0 + (1 - signal).sqrt().to(dtype) * noise
    images, given = (moved(value, backend, dtype, channels_last) for value in (x0, noise))
    out = ops.noise_images(images, t.to(device_of(backend)), SCHEDULE, noise=given, backend=backend)  # type: ignore[arg-type]
    assert not x0.numel() or out.stride() == images.stride()
    assert_no_worse(out.cpu(), plain, truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_seeds_may_have_any_strides(backend: Backend) -> None:
    x0, t = moved(wave(0.7, 3, 2, 5), backend), torch.tensor([40, 1, 20, 1, 0]).to(device_of(backend))
    assert not t[::2].is_contiguous()
    for steps, seed in ((t[::2], t[::2]), (t[:1].expand(3), t[1:2].expand(3))):
        out = ops.noise_images(x0, steps, SCHEDULE, seed=seed, backend=backend)
        assert torch.equal(out, ops.noise_images(x0, steps.clone(), SCHEDULE, seed=seed.clone(), backend=backend))
        alone = ops.noise_images(x0[1:2], steps[1:2].clone(), SCHEDULE, seed=seed[1:2].clone(), backend=backend)
        assert torch.equal(out[1:2], alone)


def test_gradients_reach_the_images_and_the_noise() -> None:
    x0, noise = (wave(rate, 3, 2, 4).requires_grad_() for rate in (0.7, 2.1))
    t = torch.tensor([0, 20, 49])
    assert torch.autograd.gradcheck(lambda a, b: ops.noise_images(a, t, SCHEDULE, noise=b), (x0, noise))


def test_it_compiles_whole() -> None:
    """A schedule that has no table yet makes it on the way."""
    x0, t, seed = wave(0.7, 2, 3, 5, 5).float(), torch.tensor([3, 40]), torch.tensor([1, 2])
    new = Schedule.from_name("cosine", 50)
    compiled = torch.compile(lambda x: ops.noise_images(x, t, new, seed=seed), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x0), ops.noise_images(x0, t, SCHEDULE, seed=seed))


def test_a_tangent_is_not_lost() -> None:
    x0, t = wave(0.7, 2, 1, 3, 3).float(), torch.tensor([3, 40])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        ops.noise_images(forward_ad.make_dual(x0, x0), t, SCHEDULE, seed=t)


def test_the_op_is_registered_as_pytorch_wants() -> None:
    x0, t = wave(0.7, 2, 3, 5, 5).float(), torch.tensor([3, 40])
    arguments = (x0.requires_grad_(), t, SCHEDULE.table("cpu"), None, torch.tensor([1, 2]), "auto")
    torch.library.opcheck(torch.ops.gdui.noise_images.default, arguments)


X0 = torch.zeros(2, 3, 4, 4)
T = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("x0", "t", "options", "error", "message"),
    [
        (X0, T, {}, ValueError, "give either noise or seed, not neither"),
        (X0, T, {"noise": X0, "seed": T}, ValueError, "give either noise or seed, not both"),
        (X0, T[:1], {"seed": T}, ValueError, "t must have one entry for each image of x0, 2, not (1,)"),
        (X0, T.float(), {"seed": T}, TypeError, "t must be int64, not torch.float32"),
        (X0, T, {"seed": T.int()}, TypeError, "seed must be int64, not torch.int32"),
        (X0, T, {"noise": X0[:1]}, ValueError, "noise must have x0's shape (2, 3, 4, 4), not (1, 3, 4, 4)"),
        (X0.long(), T, {"seed": T}, TypeError, "x0 must be floating-point, not torch.int64"),
        (X0[0, 0, 0], T, {"seed": T}, ValueError, "x0 must be [B, C, ...], but its shape is (4,)"),
        (X0, T + 50, {"seed": T, "backend": "native"}, ValueError, "t must be in [0, 50), but holds 50"),
        (X0, T - 1, {"seed": T, "backend": "reference"}, ValueError, "t must be in [0, 50), but holds -1"),
        (X0.double(), T - 1, {"seed": T}, ValueError, "t must be in [0, 50), but holds -1"),
        (X0.bfloat16(), T + 49, {"seed": T}, ValueError, "t must be in [0, 50), but holds 50"),
        (X0, 3, {"seed": T}, TypeError, "t must be an int64 tensor with one entry for each image, not int"),
        (X0.numpy(), T, {"seed": T}, TypeError, "x0 must be a floating-point tensor, not ndarray"),
        (X0, T, {"seed": T, "backend": "cuda"}, ValueError, "backend must be one of"),
        (X0.double(), T, {"seed": T, "backend": "native"}, RuntimeError, "not torch.float64"),
    ],
)
def test_mistakes_are_named(
    x0: torch.Tensor, t: torch.Tensor, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        ops.noise_images(x0, t, SCHEDULE, **options)  # type: ignore[arg-type]
    assert message in str(raised.value)


@pytest.mark.parametrize("schedule", ["cosine", None, SCHEDULE.betas], ids=lambda value: type(value).__name__)
def test_what_is_no_schedule_is_named(schedule: Any) -> None:
    with pytest.raises(TypeError, match=f"schedule must be a .*Schedule, not {type(schedule).__name__}"):
        ops.noise_images(X0, T, schedule, seed=T)
