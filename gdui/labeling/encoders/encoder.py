"""The face of every encoder: pixels and texts in, unit vectors out, in one fixed batch shape."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gdui import checks
from gdui.images import Transform
from gdui.labeling.ordered import one_thread_each

__all__ = ["Encoder", "Forward", "Settings", "lowered", "weights_hash"]

Floats = npt.NDArray[np.float32]
Forward = Callable[[torch.Tensor], torch.Tensor]
TEXTS = 64  # at once
Tokenizer = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """Where and how a network runs."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    compiled: bool

    @property
    def side_by_side(self) -> bool:
        """Whether several batches are in work at once."""
        return self.device.type == "cpu" and not self.compiled

    @classmethod
    def choose(cls, device: str, dtype: str, compiled: bool | None, batch: int | None) -> "Settings":
        """Settings with everything decided that was left open."""
        place = _device(device)
        on_cpu = place.type == "cpu"
        return cls(
            place, _dtype(dtype, place), batch or (16 if on_cpu else 256), not on_cpu if compiled is None else compiled
        )


@dataclass(frozen=True)
class Encoder:
    """Turns pixels, and texts where it has a text tower, into unit vectors.

    Images go through `forward` in batches of exactly `settings.batch` (the rest is padding), so a vector does not
    depend on how many images it came with. On a CPU each batch has one thread, and several are at work side by side:
    how a product is split among threads shows in its last bits. `hash` is over the weights; with `transform` and
    `precision` it is what features depend on. `words` are all that its text tower was taught, none for a language.
    """

    name: str
    hash: str
    transform: Transform
    dim: int
    settings: Settings
    forward: Forward = field(repr=False)
    tokens: Tokenizer | None = field(default=None, repr=False)
    forward_text: Forward | None = field(default=None, repr=False)
    logit_scale: float = 100.0
    words: frozenset[str] = frozenset()

    @property
    def batch(self) -> int:
        """The one batch size the network ever sees."""
        return self.settings.batch

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self.settings.device)

    @property
    def at_once(self) -> int:
        """How many images it is best handed at once."""
        return self.batch * (2 * checks.thread_count() if self.settings.side_by_side else 1)

    @property
    def precision(self) -> str:
        """The type it computes in."""
        return str(self.settings.dtype).removeprefix("torch.")

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Unit vectors [B, dim] of RGB pixels [B, size, size, 3]."""
        side = self.transform.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"pixels must be uint8 [B, {side}, {side}, 3], not {pixels.dtype} {list(pixels.shape)}")
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        return self._each(self._encode, [pixels[at : at + self.batch] for at in range(0, len(pixels), self.batch)])

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors [len(texts), dim]."""
        if self.tokens is None or self.forward_text is None:
            raise TypeError(f"encoder {self.name!r} has no text tower: give scores of your own, or another encoder")
        if not texts:
            return np.empty((0, self.dim), np.float32)
        forward, tokens = self.forward_text, self.tokens(list(texts)).to(self.settings.device)
        return self._each(lambda part: _unit(forward(part)), torch.split(tokens, TEXTS))

    def _each(self, work: Callable[[Any], torch.Tensor], parts: Sequence[Any]) -> Floats:
        """What each part comes to, one below the other; on a CPU with a thread for each."""
        work = torch.inference_mode()(work)
        if self.settings.side_by_side:
            with one_thread_each() as each:
                return torch.cat(each(work, parts)).numpy()
        return torch.cat([work(part) for part in parts]).cpu().numpy()

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        count = len(pixels)
        if count < self.batch:
            pixels = np.concatenate([pixels, np.zeros((self.batch - count, *pixels.shape[1:]), np.uint8)])
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.settings.device, non_blocking=True)
        features = self.forward(normalised(images, self.transform, self.settings.dtype))
        if features.shape != (self.batch, self.dim):
            raise ValueError(
                f"encoder {self.name!r} must return [{self.batch}, {self.dim}], not {list(features.shape)}"
            )
        return _unit(features)[:count]


def normalised(images: torch.Tensor, transform: Transform, dtype: torch.dtype) -> torch.Tensor:
    """uint8 [B, H, W, 3] to the network's input [B, 3, H, W], which keeps the channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device) for values in (transform.mean, transform.std))
    return ((images / 255 - mean) / std).to(dtype).permute(0, 3, 1, 2)


def weights_hash(module: nn.Module, what: str = "") -> str:
    """sha256 over `what`, and over the names, types, shapes and values of everything in the state dict."""
    digest = hashlib.sha256(what.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def lowered(module: nn.Module, settings: Settings) -> nn.Module:
    """The module in place, weights in the settings' type; batch norms, whose statistics need the range, in float32."""
    module.eval().requires_grad_(False).to(settings.device, settings.dtype).to(memory_format=torch.channels_last)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.float()
    return module


def _unit(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features.float(), dim=-1)


def _device(name: str) -> torch.device:
    checks.one_of("device", name.split(":")[0], ("auto", "cpu", "cuda"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no GPU")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    checks.one_of("dtype", name, ("auto", "bfloat16", "float32"))
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        name = "bfloat16" if fast else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32
