"""Loads networks from weights made elsewhere: OpenAI's guided-diffusion files, as they were published."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.unet import UNet, UNetConfig

__all__ = ["ADM_FLAGS", "CLASSIFIER_FLAGS", "fill", "load_adm_classifier", "load_adm_unet", "load_weights"]

Config = TypeVar("Config", bound=UNetConfig)
Network = TypeVar("Network", bound=nn.Module)

MULTIPLIERS: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
PUBLISHED: dict[str, Any] = {
    "attention_resolutions": "32,16,8",
    "class_cond": True,
    "learn_sigma": True,
    "num_channels": 256,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
# The flags each published file was trained with, as guided-diffusion's README gives them.
ADM_FLAGS: dict[str, dict[str, Any]] = {
    "64x64_diffusion": PUBLISHED
    | {"image_size": 64, "num_channels": 192, "num_res_blocks": 3, "use_new_attention_order": True, "dropout": 0.1},
    "128x128_diffusion": PUBLISHED | {"image_size": 128, "num_head_channels": -1, "num_heads": 4},
    "256x256_diffusion": PUBLISHED | {"image_size": 256},
    "256x256_diffusion_uncond": PUBLISHED | {"image_size": 256, "class_cond": False},
    "512x512_diffusion": PUBLISHED | {"image_size": 512},
}
CLASSIFIER_FLAGS: dict[str, dict[str, Any]] = {
    "64x64_classifier": {"image_size": 64, "classifier_depth": 4},
    "128x128_classifier": {"image_size": 128},
    "256x256_classifier": {"image_size": 256},
    "512x512_classifier": {"image_size": 512},
}


def load_adm_unet(path: str | os.PathLike[str], **adm_flags: Any) -> UNet:
    """A UNet with the weights of a guided-diffusion file (published, modelNNN.pt or ema_*.pt).

    adm_flags are guided-diffusion's own names and defaults; without any, a published file's name says its flags.
    Wrong sizes are refused because shapes disagree. Three flags leave no trace in the shapes and must be known:
    use_new_attention_order, num_heads with num_heads_upsample (or num_head_channels), and dropout.
    """
    config = adm_unet_config(**_flags_for(path, adm_flags, ADM_FLAGS))
    return _filled(UNet, config, path)


def load_adm_classifier(path: str | os.PathLike[str], **adm_flags: Any) -> Classifier:
    """A noisy classifier with the weights of a guided-diffusion file; flags as for `load_adm_unet`."""
    config = adm_classifier_config(**_flags_for(path, adm_flags, CLASSIFIER_FLAGS))
    return _filled(Classifier, config, path)


def adm_unet_config(
    *,
    image_size: int = 64,
    num_channels: int = 128,
    num_res_blocks: int = 2,
    num_heads: int = 4,
    num_heads_upsample: int = -1,
    num_head_channels: int = -1,
    attention_resolutions: str = "16,8",
    channel_mult: str = "",
    dropout: float = 0.0,
    class_cond: bool = False,
    num_classes: int = 1000,
    learn_sigma: bool = False,
    use_scale_shift_norm: bool = True,
    resblock_updown: bool = False,
    use_new_attention_order: bool = False,
) -> UNetConfig:
    """guided-diffusion's flags, with its defaults, as a configuration."""
    return UNetConfig(
        image_size=image_size,
        width=num_channels,
        depth=num_res_blocks,
        multipliers=_multipliers(channel_mult, image_size),
        attention_at=_numbers("attention_resolutions", attention_resolutions),
        classes=num_classes if class_cond else None,
        learned_variance=learn_sigma,
        head_width=None if num_head_channels == -1 else num_head_channels,
        heads=num_heads,
        heads_up=None if num_heads_upsample == -1 else num_heads_upsample,
        heads_first=not use_new_attention_order,
        scale_shift=use_scale_shift_norm,
        resblock_resample=resblock_updown,
        dropout=dropout,
    )


def adm_classifier_config(
    *,
    image_size: int = 64,
    classifier_width: int = 128,
    classifier_depth: int = 2,
    classifier_attention_resolutions: str = "32,16,8",
    classifier_use_scale_shift_norm: bool = True,
    classifier_resblock_updown: bool = True,
    classifier_pool: Any = "attention",
    channel_mult: str = "",
    num_head_channels: int = 64,
    num_classes: int = 1000,
) -> ClassifierConfig:
    """guided-diffusion's classifier flags, with its defaults, as a configuration."""
    return ClassifierConfig(
        image_size=image_size,
        width=classifier_width,
        depth=classifier_depth,
        multipliers=_multipliers(channel_mult, image_size),
        attention_at=_numbers("classifier_attention_resolutions", classifier_attention_resolutions),
        classes=num_classes,
        head_width=num_head_channels,
        scale_shift=classifier_use_scale_shift_norm,
        resblock_resample=classifier_resblock_updown,
        pool=classifier_pool,
    )


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file by name. Code in a pickle is refused, never run."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, and gdui runs no code from a weights file") from error
    except Exception as error:
        raise ValueError(f"{path} is not a readable weights file: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors by name")
    return weights


def _filled(build: Callable[[Config], Network], config: Config, path: str | os.PathLike[str]) -> Network:
    """The network with the file's weights, in evaluation mode."""
    return fill(build(config), load_weights(path), path)


def fill(network: Network, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> Network:
    """Gives the network the weights from the file `path`, and sets it to evaluation; what doesn't fit is named."""
    own = network.state_dict()
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    if missing or unknown or shapes:
        facts = [f"lacks {_few(missing)}"] * bool(missing) + [f"has {_few(unknown)} besides"] * bool(unknown)
        raise ValueError(f"{path} doesn't fit a network of these flags: {'; '.join(facts + sorted(shapes)[:3])}")
    network.load_state_dict(dict(weights))
    return network.eval()


def _few(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _flags_for(
    path: str | os.PathLike[str], given: dict[str, Any], published: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return given or published.get(Path(path).stem, {})


def _multipliers(channel_mult: str, image_size: int) -> tuple[float, ...]:
    if channel_mult:
        return _numbers("channel_mult", channel_mult)
    if image_size not in MULTIPLIERS:
        raise ValueError(f"channel_mult must be given for image_size {image_size}; only {list(MULTIPLIERS)} have one")
    return MULTIPLIERS[image_size]


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas between, not {text!r}") from None
