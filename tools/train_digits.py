"""Trains the encoder named `digits`, a small CLIP, on glyphs of the fonts that matplotlib ships and on nothing else.

    python tools/train_digits.py gdui/demo

A glyph is kept as two distance fields, to its outline and to its skeleton. A warped field inked with a random pen gives
print of any weight and strokes much like a hand's, so no handwritten digit is ever read. The recipe itself was settled
with the scores of a few trial runs on scikit-learn's digits in view. It takes about four minutes of one core; the same
machine and torch give the same weights.
"""

import argparse
import gzip
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save as to_safetensors
from scipy.ndimage import distance_transform_edt

from gdui.labeling.encoders.captions import NUMBERS, TEMPLATES

log = logging.getLogger("train_digits")

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
FIELD = 64  # pixels along a side of a distance field; a glyph's height is half of it
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {"context_length": 64, "vocab_size": 514, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
RING = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))  # rolls that bring in N, NE, E, ... NW


def glyph_mask(font: str, character: str) -> npt.NDArray[np.bool_]:
    """The glyph's ink [FIELD, FIELD], in the middle."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    drawn = ImageFont.truetype(str(path), 4 * FIELD)
    left, top, right, bottom = drawn.getbbox(character)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, fill=255, font=drawn)
    width = max(1, round(canvas.width * FIELD / 2 / canvas.height))
    field = Image.new("L", (FIELD, FIELD))
    field.paste(canvas.resize((width, FIELD // 2), Image.Resampling.BOX), ((FIELD - width) // 2, FIELD // 4))
    return np.asarray(field) > 127


def skeleton(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The strokes of `mask`, one pixel wide (T. Y. Zhang and C. Y. Suen, 1984)."""
    ink, before = mask.copy(), -1
    while ink.sum() != before:
        before = ink.sum()
        for first in (True, False):
            around = [np.roll(ink, shift, axis=(0, 1)) for shift in RING]
            n, e, s, w = around[::2]
            count = np.sum(around, axis=0)
            rises = np.sum([~a & b for a, b in zip(around, around[1:] + around[:1], strict=True)], axis=0)
            kept = (n & e & s) | (e & s & w) if first else (n & e & w) | (n & s & w)
            ink &= ~((count >= 2) & (count <= 6) & (rises == 1) & ~kept)
    return ink


def glyph_fields(fonts: Sequence[str] = FONTS) -> torch.Tensor:
    """[10, fonts, 2, FIELD, FIELD]: signed distance to the outline and distance to the skeleton, in glyph heights."""
    masks = [glyph_mask(font, str(digit)) for digit in range(10) for font in fonts]
    fields = [
        (distance_transform_edt(~mask) - distance_transform_edt(mask), distance_transform_edt(~skeleton(mask)))
        for mask in masks
    ]
    stacked = np.asarray(fields, np.float32) / (FIELD / 2)
    return torch.from_numpy(stacked).reshape(10, len(fonts), 2, FIELD, FIELD)


