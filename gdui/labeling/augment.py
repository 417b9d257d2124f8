"""Random views of pictures, a whole batch at a time: every choice is a function of uniform numbers drawn beforehand.

A picture's view depends on its own row of numbers alone, so it does not matter in which batch, or on which rank, it is
made. Crop, flip, turn, shear and scale are one resampling; brightness, contrast, saturation, hue and grey one matrix.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DRAWN", "DRAWS", "NATURAL", "STRONG", "STRONG_DRAWN", "WEAK", "WEAK_DRAWN", "Views", "draws", "view"]

DRAWS = 18  # uniform numbers a view is made from
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Views:
    """How far a view may be from its picture.

    crop: the least share of the area that is kept; aspect: how far the crop's sides may differ.
    flip: whether half of the views are turned left to right: never for digits or letters.
    turn: degrees to either side; shear: slant to either side; shift: share of the side, past the border.
    scale: how much smaller or larger, as a share.
    colour: strength of brightness, contrast and saturation; hue: turns of the colour circle; both in `jitter` of views.
    grey: the share of views without colour.
    blur: the share of blurred views; its width is up to `sigma` pixels of a picture of 32.
    hole: side of a square that is blanked, as a share of the picture's.
    """

    crop: float = 1.0
    aspect: float = 1.0
    flip: bool = False
    turn: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    colour: float = 0.0
    hue: float = 0.0
    jitter: float = 0.8
    grey: float = 0.0
    blur: float = 0.0
    sigma: float = 1.0
    hole: float = 0.0


NATURAL = Views(crop=0.2, aspect=4 / 3, flip=True, colour=0.4, hue=0.1, grey=0.2, blur=0.5)  # MoCo v2's
DRAWN = Views(turn=20.0, shear=0.3, shift=0.15, scale=0.2, colour=0.4)  # what leaves a digit that digit
WEAK = Views(flip=True, shift=0.125)
WEAK_DRAWN = Views(turn=5.0, shift=0.05)
STRONG = Views(flip=True, turn=30.0, shear=0.3, shift=0.3, colour=0.9, hue=0.1, jitter=1.0, grey=0.1, hole=0.5)
STRONG_DRAWN = Views(turn=20.0, shear=0.3, shift=0.15, scale=0.2, colour=0.4, hole=0.3)


def draws(count: int, *key: int) -> Tensor:
    """The uniform numbers of `count` views [count, DRAWS], a function of whole numbers such as (seed, step)."""
    return torch.from_numpy(np.random.default_rng(key).random((count, DRAWS), np.float32))


def view(pictures: Tensor, u: Tensor, how: Views) -> Tensor:
    """One random view of each of the pictures [B, C, H, W] in [0, 1], made from u [B, DRAWS]."""
    u = u.to(pictures.device)
    seen = _moved(pictures, u, how)
    if how.colour or how.grey:
        seen = _coloured(seen, u, how)
    if how.blur:
        seen = _blurred(seen, u, how)
    if how.hole:
        seen = _holed(seen, u, how)
    return seen


def _span(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _moved(x: Tensor, u: Tensor, how: Views) -> Tensor:
    """Resampled once; what lies outside of the picture is 0 where it is moved freely, and never seen by a crop."""
    area, ratio = _span(u[:, 0], how.crop, 1.0), how.aspect ** _span(u[:, 1], -1.0, 1.0)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zoom = (1 + how.scale) ** _span(u[:, 2], -1.0, 1.0)
    angle, slant = torch.deg2rad(how.turn * _span(u[:, 3], -1.0, 1.0)), how.shear * _span(u[:, 4], -1.0, 1.0)
    right = (1 - width) * _span(u[:, 5], -1.0, 1.0) + 2 * how.shift * _span(u[:, 6], -1.0, 1.0)
    down = (1 - height) * _span(u[:, 7], -1.0, 1.0) + 2 * how.shift * _span(u[:, 8], -1.0, 1.0)
    mirror = torch.where(u[:, 9] < 0.5, -1.0, 1.0) if how.flip else torch.ones_like(zoom)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    across = torch.stack([mirror * width * cos, width * (slant * cos - sin), right], 1)
    along = torch.stack([mirror * height * sin, height * (slant * sin + cos), down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _coloured(x: Tensor, u: Tensor, how: Views) -> Tensor:
    """bright (contrast (x - m) + m) for all, times a matrix of saturation, hue and grey where there is colour."""
    on = (u[:, 10] < how.jitter).float()[:, None, None, None]
    brightness, contrast, saturation = (
        1 + on * how.colour * _span(u[:, at], -1.0, 1.0)[:, None, None, None] for at in (11, 12, 13)
    )
    mean = x.mean((1, 2, 3), keepdim=True)
    x = brightness * (contrast * (x - mean) + mean)
    if x.shape[1] == 3:
        turn = (2 * torch.pi * how.hue * _span(u[:, 14], -1.0, 1.0))[:, None, None] * on[:, 0]
        grey = (u[:, 15] < how.grey).float()[:, None, None]
        colours = _hue(turn) * saturation[:, 0] * (1 - grey)
        luma = torch.tensor(LUMA, device=x.device).expand(3, 3)
        chroma = torch.eye(3, device=x.device) - luma
        x = torch.einsum("bij,bjhw->bihw", luma + colours @ chroma, x)
    return x.clamp(0, 1)


def _hue(turn: Tensor) -> Tensor:
    """Rotations [B, 3, 3] about the grey axis, from angles [B, 1, 1]."""
    third, eye = torch.full((3, 3), 1 / 3, device=turn.device), torch.eye(3, device=turn.device)
    swirl = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=turn.device) / 3**0.5
    return torch.cos(turn) * eye + (1 - torch.cos(turn)) * third + torch.sin(turn) * swirl


def _blurred(x: Tensor, u: Tensor, how: Views) -> Tensor:
    """A Gaussian of each picture's own width, along one axis, then along the other."""
    side = x.shape[-1]
    sigma = (how.sigma * side / 32 * u[:, 16]).clamp(min=0.1)
    reach = max(1, round(1.5 * how.sigma * side / 32))
    at = torch.arange(-reach, reach + 1, device=x.device)
    weight = torch.exp(-0.5 * (at / sigma[:, None]) ** 2)
    weight = torch.where((u[:, 17] < how.blur)[:, None], weight, (at == 0).float())
    weight = weight / weight.sum(1, keepdim=True)
    for dim, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        wide, size = F.pad(x, pad, mode="replicate"), x.shape[dim]
        x = sum((weight[:, k, None, None, None] * wide.narrow(dim, k, size) for k in range(len(at))), torch.zeros(()))
    return x


def _holed(x: Tensor, u: Tensor, how: Views) -> Tensor:
    """A square of up to `hole` of the side takes the picture's mean."""
    b, _, height, width = x.shape
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    half = how.hole / 2 * u[:, 15, None]
    inside = ((rows + 0.5) / height - u[:, 16, None]).abs() < half
    across = ((columns + 0.5) / width - u[:, 17, None]).abs() < half
    hole = (inside[:, :, None] & across[:, None, :])[:, None]
    return torch.where(hole, x.mean((1, 2, 3), keepdim=True).expand(b, 1, 1, 1), x)
