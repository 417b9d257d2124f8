"""Diffusion in another space: pictures are encoded once into a store of latents, and what is drawn is decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui.diffusion.pictures import store_pixels

__all__ = ["Coder", "coder_of", "store_latents"]

ENCODED = 64


@dataclass(frozen=True)
class Coder:
    """Pictures [B, C, H, W] in [-1, 1] to latents [B, c, h, w] of about unit variance, and back."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def coder_of(latents: Any) -> Coder:
    """A pair of callables, or an autoencoder of diffusers, as a Coder."""
    if isinstance(latents, Coder):
        return latents
    if isinstance(latents, tuple) and len(latents) == 2 and all(map(callable, latents)):
        return Coder(*latents)
    if hasattr(latents, "encode") and hasattr(latents, "decode") and hasattr(latents, "config"):
        scale, shift = (getattr(latents.config, name, None) for name in ("scaling_factor", "shift_factor"))
        scale, shift = float(scale or 1), float(shift or 0)
        return Coder(
            lambda pictures: (latents.encode(pictures).latent_dist.mean - shift) * scale,
            lambda drawn: latents.decode(drawn / scale + shift).sample,
        )
    given = type(latents).__name__
    raise TypeError(f"latents must be a pair (encode, decode) or diffusers' AutoencoderKL, not {given}")


def store_latents(
    pixels: npt.NDArray[np.uint8],
    coder: Coder,
    path: Path,
    shape: tuple[int, int, int],
    device: torch.device,
    progress: Callable[[str, int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """The latents [N, h, w, c] of pictures [N, H, W, C], as a mapped .npy file; `shape` is what (h, w, c) must be."""

    def blocks() -> Iterator[tuple[npt.NDArray[np.integer], npt.NDArray[np.float32]]]:
        for start in range(0, len(pixels), ENCODED):
            rows = np.arange(start, min(start + ENCODED, len(pixels)))
            x = torch.from_numpy(pixels[rows]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            made = coder.encode(x).float().permute(0, 2, 3, 1).cpu().numpy()
            if made.shape[1:] != shape:
                wanted = f"size {made.shape[1]} and channels {made.shape[3]}" if made.ndim == 4 else "another coder"
                raise ValueError(f"latents are of shape {made.shape[1:]}, the network takes {shape}: it needs {wanted}")
            if progress:
                progress("latents", int(rows[-1]) + 1, len(pixels))
            yield rows, made

    with torch.no_grad():
        return store_pixels(path, len(pixels), shape, blocks(), np.float32)
