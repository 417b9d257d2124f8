"""Plots read on light pages and dark ones: they bring no ground, and every colour stands out on both."""

import io
from itertools import chain

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from gdui.drawing import LIMIT, MARK, OTHER, OURS, PLOT

INK = [value for name, value in PLOT.items() if name.endswith("color") and str(value).startswith("#")]
COLOURS = sorted({OURS, OTHER, LIMIT, MARK, *INK, *chain(PLOT["axes.prop_cycle"].by_key()["color"])})
PAGES = {"white": "#ffffff", "dark": "#0d1117"}


def luminance(colour: str) -> float:
    """The relative luminance that the contrast of WCAG is made of."""
    share = np.array(ImageColor.getrgb(colour)) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_stands_out(colour: str, page: str) -> None:
    dark, light = sorted((luminance(colour), luminance(PAGES[page])))
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_what_a_plot_writes_is_in_these_colours_on_no_ground() -> None:
    with rc_context(PLOT):
        figure = Figure()
        figure.subplots().set(xlabel="steps", ylabel="loss", title="training")
        written = io.BytesIO()
        figure.savefig(written, format="png")
    pixels = np.asarray(Image.open(written).convert("RGBA"))
    assert (pixels[..., 3] == 0).mean() > 0.5
    solid = pixels[pixels[..., 3] == 255][:, :3]
    assert len(solid)
    assert {tuple(colour) for colour in solid.tolist()} <= {ImageColor.getrgb(colour) for colour in COLOURS}