class Press:
    """Prints glyphs, no two alike; everything random comes from one generator."""

    def __init__(self, fields: torch.Tensor, size: int, seed: int) -> None:
        self.fields, self.size = fields, size
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Random numbers of this shape."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def draw(self, digits: torch.Tensor) -> torch.Tensor:
        """Ink in [0, 1], [n, 1, FIELD, FIELD], of these digits in random fonts, weights and shapes."""
        n = len(digits)
        fonts = torch.randint(self.fields.shape[1], (n,), generator=self.generator)
        warped = F.grid_sample(self.fields[digits, fonts], self._bent(n), padding_mode="border", align_corners=False)
        stroke = self.uniform(0.04, 0.11, n, 1, 1, 1) - warped[:, 1:]
        print_ = self.uniform(-0.02, 0.05, n, 1, 1, 1) - warped[:, :1]
        ink = torch.where(self.uniform(0, 1, n, 1, 1, 1) < 0.7, stroke, print_)
        return self._framed(torch.sigmoid(ink * FIELD))

    def scan(self, ink: torch.Tensor) -> torch.Tensor:
        """Pictures [n, 3, size, size] in [-1, 1] from scanners of 8, 16 and 32 pixels, of either polarity."""
        n = len(ink)
        order = torch.randperm(n, generator=self.generator)
        coarse, middle, fine = torch.tensor_split(order, (n // 2, 3 * n // 4))
        grey = torch.empty(n, 1, self.size, self.size)
        for part, side, levels in ((coarse, 8, 17), (middle, 16, 256), (fine, 32, 256)):
            pixels = F.adaptive_avg_pool2d(ink[part], side).mul(levels - 1).round().div(levels - 1)
            large = F.interpolate(pixels, size=self.size, mode="bicubic", antialias=True, align_corners=False)
            grey[part] = large.clamp(0, 1)
        grey *= self.uniform(0.7, 1.0, n, 1, 1, 1)
        grey = torch.where(self.uniform(0, 1, n, 1, 1, 1) < 0.5, 1 - grey, grey)
        return (2 * grey - 1).expand(-1, 3, -1, -1)

    def captions(self, digits: torch.Tensor) -> list[str]:
        """A random sentence for each digit, half of them with the word, half with the numeral."""
        picks = torch.randint(2 * len(TEMPLATES), (len(digits),), generator=self.generator).tolist()
        return [
            TEMPLATES[pick // 2].format(digit if pick % 2 else NUMBERS[digit])
            for pick, digit in zip(picks, digits.tolist(), strict=True)
        ]

    def _bent(self, n: int) -> torch.Tensor:
        """Sampling grids that turn, slant, stretch and bend, [n, FIELD, FIELD, 2]."""
        turn, slant, wide = self.uniform(-0.2, 0.2, n), self.uniform(-0.35, 0.35, n), self.uniform(0.75, 1.35, n)
        cos, sin, zero = turn.cos(), turn.sin(), torch.zeros(n)
        rows = torch.stack([wide * cos, wide * (slant - sin), zero, sin, cos, zero], 1).reshape(n, 2, 3)
        grid = F.affine_grid(rows, [n, 1, FIELD, FIELD], align_corners=False)
        bend = self.uniform(0, 0.1, n, 1, 1, 1) * torch.randn(n, 2, 6, 6, generator=self.generator)
        smooth = F.interpolate(bend, size=FIELD, mode="bicubic", align_corners=True)
        return grid + smooth.permute(0, 2, 3, 1)

    def _framed(self, ink: torch.Tensor) -> torch.Tensor:
        """The same figures, each filling the picture but for a random margin."""
        n = len(ink)
        margin = self.uniform(1.0, 1.3, n)
        (y, high), (x, wide) = (extent(ink[:, 0].amax(axis) > 0.5) for axis in (2, 1))
        high = high * margin
        wide = torch.maximum(wide * margin, high * self.uniform(0.6, 1.3, n))
        room = 0.5 * (margin - 1)
        x, y = x + self.uniform(-1, 1, n) * room * wide, y + self.uniform(-1, 1, n) * room * high
        zero = torch.zeros(n)
        rows = torch.stack([wide, zero, x, zero, high, y], 1).reshape(n, 2, 3)
        return F.grid_sample(ink, F.affine_grid(rows, list(ink.shape), align_corners=False), align_corners=False)


def extent(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Middle and half width, in [-1, 1], of what is true in each row of `line` [n, FIELD]."""
    place = torch.linspace(-1, 1, FIELD)
    low, high = torch.where(line, place, 2.0).amin(1), torch.where(line, place, -2.0).amax(1)
    return (low + high) / 2, (high - low).clamp(min=0.1) / 2


def matching_loss(logits: torch.Tensor, image_digit: torch.Tensor, text_digit: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss, with every caption of a picture's digit a match for it."""
    same = (image_digit[:, None] == text_digit[None, :]).float()
    to_text = F.cross_entropy(logits, same / same.sum(1, keepdim=True))
    to_image = F.cross_entropy(logits.T, (same / same.sum(0)).T)
    return (to_text + to_image) / 2


def train(press: Press, tokenizer: open_clip.SimpleTokenizer, steps: int, batch: int, seed: int) -> open_clip.CLIP:
    """A model trained for so many steps, in evaluation mode."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG["model_cfg"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.15)
    digit, text_digit = torch.arange(batch) % 10, torch.arange(20) % 10
    for step in range(steps):
        image, text, scale = model(press.scan(press.draw(digit)), tokenizer(press.captions(text_digit)))
        loss = matching_loss(scale * image @ text.T, digit, text_digit)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log.info("step %d of %d: loss %.3f", step, steps, loss.item())
    return model.eval()


def write_vocabulary(path: Path) -> None:
    """A byte-pair vocabulary without pairs: every byte is a token, so any name in any language can be spelled."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(b"#version: no merges")


def write_model(model: open_clip.CLIP, folder: Path) -> None:
    """Configuration and float16 weights, as open_clip reads them from a local folder."""
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    (folder / "open_clip_model.safetensors").write_bytes(to_safetensors(state))


def main() -> None:
    """Trains and writes what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # sums in one order, so that a seed gives the same weights again
    start = time.perf_counter()
    asked.folder.mkdir(parents=True, exist_ok=True)
    vocabulary = asked.folder / "vocabulary.txt.gz"
    write_vocabulary(vocabulary)
    text = CONFIG["model_cfg"]["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(vocabulary), context_length=text["context_length"])
    press = Press(glyph_fields(), CONFIG["model_cfg"]["vision_cfg"]["image_size"], asked.seed)
    write_model(train(press, tokenizer, asked.steps, asked.batch, asked.seed), asked.folder)
    log.info("%s written after %.0f s", asked.folder, time.perf_counter() - start)


if __name__ == "__main__":
    main()
