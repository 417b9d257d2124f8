"""Views are made in batches, and each is what its own numbers say."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gdui.labeling.augment import DRAWN, DRAWS, NATURAL, STRONG, STRONG_DRAWN, WEAK, Views, draws, view

ALL = {"natural": NATURAL, "drawn": DRAWN, "weak": WEAK, "strong": STRONG, "strong drawn": STRONG_DRAWN}


def pictures(count: int = 6, channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(3))


def middle(count: int = 6, **fixed: float) -> torch.Tensor:
    """Numbers that change nothing, but for those given as u0 to u17."""
    u = torch.full((count, DRAWS), 0.5)
    for name, value in fixed.items():
        u[:, int(name[1:])] = value
    return u


@pytest.mark.parametrize("how", ALL.values(), ids=ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_depends_on_its_own_numbers_alone(how: Views, channels: int) -> None:
    x, u = pictures(channels=channels), draws(6, 1, 2)
    whole = view(x, u, how)
    parts = torch.cat([view(x[i : i + 1], u[i : i + 1], how) for i in range(6)])
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert whole.shape == x.shape
    assert whole.min() >= -1e-6
    assert whole.max() <= 1 + 1e-6


def test_nothing_asked_is_nothing_done() -> None:
    torch.testing.assert_close(view(pictures(), draws(6, 0), Views()), pictures(), atol=1e-5, rtol=0)


def test_a_flip_turns_left_to_right() -> None:
    seen = view(pictures(), middle(u9=0.2), Views(flip=True))
    torch.testing.assert_close(seen, pictures().flip(3), atol=1e-5, rtol=0)


def test_a_crop_is_resized_to_the_whole() -> None:
    seen = view(pictures(), middle(u0=0.0, u5=0.0, u7=1.0), Views(crop=0.25))
    corner = F.interpolate(pictures()[:, :, 8:, :8], size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[:, :, 2:-2, 2:-2], corner[:, :, 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_a_crop_never_leaves_the_picture() -> None:
    seen = view(torch.ones(200, 1, 16, 16), draws(200, 5), Views(crop=0.1, aspect=4 / 3, flip=True))
    assert seen[:, :, 1:-1, 1:-1].min() > 0.999


def test_a_quarter_turn() -> None:
    seen = view(pictures(), middle(u3=1.0), Views(turn=90))
    assert any(torch.allclose(seen, torch.rot90(pictures(), k, (2, 3)), atol=1e-4) for k in (1, 3))


def test_grey_views_keep_their_luma() -> None:
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    x = 0.25 + 0.5 * pictures()
    grey = view(x, middle(u15=0.0), Views(grey=1.0))
    torch.testing.assert_close(grey, (x * weights).sum(1, keepdim=True).expand_as(x), atol=1e-5, rtol=0)


def test_hue_keeps_the_grey_axis() -> None:
    x = torch.rand(4, 1, 8, 8).expand(-1, 3, -1, -1).contiguous()
    torch.testing.assert_close(view(x, draws(4, 9), Views(hue=0.5, colour=1e-9, jitter=1.0)), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_blur_is_a_gaussian(share: float) -> None:
    seen = view(pictures(side=32), middle(u16=share, u17=0.0), Views(blur=1.0, sigma=2.0))
    reach, sigma = 3, 2.0 * share
    at = np.arange(-reach, reach + 1)
    weight = torch.from_numpy(np.exp(-0.5 * (at / sigma) ** 2)).float()
    kernel = torch.outer(weight, weight) / weight.sum() ** 2
    wide = F.pad(pictures(side=32), (reach,) * 4, mode="replicate")
    plain = F.conv2d(wide, kernel.expand(3, 1, -1, -1), groups=3)
    torch.testing.assert_close(seen, plain, atol=1e-5, rtol=0)


def test_a_hole_takes_the_mean() -> None:
    seen = view(pictures(side=20), middle(u15=1.0), Views(hole=0.5))
    centre = seen[:, :, 5:15, 5:15]
    mean = pictures(side=20).mean((1, 2, 3), keepdim=True).expand_as(centre)
    torch.testing.assert_close(centre, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:, :, :5], pictures(side=20)[:, :, :5], atol=1e-5, rtol=0)
