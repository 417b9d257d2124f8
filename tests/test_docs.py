"""All code in the README, the documentation and the examples runs; the digits stand in for the big encoder."""

import importlib.util
import inspect
import io
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import reproduce
from gdui import ops
from gdui.cli import main
from gdui.cli.main import parser
from gdui.demo import NAMES, images
from gdui.diffusion import schedule
from gdui.labeling import match, neighbors, refine, select

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What a page says, and what is run in its place: the same with less to compute.
SMALLER = {
    "ViT-B-32/laion2b_s34b_b79k": "digits",
    'gdui.train(labels, "photos/", "generator/")': (
        'gdui.train(labels, "photos/", "generator/", preset="tiny", compile=False,'
        ' settings={"recipe.steps": 2, "classifier_recipe.steps": 2})'
    ),
    'model.sample("bird", n=64)': 'model.sample("bird", n=2, steps=2)',
    "torch.compile(losses, fullgraph=True)": 'torch.compile(losses, fullgraph=True, backend="aot_eager")',
    "'s3://bucket/shards/{00000..09999}.tar'": "photos/",
    "s3://bucket/run": "run_cluster",
}
OTHER_PROGRAMS = ("make", "pip", "git", "cd", "torchrun", "python", "ray")
PICTURES = 120


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documentation takes for granted: pictures, names, features, scores, and a finished run."""
    folder = tmp_path_factory.mktemp("docs")
    for kind, rows in (("photos", range(PICTURES)), ("new_photos", range(PICTURES, PICTURES + 9))):
        for row in rows:
            path = folder / kind / "2024" / f"{row + 1:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images()[row]).save(path)
    ids = [f"2024/{row + 1:04d}.jpg" for row in range(PICTURES)]
    (folder / "names.txt").write_text("\n".join(NAMES))
    (folder / "other_names.txt").write_text("round\nstraight\n")
    (folder / "two_names.txt").write_text("cat\ndog\n")
    (folder / "truth.csv").write_text("id,label\n" + "".join(f"{id_},{NAMES[at % 10]}\n" for at, id_ in enumerate(ids)))
    np.save(folder / "truth.npy", np.arange(PICTURES) % 10)
    for name in ("few.csv", "corrections.csv"):
        (folder / name).write_text(f"id,label\n{ids[0]},zero\n{ids[5]},\n")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 200)
    np.save(folder / "features.npy", rng.standard_normal((2, 16))[kind] + rng.standard_normal((200, 16)))
    np.save(folder / "scores.npy", np.eye(2)[kind] + rng.random((200, 2)))
    np.save(folder / "pixels.npy", images()[:PICTURES, None].repeat(3, 1))
    for name, column in (("photos", "photo"), ("new", "image")):
        files = sorted((folder / "photos").rglob("*.jpg"))
        cells = [file.read_bytes() for file in files]
        pq.write_table(pa.table({column: cells, "mask": cells, "name": ids}), folder / f"{name}.parquet")
    label = ["label", str(folder / "photos"), "--classes", str(folder / "names.txt"), "--encoder", "digits"]
    assert main([*label, "--out", str(folder / "run")]) == 0
    return folder


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, code) of a page, as it would be typed."""
    for language, code in BLOCK.findall(page.read_text()):
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        yield language, code


def commands(code: str) -> Iterator[list[str]]:
    """Each gdui command's arguments; other programs must be known ones."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "gdui":
            yield words[1:]
        else:
            assert not words or words[0] in OTHER_PROGRAMS, f"what is {words[0]!r}?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_stands_on_a_page_runs(
    page: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "--engine ray" in page.read_text():
        request.getfixturevalue("cluster")
    for one in photos.iterdir():
        if one.name != "run":
            (tmp_path / one.name).symlink_to(one)
    shutil.copytree(photos / "run", tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, f"{page.name}: {code[:40]}", "exec"), names)  # noqa: S102 - our own documentation
        else:
            for arguments in commands(code):
                if arguments[0] == "reproduce":  # a row takes a minute: here its options are only read
                    reproduce.options().parse_args(arguments[1:])
                else:
                    assert main(arguments) == 0, shlex.join(arguments)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")


def test_the_page_of_commands_has_every_command_and_option() -> None:
    spec = importlib.util.spec_from_file_location("docs_commands", ROOT / "tools" / "docs_commands.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = hook.on_page_markdown((ROOT / "docs" / "reference" / "cli.md").read_text())
    sections = dict(re.findall(r"^## gdui (\w+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert {"label", "relabel", "evaluate", "reproduce", "doctor"} <= set(sections)
    assert len(sections) == len(re.findall(r"^    \w+", parser().format_help(), re.MULTILINE))
    assert "`--cluster-by NAME`" in sections["label"]
    assert "`--steps N` | of the sampler (default: 20) |" in sections["sample"]
    assert "gdui label [SOURCE] --out RUN [options]" in sections["label"]
    for name, text in sections.items():
        with pytest.raises(SystemExit), redirect_stdout(io.StringIO()) as told:
            parser().parse_args([name, "--help"])
        options = set(re.findall(r"--[a-z][\w-]*", told.getvalue().partition("options:")[2]))
        for option in options - {"--help", "--json", "--debug"}:
            assert f"`{option}" in text, (name, option)


@pytest.mark.parametrize(
    "module", [ops, match, neighbors, refine, schedule, select], ids=lambda module: str(module.__name__)
)
def test_the_reference_has_what_a_module_offers(module: ModuleType) -> None:
    shown = set(re.findall(r"^::: ([\w.]+)", "".join(page.read_text() for page in PAGES), re.MULTILINE))
    offered = [getattr(module, name) for name in module.__all__]
    for one in filter(lambda one: hasattr(one, "__qualname__"), offered):
        places = {
            module.__name__,
            one.__module__,
            f"{module.__name__}.{one.__name__}",
            f"{one.__module__}.{one.__name__}",
        }
        assert places & shown, f"no page shows {one.__name__} of {module.__name__}"


@pytest.mark.parametrize("name", ops.__all__)
def test_every_argument_of_a_kernel_is_explained(name: str) -> None:
    op = getattr(ops, name)
    explained = re.findall(r"^    (\w+(?:, \w+)*): ", inspect.getdoc(op) or "", re.MULTILINE)
    assert set(", ".join(explained).split(", ")) == set(inspect.signature(op).parameters)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_navigation_has_every_page() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
