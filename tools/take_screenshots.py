"""Makes the demo's report and takes the pictures of it that stand in the documentation, in the system's Chromium."""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright
from sklearn.datasets import load_digits

from gdui.demo import NAMES, images, run

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
SIZE: ViewportSize = {"width": 1200, "height": 900}
SHOTS = (
    ("report", "overview", "light"),
    ("report_dark", "overview", "dark"),
    ("report_map", "map", "light"),
    ("report_review", "review", "light"),
    ("report_review_dark", "review", "dark"),
)


def report(folder: Path) -> Path:
    """The report of the demo's labels, with the truth beside."""
    labels = run(folder / "run").labels
    truth = {id_: NAMES[digit] for id_, digit in zip(labels.ids.to_pylist(), load_digits().target, strict=True)}
    pictures = images()
    features = pictures.reshape(len(pictures), -1)
    return labels.report(folder / "report.html", images=pictures, features=features, truth=truth, title="digits")


def few_colours(shot: bytes) -> Image.Image:
    """The same to the eye in less than half of the bytes."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    return picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


def main() -> None:
    """Writes docs/figures/report*.png."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        page_of = report(Path(folder)).as_uri()
        browser = engine.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, section, scheme in SHOTS:
            page = browser.new_context(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.5).new_page()
            page.goto(page_of)
            page.evaluate(f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})")
            page.wait_for_timeout(400)
            few_colours(page.screenshot()).save(FIGURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
