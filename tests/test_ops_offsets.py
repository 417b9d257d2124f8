"""Images whose numbers lie further apart than 32 bits can count: every op reads and writes them where they are.

The memory is reserved and, but for a few pages, never touched.
"""

from typing import Any

import pytest
import torch
from backends import device_of, runnable
from diffusion_cases import wave
from torch import Tensor

from gdui import _core, ops
from gdui.diffusion.schedule import Schedule

BACKENDS: list[Any] = [backend for backend in runnable(native=True) if backend != "reference"]
SCHEDULE = Schedule.from_name("cosine", 50)
FAR = 2**31 + 8
STRIDES = {"images": (FAR, 5, 1), "channels": (10, FAR - 10, 1), "positions": (20, 10, FAR // 4)}
T, SEED = torch.tensor([3, 40]), torch.tensor([1, -2])


def spread(value: Tensor, apart: str, backend: str) -> Tensor:
    """`value` [2, 2, 5] with its images, channels or positions far apart."""
    reserved = torch.empty(FAR + 1024, device=device_of(backend))
    far = reserved.as_strided(value.shape, STRIDES[apart])
    far.copy_(value)
    return far


@pytest.mark.parametrize("apart", STRIDES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_read(backend: Any, apart: str) -> None:
    near = [wave(rate, 2, 2, 5).float().to(device_of(backend)) for rate in (0.7, 1.3)]
    far, (t, seed) = [spread(value, apart, backend) for value in near], (v.to(device_of(backend)) for v in (T, SEED))
    for run in (
        lambda a, b: ops.noise_images(a, t, SCHEDULE, noise=b, backend=backend),
        lambda a, b: ops.denoising_loss(a, b, t, SCHEDULE, seed=seed, backend=backend),
        lambda a, b: ops.guided_step(a, b, t, SCHEDULE, seed=seed, variance="fixed_small", clip=0.9, backend=backend),
    ):
        torch.testing.assert_close(run(*far), run(*near), rtol=0, atol=0)


@pytest.mark.parametrize("apart", STRIDES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_written(backend: Any, apart: str) -> None:
    x0 = wave(0.7, 2, 2, 5).float().to(device_of(backend))
    out, table = spread(torch.zeros(2, 2, 5), apart, backend), SCHEDULE.table(x0.device)
    if backend == "native":
        arrays = [value.numpy() for value in (x0, T, table)]
        _core.noise_images(*arrays, None, SEED.numpy(), out.numpy(), 1)
    else:
        from gdui.kernels import noising

        noising.noise_images(x0, T.to(x0.device), table, None, SEED.to(x0.device), out)
    expected = ops.noise_images(x0, T.to(x0.device), SCHEDULE, seed=SEED.to(x0.device), backend=backend)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
