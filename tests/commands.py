"""Commands run in the test's own process, and the pictures and the tiny CLIP that they are given."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
COUNT = 36
Cli = Callable[..., tuple[int, str, str]]


def tiny_clip(folder: Path) -> str:
    """The name of a tiny CLIP with random weights."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**MODEL).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    return f"local-dir:{folder}"


def coloured(folder: Path) -> Path:
    """Reddish, greenish and bluish pictures."""
    random = np.random.default_rng(0)
    for at in range(COUNT):
        pixels = random.integers(0, 80, (20, 20, 3), np.uint8)
        pixels[..., at % 3] += 150
        Image.fromarray(pixels).save(folder / f"{at:02d}.png")
    return folder


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
