"""Networks that learned from pixels alone: our own, in safetensors, and the checkpoints that MoCo and SPICE published.

Nothing is unpickled but tensors. What a file holds is told by its names: `module.encoder_q.*` (MoCo),
`module.feature_module.*` (SPICE), either below `state_dict`, or below `eval_model` or `train_model` (SPICE's stage 3).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from gdui import checks
from gdui.training.backbones import NAMES, Backbone, backbone

__all__ = ["SIDES", "published_heads", "published_trunk", "read_checkpoint"]

WRAPPERS = ("state_dict", "eval_model", "train_model")  # the running average before what it is an average of
SIDES = {"resnet18": 32, "resnet34": 96, "resnet50": 96}  # pixels of the pictures they were trained on
TRUNKS = ("encoder_q.", "feature_module.", "")
HEAD = re.compile(r"head\.head_(\d+)\.classifier\.")

State = dict[str, Tensor]


def read_checkpoint(path: str | Path) -> State:
    """Every tensor of a checkpoint by its name, without the wrappers of the program that wrote it."""
    try:
        safe = str(path).endswith(".safetensors")
        loaded: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise almost anything
        raise ValueError(f"the weights {str(path)!r} can't be read: {' '.join(str(error).split())[:200]}") from None
    while wrapper := next((one for one in WRAPPERS if isinstance(loaded.get(one), Mapping)), None):
        loaded = loaded[wrapper]
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def published_trunk(name: str, state: Mapping[str, Tensor], side: int) -> Backbone:
    """The network `name` with the weights of a checkpoint, for pictures of `side` pixels."""
    checks.one_of("backbone", name, NAMES)
    prefix = next(one for one in TRUNKS if any(key.startswith(one) for key in state))
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = {key.replace(".shortcut.", ".downsample."): value for key, value in own.items()}
    if "conv1.weight" not in own:
        raise ValueError(f"the weights hold no network that learned from pixels: {', '.join(list(state)[:3])}, ...")
    network = backbone(name, own["conv1.weight"].shape[1], side=side)
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in own and key != "center" and "num_batches" not in key]
    wrong = [key for key in wanted if key in own and own[key].shape != wanted[key].shape]
    if missing or wrong:
        raise ValueError(
            f"the weights are not for {name}: {len(missing)} tensors are missing and {len(wrong)} have another shape, "
            f"such as {(missing + wrong)[0]}"
        )
    network.load_state_dict({key: own.get(key, value) for key, value in wanted.items()})
    return network.eval().requires_grad_(False)


def published_heads(state: Mapping[str, Tensor]) -> list[list[np.ndarray[Any, np.dtype[np.float32]]]]:
    """Of each clustering head its two layers as stage 2 keeps them: hidden [d, h], its bias, out [h, K], its bias."""
    heads: dict[int, list[Tensor]] = {}
    for name, value in state.items():
        if found := HEAD.match(name):
            heads.setdefault(int(found[1]), []).append(value)
    for at, layers in heads.items():
        if [one.ndim for one in layers] != [2, 1, 2, 1]:
            raise ValueError(f"head {at} must have two linear layers, not {[list(one.shape) for one in layers]}")
    return [
        [(one.T if one.ndim == 2 else one[None]).float().contiguous().numpy() for one in heads[at]]
        for at in sorted(heads)
    ]
