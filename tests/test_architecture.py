"""Imports go downward only; a stage never imports another stage; the two halves never import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STAGES = (
    "select",
    "encoders",
    "opinions",
    "features",
    "represent",
    "cluster",
    "joint",
    "match",
    "refine",
    "graph",
    "consensus",
    "linear",
)
# Lowest first. A module may import its own layer's leaves and everything below, never sideways among stages.
LAYERS: list[set[str]] = [
    {"gdui.kernels", "gdui._core", "gdui.checks", "gdui.places", "gdui.toml"},
    {"gdui.spice_config", "gdui.encoder_names"},
    {"gdui.config", "gdui.runs", "gdui.drawing", "gdui.labeling.exact", "gdui.labeling.refine_cuda"}
    | {"gdui.labeling.copies", "gdui.labeling.ordered", "gdui.labeling.rows"},
    {"gdui.ops", "gdui.labels", "gdui.labeling.neighbors", "gdui.images", "gdui.training"},
    {"gdui.labeling.augment"},
    {"gdui.labeling.looks"},
    {"gdui.labeling.pictures"},
    {f"gdui.labeling.{stage}" for stage in STAGES},
    {"gdui.diffusion.schedule", "gdui.diffusion.norm", "gdui.diffusion.pictures", "gdui.diffusion.times"}
    | {"gdui.diffusion.balance", "gdui.diffusion.curves", "gdui.diffusion.grid"},
    {"gdui.diffusion.attention", "gdui.diffusion.layers"},
    {"gdui.diffusion.unet", "gdui.diffusion.latents", "gdui.diffusion.spice"},
    {"gdui.diffusion.classifier"},
    {"gdui.labeling.inputs", "gdui.labeling.learned", "gdui.labeling.naming", "gdui.labeling.criterion"}
    | {"gdui.labeling.spice"},
    {"gdui.labeling.pins"},
    {"gdui.labeling.outcome"},
    {"gdui.labeling.intake", "gdui.labeling.parts", "gdui.labeling.teaching"},
    {
        "gdui.labeling.labeler",
        "gdui.labeling.summary",
        "gdui.labeling.handed",
        "gdui.diffusion.checkpoints",
    },
    {"gdui.labeling.job"},
    {"gdui.labeling.distribute"},
    {"gdui.labeling.workflow"},
    {"gdui.diffusion.recipe", "gdui.diffusion.solvers", "gdui.diffusion.gather"},
    {"gdui.diffusion.losses", "gdui.diffusion.sample", "gdui.diffusion.plan"},
    {"gdui.diffusion.averages", "gdui.diffusion.generator", "gdui.evaluation"},
    {"gdui.diffusion.train", "gdui.diffusion.album", "gdui.diffusion.start"},
    {"gdui.diffusion.task"},
    {"gdui.diffusion.workflow"},
    {"gdui.report", "gdui.doctor"},
    {"gdui.demo"},
    {"gdui.cli"},
]
UPWARD = {("gdui.labels.table", "gdui.report")}  # who holds labels asks them for their page


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("gdui", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int | None:
    for level, members in enumerate(LAYERS):
        if any(module == member or module.startswith(member + ".") for member in members):
            return level
    return None


def imports_of(text: str) -> set[str]:
    """What is imported of ours; the whole package stands for its public names, which are of the upper layers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    ours = {name for name in found if name.split(".")[0] in ("gdui", "kernels")} - {"gdui.__version__"}
    return {"gdui" if name.startswith("gdui.") and layer_of(name) is None else name for name in ours}


def family(module: str) -> str:
    """gdui.labeling.match and gdui.labeling.match.Matching belong together."""
    for members in LAYERS:
        for member in members:
            if module == member or module.startswith(member + "."):
                return member
    return module


SOURCES = sorted([*(ROOT / "gdui").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    here = module_name(path)
    level = layer_of(here)
    is_package_face = path.name == "__init__.py" and level is None
    assert level is not None or is_package_face, f"{here} has no layer: give it one in tests/test_architecture.py"
    for target in imports_of(path.read_text()):
        if target == "gdui":
            assert level == len(LAYERS) - 1, f"{here} must import from the module that a public name lives in"
            continue
        assert not target.startswith("kernels"), f"{here} must import gdui.kernels"
        target_level = layer_of(target)
        if target_level is None or family(target) == family(here) or (here, target) in UPWARD:
            continue
        assert not is_package_face, f"{here} must stay without imports of its own modules"
        assert level is not None
        assert target_level < level, f"{here} must not import {target}"
        halves = {name.split(".")[1] for name in (here, target)} & {"labeling", "diffusion"}
        assert len(halves) < 2, f"{here} and {target} are of different halves"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from gdui import Labeler, train", {"gdui"}),
        ("import gdui\ngdui.train", {"gdui"}),
        ("from gdui import *", {"gdui"}),
        ("from importlib import import_module\nimport_module('gdui.cli')", {"gdui.cli"}),
        ("import importlib\nimportlib.import_module('gdui.cli')", {"gdui.cli"}),
        ("__import__('gdui.cli')", {"gdui.cli"}),
        ("from gdui import __version__, checks", {"gdui.checks"}),
        ("import numpy, gdui.checks", {"gdui.checks"}),
    ],
)
def test_no_way_of_importing_is_overlooked(text: str, found: set[str]) -> None:
    assert imports_of(text) == found


def test_every_module_in_a_layer_is_there() -> None:
    there = {module_name(path) for path in SOURCES} | {"gdui._core"}
    assert [module for members in LAYERS for module in members if module not in there] == []


@pytest.mark.parametrize(
    ("forbidden", "home"),
    [
        ("faiss", "gdui/labeling/neighbors.py"),
        ("triton", "kernels"),
        ("open_clip", "gdui/labeling/encoders/"),
    ],
)
def test_a_package_has_one_home(forbidden: str, home: str) -> None:
    for path in SOURCES:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            str(node.module).split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        if forbidden in names:
            assert str(path.relative_to(ROOT)).startswith(home), f"only {home} may import {forbidden}, not {path}"


def test_python_h_stays_in_the_bindings() -> None:
    for path in (ROOT / "csrc").glob("*.*"):
        assert "pybind11" not in path.read_text(), f"{path} must not know Python"


def test_only_the_command_line_prints() -> None:
    for path in SOURCES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printing = any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)
        assert not printing or path.parent.name == "cli", f"{path} prints; use logging"
