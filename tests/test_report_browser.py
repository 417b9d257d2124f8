"""The report in a real browser: it opens without a complaint, and a person reviews, exports and is heard."""

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdui import Labeler
from gdui.cli import main
from gdui.demo import NAMES, images
from gdui.labels import Labels
from gdui.report import placed, report_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IMAGES = 400
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is missing")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=path, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on handwritten digits, as the command line leaves it, with its report."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "images").mkdir()
    for row, picture in enumerate(images()[:IMAGES]):
        Image.fromarray(picture).save(folder / "images" / f"{row:04d}.png")
    (folder / "names.txt").write_text("\n".join(NAMES))
    run = folder / "run"
    label = ["label", str(folder / "images"), "--classes", str(folder / "names.txt"), "--out", str(run)]
    assert main([*label, "--encoder", "digits"]) == 0
    assert main(["report", str(run)]) == 0
    return run


def opened(browser: Any, path: Path, **kind: Any) -> Any:
    """The page; whatever the browser complains about fails the test."""
    page = browser.new_context(**kind).new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page fails: {error}"))
    page.on("console", lambda message: message.type == "error" and pytest.fail(f"the browser says: {message.text}"))
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or pytest.fail(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("kind", [DESKTOP, PHONE, DESKTOP | {"color_scheme": "dark"}], ids=["desk", "phone", "dark"])
def test_it_opens_with_pictures_and_fits_the_screen(browser: Any, run: Path, kind: dict[str, Any]) -> None:
    page = opened(browser, run / "report.html", **kind)
    assert page.locator("h1").inner_text() == f"{IMAGES} images, 10 classes"
    assert page.locator("article.class").count() == 10
    picture = page.locator("article.class img").first
    picture.scroll_into_view_if_needed()
    assert page.evaluate("image => image.decode().then(() => image.naturalWidth)", picture.element_handle()) == 8
    assert page.evaluate("document.documentElement.scrollWidth") == kind["viewport"]["width"]
    assert page.evaluate("(nav => nav.scrollWidth - nav.clientWidth)(document.querySelector('nav'))") == 0
    drawn = page.evaluate(
        "() => { const c = document.querySelector('canvas'); c.scrollIntoView(); return c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.filter((v, at) => at % 4 == 3 && v).length }"
    )
    assert drawn > IMAGES


def test_pictures_beside_the_page_are_shown_and_none_from_elsewhere(
    browser: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "INLINED", 1000)
    path = report_run(run, tmp_path / "large run.html")
    page = opened(browser, path, **DESKTOP)
    picture = page.locator("article.class img").first
    picture.scroll_into_view_if_needed()
    assert page.evaluate("image => image.decode().then(() => image.naturalWidth)", picture.element_handle()) == 8
    assert "large run_pictures" in page.locator("footer").inner_text()
    loaded = """address => new Promise(done => {
        const image = new Image();
        image.onload = () => done(true);
        image.onerror = () => done(false);
        image.src = address;
    })"""
    strict = browser.new_page()
    strict.route("https://example.com/*", lambda route: route.fulfill(path=run.parent / "images" / "0000.png"))
    strict.goto(path.as_uri())
    assert strict.evaluate(loaded, page.locator("article.class img").first.get_attribute("src"))
    assert not strict.evaluate(loaded, "https://example.com/x.png")


def test_every_control_has_a_name_and_every_picture_is_reached_by_keyboard(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html", **DESKTOP)
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select, canvas')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0
    page.locator("article.class .tile").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] h2").inner_text() in NAMES
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    canvas = page.locator("canvas")
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator(".picked").inner_text().split("\n")[0] in NAMES


def test_a_review_by_keyboard_is_kept_undone_and_exported(browser: Any, run: Path, tmp_path: Path) -> None:
    labels = Labels.from_run(run)
    page = opened(browser, run / "report.html", **DESKTOP)
    told = json.loads(page.locator("#data").text_content())
    first, second, third, fourth = (told["images"]["id"][at] for at in told["review"][:4])
    page.locator(".desk").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("7")
    assert " now seven. 3 of" in page.locator("#said").text_content()
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    page.keyboard.press("u")
    page.reload()
    assert "3 of" in page.locator("#review small").first.inner_text()
    page.locator(".desk").focus()
    with page.expect_download() as download:
        page.keyboard.press("e")
    download.value.save_as(tmp_path / download.value.suggested_filename)
    with (tmp_path / "corrections.csv").open(newline="") as file:
        said = {row["id"]: row["label"] for row in csv.DictReader(file)}
    assert said == {first: labels.row(first)["label"], second: "seven", third: ""}
    assert fourth not in said
    heard = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    assert main(["relabel", str(heard), "--corrections", str(tmp_path / "corrections.csv")]) == 0
    assert main(["report", str(heard)]) == 0
    after = Labels.from_run(heard)
    assert {id_: after.row(id_)["label"] or "" for id_ in said} == said
    page = opened(browser, heard / "report.html", **DESKTOP)
    told = json.loads(page.locator("#data").text_content())
    assert {told["images"]["id"][at] for at in told["review"]}.isdisjoint({second, third})
    assert told["head"]["pinned"] == 3
    overview = page.locator("#overview").inner_text()
    assert "what a person said of 3 images counts as right" in overview
    assert "none was seen" not in overview


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (NAMES, "0123456789"),
        (("cat", "digit 1", "2", "1 or 2", "dog", "one"), "312456"),
        (("bird", "ship"), "12"),
    ],
    ids=["words", "mixed", "plain"],
)
def test_a_class_that_is_named_by_a_digit_has_its_key(
    browser: Any, tmp_path: Path, names: tuple[str, ...], keys: str
) -> None:
    opinions = np.eye(len(names))[np.arange(40) % len(names)] + np.random.default_rng(0).random((40, len(names)))
    labels = Labeler(names, preset="paper", clusterer="kmeans").fit_predict(features=opinions, opinions=opinions)
    page = opened(browser, labels.report(tmp_path / "report.html"), **DESKTOP)
    assert "".join(page.locator(".choices kbd").all_inner_texts()) == keys
    page.locator(".desk").focus()
    for name, key in zip(names, keys, strict=True):
        label = page.locator(".verdict").inner_text()
        page.keyboard.press(key)
        verdict = "accepted" if label == name else f"now {name}"
        assert f"{label} {verdict}. " in page.locator("#said").text_content()


