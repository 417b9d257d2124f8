"""The embedded default: scikit-learn's handwritten digits, and a tiny CLIP that has seen printed ones only."""

from gdui.demo.digits import NAMES, DemoResult, images, run
from gdui.demo.drawn import Drawn, draw_digits
from gdui.demo.sheet import contact_sheet

__all__ = ["NAMES", "DemoResult", "Drawn", "contact_sheet", "draw_digits", "images", "run"]
