"""The networks through which images are compared: pixels in, features and a classifier's logits out.

- InceptionV3 as torch-fidelity has it, with the weights every published FID uses; from a file, or downloaded once.
- Any encoder of gdui: its unit vectors, for the Frechet distance on CLIP, DINO or a network of your own.
- "digits": the small CLIP shipped for 8 x 8 digits, trained on printed glyphs and on no handwritten one. Its third
  stage, averaged over the picture, stands for Inception's pooled features, seven channels of its second stage for the
  spatial ones, and its opinion among the ten names for the logits.
"""

import contextlib
import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gdui.labeling.encoders import Encoder, load_encoder
from gdui.labeling.encoders.encoder import weights_hash
from gdui.labeling.opinions import class_embeddings

__all__ = ["Looks", "Network", "digits_network", "encoder_network", "inception_network", "load_network"]

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
SPATIAL_CHANNELS = 7
STAGE2_CHANNELS, STAGE3_CHANNELS = 128, 256  # of the digits encoder
LENGTH = np.float32(100)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Looks(NamedTuple):
    """What a network says of B images: pooled features [B, d], and where it has them spatial ones and logits."""

    pooled: Floats
    spatial: Floats | None
    logits: Floats | None


@dataclass(frozen=True)
class Network:
    """A network that looks at RGB pixels [batch, H, W, 3], always so many at once; `hash` tells it from others."""

    name: str
    hash: str
    batch: int
    forward: Callable[[Pixels], Looks] = field(repr=False)

    def look(self, pixels: Pixels) -> Looks:
        """At up to `batch` images; what is missing is filled up, so that every image meets the same shapes."""
        count = len(pixels)
        filled = np.resize(pixels, (self.batch, *pixels.shape[1:])) if count < self.batch else pixels
        pooled, spatial, logits = self.forward(filled)
        return Looks(
            pooled[:count], None if spatial is None else spatial[:count], None if logits is None else logits[:count]
        )


def load_network(name: str, *, weights: str | None = None, device: str = "auto") -> Network:
    """ "inception" (whose weights may come from a file), "digits", or any encoder that `load_encoder` knows."""
    if name == "inception":
        return inception_network(weights, device=device)
    if weights is not None:
        raise ValueError(f"weights are for network 'inception' only, not for {name!r}")
    return digits_network(device=device) if name == "digits" else encoder_network(load_encoder(name, device=device))


def inception_network(weights: str | None = None, *, device: str = "auto", batch: int = 32) -> Network:
    """torch-fidelity's InceptionV3; without `weights`, a file of its own format, they are downloaded once."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"weights must be a file of Inception's weights, and {weights!r} is none")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], _tensors(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"weights {weights!r} are not those of torch-fidelity's Inception: {reason}") from None
    except OSError as error:
        instead = "give a file of them (weights=, --weights), or as network= (--network) 'digits' or an encoder"
        raise OSError(f"Inception's weights could not be fetched ({error}): {instead}") from None
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    model.to(place)
    seen: dict[str, torch.Tensor] = {}
    # The reference evaluator's tensor mixed_6/conv: the first branch of the sixth mixed block, after its ReLU.
    model.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: seen.update(conv=output))

    def forward(pixels: Pixels) -> Looks:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(place)
        with torch.inference_mode():
            pooled, logits = model(images)
        parts = (pooled, seen["conv"][:, :SPATIAL_CHANNELS].flatten(1), logits)
        return Looks(*(part.float().cpu().numpy() for part in parts))

    return Network("inception", weights_hash(model), batch, forward)


def encoder_network(encoder: Encoder) -> Network:
    """An encoder of gdui: its unit vectors are the features; there are no spatial ones and no logits."""

    def forward(pixels: Pixels) -> Looks:
        return Looks(encoder.encode_images(_brought_to(encoder, pixels)), None, None)

    about = f"{encoder.hash} {encoder.transform} {encoder.precision}"
    return Network(encoder.name, hashlib.sha256(about.encode()).hexdigest(), encoder.at_once, forward)


def digits_network(*, device: str = "auto", batch: int = 64) -> Network:
    """The digits encoder's inner stages as features, and its opinion as logits.

    Before a stage is averaged or cut, an image's vector is brought to length 100, so that distances are of a size that
    reads well.
    """
    named, second, third = (
        load_encoder(name, device=device, dtype="float32", compiled=False, batch=batch)
        for name in ("digits", "digits#layer2", "digits#layer3")
    )
    texts = class_embeddings(named, DIGITS)

    def forward(pixels: Pixels) -> Looks:
        ready = _brought_to(named, pixels)
        pooled = third.encode_images(ready).reshape(batch, STAGE3_CHANNELS, -1).mean(axis=2) * LENGTH
        spatial = second.encode_images(ready).reshape(batch, STAGE2_CHANNELS, -1)[:, :SPATIAL_CHANNELS]
        logits = named.encode_images(ready) @ texts.T * np.float32(named.logit_scale)
        return Looks(pooled, spatial.reshape(batch, -1) * LENGTH, logits)

    return Network("digits", named.hash, batch, forward)


def _brought_to(encoder: Encoder, pixels: Pixels) -> Pixels:
    return np.stack([encoder.transform(Image.fromarray(picture)) for picture in pixels])


def _tensors(weights: str | None) -> io.BytesIO | None:
    """The tensors of the file and nothing else, on the CPU: torch-fidelity would unpickle anything, where it was."""
    if weights is None:
        return None
    copy = io.BytesIO()
    try:
        torch.save(torch.load(weights, map_location="cpu", weights_only=True), copy)
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"weights {weights!r} can't be read as tensors: {reason}") from None
    copy.seek(0)
    return copy
