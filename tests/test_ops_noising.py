"""noise_images: what it computes, on every backend."""

import pytest
import torch
from backends import device_of, runnable

from gdui import ops
from gdui.diffusion.schedule import Schedule

BACKENDS = runnable(native=False)
SHAPES = [(2, 3, 8, 8), (3, 3, 7, 5), (1, 1, 37, 33), (2, 4, 5), (2, 6), (0, 3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_given_noise_is_mixed_in(backend: str, shape: tuple[int, ...]) -> None:
    schedule, device = Schedule.from_name("cosine", 100), device_of(backend)
    x0, noise = torch.randn(2, *shape, device=device)
    t = torch.arange(shape[0], device=device) * 40
    signal = torch.from_numpy((1 - schedule.betas).cumprod())[t.cpu()].to(device).view(-1, *(1,) * (len(shape) - 1))
    expected = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
    torch.testing.assert_close(ops.noise_images(x0, t, schedule, noise=noise, backend=backend), expected.float())
