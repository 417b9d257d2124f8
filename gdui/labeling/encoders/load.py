"""Finds the weights behind an encoder's name; nothing here unpickles anything but tensors."""

import copy
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gdui import checks
from gdui.encoder_names import split_model
from gdui.images import Transform
from gdui.labeling.encoders.captions import WORDS
from gdui.labeling.encoders.encoder import Encoder, Forward, Settings, Tokenizer, lowered, weights_hash
from gdui.labeling.encoders.published import SIDES, published_trunk, read_checkpoint
from gdui.training.backbones import NAMES

__all__ = ["clip_encoder", "load_encoder", "seen_by"]

IMAGENET = Transform(filter="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DEMO = Path(__file__).resolve().parents[2] / "demo"
# The embedding of `digits` keeps little but the name; among the parts of its tower this one lets the clusters of
# unlabelled digits stand out most, by their modularity in the graph of neighbours. No label takes part in that.
SEEN_BY = {"digits": "digits#layer3"}

HUB_SECONDS = 5  # to answer in
DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})


class _Undrawn(TorchFunctionMode):
    """Leaves out the random weights of a network that a checkpoint will fill: drawing 150 million takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def seen_by(encoder: Any, cluster_by: Any = None) -> Any:
    """What images are clustered by where their names are found by `encoder`: None stands for the encoder itself."""
    return SEEN_BY.get(encoder) if cluster_by is None and isinstance(encoder, str) else cluster_by


def load_encoder(
    spec: str | Forward,
    *,
    transform: Transform | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool | None = None,
    batch: int | None = None,
) -> Encoder:
    """The encoder that `spec` names.

    Args:
        spec: "ViT-B-32/laion2b_s34b_b79k" (an open_clip model and tag), "ViT-B-32/weights.safetensors" (a file),
            "hf-hub:org/repo", "local-dir:path", "torchvision:mobilenet_v2/weights.safetensors" (its last linear layer
            is cut off), "spice:resnet34/checkpoint.pth.tar" (as MoCo and SPICE published them), "digits" (shipped), or
            a callable from normalised images [B, 3, H, W] to features [B, d].
            "NAME#layer3" takes the flattened output of a part of the image tower in place of the embedding: there is
            no text tower then, but an inner layer often keeps more for clustering.
        transform: replaces the encoder's own way of bringing a picture to its input.
        device: "auto", "cpu" or "cuda".
        dtype: "auto" is bfloat16 where the device computes in it, else float32.
        compiled: by default on a GPU only; on a CPU bfloat16 alone is as fast, without the wait.
        batch: the one batch size the network ever sees; by default 16 on a CPU, for each of its threads, 256 on a GPU.
    """
    if callable(spec):
        return _callable_encoder(spec, transform or IMAGENET, Settings.choose(device, dtype, compiled, batch))
    if not isinstance(spec, str):
        raise TypeError(f"encoder must be a name or a callable, not {type(spec).__name__}")
    whole, _, layer = spec.partition("#")
    shipped = whole == "digits"
    if shipped and dtype == "auto":
        dtype = "float32"  # too small to gain from less
    settings = Settings.choose(device, dtype, compiled, batch)
    if whole.startswith("torchvision:"):
        backbone = _backbone(whole)
        return _callable_encoder(
            _InnerLayer(backbone, layer) if layer else backbone, transform or IMAGENET, settings, spec
        )
    if whole.startswith("spice:"):
        name, file = _model_and_file(whole, NAMES)
        side = SIDES.get(name, IMAGENET.size) if transform is None else transform.size
        trunk = published_trunk(name, read_checkpoint(file), side)
        return _callable_encoder(trunk, transform or replace(IMAGENET, size=side), settings, spec)
    model, tokens = _load_clip(f"local-dir:{DEMO}" if shipped else whole)
    if layer:
        own = _clip_transform(open_clip.get_model_preprocess_cfg(model))
        return _callable_encoder(_InnerLayer(model.visual, layer), transform or own, settings, spec)
    made = _clip_encoder(model, tokens, spec, transform, settings)
    return replace(made, words=WORDS) if shipped else made


def clip_encoder(
    model: nn.Module,
    tokens: Tokenizer,
    *,
    name: str,
    transform: Transform | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool | None = None,
    batch: int | None = None,
) -> Encoder:
    """An encoder from a copy of a ready open_clip model in float32 and its tokenizer; for the rest see load_encoder."""
    settings = Settings.choose(device, dtype, compiled, batch)
    return _clip_encoder(copy.deepcopy(model), tokens, name, transform, settings)


def _clip_encoder(model: Any, tokens: Tokenizer, name: str, transform: Transform | None, settings: Settings) -> Encoder:
    """Only the image tower is lowered: texts are few, and computed once."""
    digest = weights_hash(model)
    model.eval().requires_grad_(False).to(settings.device)
    lowered(model.visual, settings)
    forward = torch.compile(model.encode_image, dynamic=False) if settings.compiled else model.encode_image
    return Encoder(
        name=name,
        hash=digest,
        transform=transform or _clip_transform(open_clip.get_model_preprocess_cfg(model)),
        dim=model.encode_text(tokens([""]).to(settings.device)).shape[1],
        settings=settings,
        forward=forward,
        tokens=tokens,
        forward_text=model.encode_text,
        logit_scale=float(model.logit_scale.exp()),
    )


def _clip_transform(config: Mapping[str, Any]) -> Transform:
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"encoder must take square images, not {size}")
    resize, filter_ = config.get("resize_mode", "shortest"), config.get("interpolation", "bicubic")
    return Transform(sides.pop(), resize, filter_, tuple(config["mean"]), tuple(config["std"]))


def _load_clip(spec: str) -> tuple[Any, Tokenizer]:
    whole = spec.startswith(("hf-hub:", "local-dir:"))
    name, weights = (spec, None) if whole else _name_and_weights(spec)
    local = name.startswith("local-dir:") or (weights is not None and Path(weights).is_file())
    unreachable = "" if local else hub_trouble()
    try:
        with _quiet(offline=bool(unreachable)), _Undrawn():
            model = open_clip.create_model(name, pretrained=weights, require_pretrained=True, weights_only=True)
            return model, _tokenizer(name)
    except Exception as error:  # hubs, files and unpicklers raise almost anything
        tried = f"the file {(weights or name)!r}" if local else "the local cache and the hub"
        reason = f"the hub can't be reached: {unreachable}" if unreachable else " ".join(str(error).split())[:300]
        file = "'local-dir:path'" if whole else f"'{name}/path/weights.safetensors'"
        advice = "" if local else f"; with the weights at hand, name them: {file}"
        raise OSError(f"encoder {spec!r} could not be loaded (tried {tried}): {reason}{advice}") from None


def hub_trouble() -> str:
    """Why the hub can't be reached, "" where it can: one request tells in seconds, a download tries for a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:  # of one of several clients, by the hub's version
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