def test_a_source_that_has_moved_is_named(
    browser: Any, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    manifest, gone = moved / "manifest.json", str(tmp_path / "gone")
    manifest.write_text(manifest.read_text().replace(str(run.parent / "images"), gone))
    assert main(["report", str(moved)]) == 0
    assert f"{IMAGES} of {IMAGES} pictures were not found in {gone}" in caplog.messages
    page = opened(browser, moved / "report.html", **DESKTOP)
    assert f"were not found in {gone}" in page.locator(".findings").first.inner_text()


def test_looking_through_the_classes_labels_nothing(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html", **DESKTOP)
    page.locator("article.class .tile").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Close"
    page.locator("dialog select").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("t")
    assert page.locator("dialog[open]").count() == 1
    assert page.locator(".tile.corrected").count() == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 0
    assert page.locator("article.class .tile").first.get_attribute("class") == "tile corrected"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Withdraw the correction").click()
    assert page.locator(".tile.corrected").count() == 0


def test_the_desk_keeps_the_focus_and_says_when_it_is_done(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html", **DESKTOP)
    said, focused = page.locator("#said"), "document.activeElement.dataset.control ?? document.activeElement.className"
    last = len(json.loads(page.locator("#data").text_content())["review"])
    page.get_by_role("button", name="Next image").click()
    assert page.evaluate(focused) == "desk panel"
    page.keyboard.press("x")
    assert " rejected. 3 of" in said.text_content()
    page.get_by_role("button", name="Next image").focus()
    for _ in range(last):
        page.keyboard.press("Enter")
    assert page.evaluate(focused) == "→"
    assert said.text_content().startswith(f"{last} of {last}.")
    page.keyboard.press("x")
    assert f"That was the last image. 2 of {last} images reviewed" in said.text_content()


def test_decisions_in_two_tabs_join_and_can_be_withdrawn_later(browser: Any, run: Path) -> None:
    first = opened(browser, run / "report.html", **DESKTOP)
    second = first.context.new_page()
    second.goto(first.url)
    for page, keys in ((first, ["x"]), (second, ["ArrowRight", "Enter"])):
        page.locator(".desk").focus()
        for key in keys:
            page.keyboard.press(key)
    tally = first.locator("#review > small")
    tally.filter(has_text="2 of").wait_for()
    first.reload()
    tally.filter(has_text="2 of").wait_for()
    first.locator(".next .tile").first.click()
    first.keyboard.press("w")
    second.locator("#review > small").filter(has_text="1 of").wait_for()


def test_the_sweep_answers_to_its_slider_and_a_cell_shows_its_images(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html", **DESKTOP)
    slider = page.locator("#sigma")
    before = page.locator("output").inner_text()
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("output").inner_text().split(":")[0].endswith("= 1.00")
    assert page.locator("output").inner_text() != before
    cell = page.locator(".matrix td:not(.same) button").first
    count = int(cell.inner_text())
    assert re.fullmatch(rf"{count} labelled [a-z]+, opinion [a-z]+", cell.get_attribute("aria-label"))
    cell.click()
    assert 0 < page.locator("#confusion .tile").count() <= count
    page.locator("input[type=search]").fill("seven")
    assert page.locator("article.class").count() == 1


CONTRAST = """([front, back]) => {
    const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...pixel.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    return high / low;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_edges_stand_out(browser: Any, run: Path, theme: str) -> None:
    page = opened(browser, run / "report.html", **DESKTOP, color_scheme=theme)
    page.locator(".keys button").first.click()
    page.locator(".keys button").nth(1).focus()

    def styles(selector: str, name: str) -> list[str]:
        return list(
            page.evaluate(
                "([selector, name]) => [...document.querySelectorAll(selector)].map((e) => getComputedStyle(e)[name])",
                [selector, name],
            )
        )

    def contrast(front: str, back: str) -> float:
        return float(page.evaluate(CONTRAST, [front, back]))

    cells = ".matrix td button"
    inks, grounds = styles(cells, "color"), styles(cells, "backgroundColor")
    assert min(map(contrast, inks, grounds)) >= 4.5
    assert styles("button.main kbd", "opacity")[0] == "1"
    assert contrast(styles("button.main kbd", "color")[0], styles("button.main", "backgroundColor")[0]) >= 4.5
    card = styles(".panel", "backgroundColor")[0]
    hidden = ".keys button[aria-pressed=false]"
    assert styles(hidden, "opacity") == ["1"]
    assert contrast(styles(hidden, "color")[0], card) >= 4.5
    for control in (".desk button", "select", "input[type=search]"):
        assert contrast(styles(control, "borderTopColor")[-1], card) >= 3
