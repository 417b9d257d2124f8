"""What this machine can use of what gdui knows how to use, found by trying, and what to install for more."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gdui import __version__, checks

__all__ = ["Finding", "examine"]

CLIP = "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Finding:
    """One thing that can be used or not; `advice` says how it could be, "" where nothing is wanting."""

    name: str
    usable: bool
    what: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything gdui can make use of, the most telling first."""
    return [_core(), _gpu(), _triton(), _faiss(), *_optional(), *_weights()]


def _core() -> Finding:
    try:
        import_module("gdui._core")
    except ImportError as error:
        return Finding("gdui", False, f"{__version__}, without its core: {error}", "install it again: pip install .")
    return Finding("gdui", True, f"{__version__}, {checks.thread_count()} threads")


def _gpu() -> Finding:
    torch = import_module("torch")
    if not torch.cuda.is_available():
        why = "a build of torch with CUDA, and a driver" if torch.version.cuda is None else "a driver and an NVIDIA GPU"
        return Finding(
            "GPU", False, f"none is seen by torch {torch.__version__}", f"everything runs on the CPU; {why} would help"
        )
    count = torch.cuda.device_count()
    name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    return Finding("GPU", True, f"{count} x {name}, {memory / 2**30:.0f} GiB, torch {torch.__version__}")


def _triton() -> Finding:
    module, why = _tried("triton")
    if module is None:
        return Finding("Triton kernels", False, why, "the C++ twins are used instead")
    if not import_module("torch").cuda.is_available():
        return Finding(
            "Triton kernels", False, f"triton {module.__version__}, but no GPU", "the C++ twins are used instead"
        )
    return Finding("Triton kernels", True, f"triton {module.__version__}")


def _faiss() -> Finding:
    module, why = _tried("faiss")
    if module is None:
        return Finding("FAISS", False, why, "pip install faiss-cpu")
    if not hasattr(module, "StandardGpuResources"):
        gpu = import_module("torch").cuda.is_available()
        advice = "for the GPU: pip uninstall faiss-cpu faiss-gpu-cu12, then pip install faiss-gpu-cu12" if gpu else ""
        return Finding("FAISS", True, f"{module.__version__}, for the CPU", advice)
    return Finding("FAISS", True, f"{module.__version__}, {module.get_num_gpus()} GPUs")


def _optional() -> list[Finding]:
    known: list[tuple[str, str, str, str]] = [
        ("CuPy", "cupy", "refinement of arrays that are on a GPU", "pip install 'gdui[cuda12]' or 'gdui[cuda13]'"),
        ("Ray", "ray", "many machines", "pip install 'gdui[ray]'"),
        ("universal_pathlib", "upath", "run folders on a store", "pip install 'gdui[ray]'"),
        ("data sets", "datasets", "Hugging Face data sets", "pip install 'gdui[datasets]'"),
        ("pandas", "pandas", "labels as a data frame", "pip install pandas"),
        ("UMAP", "umap", "another map in the report", "pip install umap-learn"),
    ]
    return [_package(*one) for one in known]


def _package(name: str, module: str, what_for: str, advice: str) -> Finding:
    found, why = _tried(module)
    if found is None:
        return Finding(name, False, f"for {what_for}: {why}", advice)
    return Finding(name, True, f"{_version(found)}, for {what_for}")


def _weights() -> list[Finding]:
    """What has been downloaded already, so that it works without a network."""
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"))
    torch_hub: Callable[[], str] = import_module("torch.hub").get_dir
    # A file that is still on its way has no name in a snapshot.
    clip = any(file.is_file() for file in (hub.expanduser() / CLIP / "snapshots").glob("*/open_clip_*model.*"))
    inception = (Path(torch_hub()) / "checkpoints" / INCEPTION).is_file()
    later = "downloaded on first use"
    return [
        Finding("encoder digits", True, "comes with gdui"),
        Finding("encoder ViT-B-32", clip, "at hand" if clip else "not at hand", "" if clip else later),
        Finding("InceptionV3 (FID)", inception, "at hand" if inception else "not at hand", "" if inception else later),
    ]


def _tried(module: str) -> tuple[Any, str]:
    """The module, or why there is none."""
    try:
        return import_module(module), ""
    except Exception as error:  # a broken package fails with anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        return None, "not installed" if missing else f"broken: {error or type(error).__name__}"


def _version(module: Any) -> str:
    try:
        return version(module.__name__)
    except PackageNotFoundError:
        return str(getattr(module, "__version__", "installed"))
