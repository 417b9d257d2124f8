"""How a learning network sees a heap of pictures: channels, range, and the views that leave them what they are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui.labeling.augment import DRAWN, NATURAL, STRONG, STRONG_DRAWN, WEAK, WEAK_DRAWN, Views, view

__all__ = ["Looks", "Pixels"]

Pixels = npt.NDArray[np.uint8]
SAMPLE = 4096  # pictures that range and colour are read from
BATCH = 256
SMALL = 32


@dataclass(frozen=True)
class Looks:
    """Everything about a heap of pictures that a network must be told before it sees them.

    side: pixels to a side.   channels: 1 where all pictures are grey, else 3.
    mean, std: of each channel, with pixels in [0, 1].
    contrast, weak, strong: the views of contrastive learning, and of joint training.
    fingerprint: tells this heap from others.
    """

    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    contrast: Views
    weak: Views
    strong: Views
    fingerprint: str

    @classmethod
    def of(cls, pixels: Pixels, views: str = "auto") -> "Looks":
        """The looks of `pixels` [N, H, W, 3]; for `views` see `gdui.config.RepresentConfig`."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
            raise ValueError(f"pixels must be uint8 [N, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        sample = np.ascontiguousarray(pixels[:: -(-len(pixels) // SAMPLE)])
        channels = 1 if (sample == sample[..., :1]).all() else 3
        scaled = sample[..., :channels].astype(np.float32) / 255
        mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2)) + 1e-6
        drawn = views == "drawn" or (views == "auto" and channels == 1 and pixels.shape[1] <= SMALL)
        chosen = (DRAWN, WEAK_DRAWN, STRONG_DRAWN) if drawn else (NATURAL, WEAK, STRONG)
        stamp = hashlib.blake2b(sample.data, digest_size=8).hexdigest()
        return cls(
            pixels.shape[1], channels, tuple(mean.tolist()), tuple(std.tolist()), *chosen, f"{len(pixels)}-{stamp}"
        )

    def views(self, pixels: Pixels, u: Tensor, device: torch.device, how: Views | None = None) -> Tensor:
        """One normalised view of each picture [B, C, H, W], made from u [B, DRAWS]; `contrast`'s by default."""
        return self._normalised(view(self._floats(pixels, device), u, how or self.contrast))

    def plain(self, pixels: Pixels, device: torch.device) -> Tensor:
        """The pictures as they are, normalised [B, C, H, W]."""
        return self._normalised(self._floats(pixels, device))

    def batches(self, pixels: Pixels, device: torch.device) -> Iterator[Tensor]:
        """All pictures as they are, in order."""
        for at in range(0, len(pixels), BATCH):
            yield self.plain(pixels[at : at + BATCH], device)

    def _floats(self, pixels: Pixels, device: torch.device) -> Tensor:
        kept = torch.from_numpy(np.ascontiguousarray(pixels[..., : self.channels])).to(device, non_blocking=True)
        return kept.permute(0, 3, 1, 2).float().div_(255)

    def _normalised(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)