@contextmanager
def _quiet(*, offline: bool) -> Iterator[None]:
    """Nobody logs: what fails gets one line of ours. `offline` takes from the hub only what is in its cache."""
    from huggingface_hub import constants

    before, silent = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    constants.HF_HUB_OFFLINE = before or offline
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(silent)


class _InnerLayer(nn.Module):
    """An image tower cut off after one of its parts."""

    def __init__(self, tower: nn.Module, layer: str) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        try:
            self.tower = create_feature_extractor(tower.eval(), {layer: "features"})
        except ValueError:
            parts = [name for name, _ in tower.named_children()]
            instead = f"{', '.join(parts)}), not {layer!r}{checks.did_you_mean(layer, parts)}"
            raise ValueError(f"layer must be a part of the image tower ({instead}") from None
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.tower(images)["features"]
        return features.flatten(1)


def _tokenizer(name: str) -> Tokenizer:
    """The model's own; a local folder may bring a vocabulary of byte pairs beside its weights."""
    vocabulary = Path(name.removeprefix("local-dir:")) / "vocabulary.txt.gz"
    brought = name.startswith("local-dir:") and vocabulary.is_file()
    tokenizer: Tokenizer = open_clip.get_tokenizer(name, **({"bpe_path": str(vocabulary)} if brought else {}))
    return tokenizer


def _name_and_weights(spec: str) -> tuple[str, str]:
    """The open_clip model, and a tag or an existing file."""
    name, weights = split_model(spec, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags and not Path(weights).is_file():
        meant = checks.did_you_mean(weights, tags)
        raise ValueError(f"encoder {spec!r} must end in a file or one of the tags {tags}, not {weights!r}{meant}")
    return name, weights


def _model_and_file(spec: str, known: Collection[str]) -> tuple[str, str]:
    """The two parts of KIND:MODEL/FILE."""
    kind, _, rest = spec.partition(":")
    name, _, file = rest.partition("/")
    if name not in known:
        meant = checks.did_you_mean(name, known)
        raise ValueError(f"encoder must be '{kind}:MODEL/FILE' with a known model, not {spec!r}{meant}")
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file!r} of weights for encoder {spec!r}")
    return name, file


def _backbone(spec: str) -> nn.Module:
    """A torchvision model from a file, without its last linear layer."""
    from torchvision.models import get_model, list_models

    name, path = _model_and_file(spec, list_models())
    model: nn.Module = get_model(name, weights=None)
    linear = [layer for layer, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ValueError(f"encoder {spec!r}: {name} has no linear layer that could be cut off")
    model.set_submodule(linear[-1], nn.Identity())
    kept = {key: value for key, value in _read_state(path).items() if not key.startswith(f"{linear[-1]}.")}
    try:
        model.load_state_dict(kept)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"encoder {spec!r}: the file is not for this model: {reason}") from None
    return model


def _read_state(path: str) -> dict[str, torch.Tensor]:
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise almost anything
        raise ValueError(f"the weights {path!r} can't be read: {' '.join(str(error).split())[:200]}") from None
    return dict(loaded.get("state_dict", loaded))


def _callable_encoder(function: Forward, transform: Transform, settings: Settings, name: str | None = None) -> Encoder:
    """Modules are copied and hashed by their weights, other callables by what they return for fixed noise."""
    name = name or str(getattr(function, "__qualname__", type(function).__qualname__))
    digest = None
    if isinstance(function, nn.Module):
        digest = weights_hash(function, getattr(function, "layer", ""))
        function = lowered(copy.deepcopy(function), settings)
    else:
        settings = Settings(settings.device, torch.float32, settings.batch, settings.compiled)
    shape = (settings.batch, 3, transform.size, transform.size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        probe = function(noise.to(settings.device, settings.dtype))
    if probe.ndim != 2 or len(probe) != settings.batch:
        raise ValueError(
            f"encoder {name!r} must return [B, d], not {list(probe.shape)} for a batch of {settings.batch}"
        )
    digest = digest or hashlib.sha256(probe.float().cpu().numpy().astype(np.float16).data).hexdigest()
    forward = torch.compile(function, dynamic=False) if settings.compiled else function
    return Encoder(name, digest, transform, probe.shape[1], settings, forward)
