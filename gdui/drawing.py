"""What our pictures share: colours, type, and text that fits."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.rcsetup import cycler
from PIL import Image, ImageColor, ImageFont

__all__ = [
    "ACCENT",
    "FAINT",
    "LIMIT",
    "MARK",
    "OTHER",
    "OURS",
    "PAGE",
    "PLOT",
    "TEXT",
    "fitted",
    "font",
    "in_greys",
    "stacked",
]

PAGE, TEXT, FAINT, ACCENT = "#16181d", "#f2f0ea", "#8d929c", "#f0a35e"

# Plots have no ground of their own, and every colour stands out on white and on a dark page alike
# (test_drawing holds it). matplotlib's rc_context takes PLOT.
OURS, OTHER, LIMIT, MARK, INK = "#0e827d", "#818b98", "#d1495b", "#a87900", "#757d87"
PLOT: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[OURS, MARK, LIMIT, "#4f7fc4", "#9567bd", "#4f8a2b", OTHER]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "savefig.facecolor": "auto",
    "svg.hashsalt": "gdui",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

GREYS, BLENDS = 40, 8  # shades of a page of grey pictures: more can hardly be told apart, and cost twice the bytes


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The face that comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def fitted(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut where it would be wider."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Strips of one width, one below the other."""
    page = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), PAGE)
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    return page


def in_greys(page: Image.Image) -> Image.Image:
    """A page of type and grey pictures in few shades."""
    return page.quantize(palette=_greys(), dither=Image.Dither.NONE)


@cache
def _greys() -> Image.Image:
    """A palette of greys, and of the colours of type as they blend into the page."""
    page = np.array(ImageColor.getrgb(PAGE))
    greys = np.linspace(0, 255, GREYS)[:, None].repeat(3, 1)
    share = np.linspace(0, 1, BLENDS)[:, None]
    type_ = [page + share * (np.array(ImageColor.getrgb(colour)) - page) for colour in (TEXT, FAINT, ACCENT)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.concatenate([*type_, greys])).astype(int).ravel().tolist())
    return palette
