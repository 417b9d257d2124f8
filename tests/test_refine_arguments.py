"""What refinement and its sweep refuse."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gdui import checks
from gdui.labeling.refine import refine, sweep


class OnGpu:
    """What an array on a GPU looks like from outside."""

    def __init__(self, value: Any = (), kind: int = 2) -> None:
        self.value, self.kind = np.asarray(value), kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.kind, 0)


def refine_there(**asked: Any) -> None:
    """`refine` of the same arrays on a GPU, as far as it goes without one: NumPy stands in for CuPy."""
    stand_in = SimpleNamespace(
        asarray=np.asarray, ascontiguousarray=np.ascontiguousarray, from_dlpack=lambda array: array.value
    )
    arrays = {name: OnGpu(value) for name, value in asked.items() if name in ARRAYS}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "cupy", stand_in)
        refine(**(asked | arrays))


ARRAYS = ("cluster", "confidence", "opinion", "class_of_cluster", "rank_by")
GOOD: dict[str, Any] = {"cluster": [0, 1], "confidence": [0.5, 0.5], "opinion": [0, 1], "class_of_cluster": [0, 1]}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"cluster": [0, 2]}, ValueError, "cluster must be below 2, but holds 2"),
        ({"cluster": [0, -2]}, ValueError, "cluster must be at least 0, but holds -2"),
        ({"confidence": [0.5, np.nan]}, ValueError, "confidence holds NaN"),
        ({"confidence": [0.5]}, ValueError, "equally long: cluster has 2, confidence has 1"),
        ({"opinion": [0, -1]}, ValueError, "opinion must be at least 0, but holds -1"),
        ({"opinion": [0, 2**40]}, ValueError, "opinion must be below 16777216"),
        (
            {"opinion": np.array([0, 2**63 + 1], np.uint64)},
            ValueError,
            "opinion must be .*holds 9223372036854775809",
        ),
        ({"opinion": [0.0, 1.0]}, TypeError, "opinion must be integers"),
        ({"class_of_cluster": [0, -2]}, ValueError, "class_of_cluster must be at least -1"),
        ({"class_of_cluster": [[0]]}, ValueError, "class_of_cluster must have 1 axis"),
        ({"cluster": 1}, ValueError, "cluster must have 1 axis, not 0"),
        ({"confidence": 0.5}, ValueError, "confidence must have 1 axis, not 0"),
        ({"confidence": ["a", "b"]}, TypeError, "confidence must be real numbers"),
        ({"confidence": [2**53 + 1, 0]}, ValueError, "confidence holds 9007199254740993, which float64 cannot tell"),
        ({"rank_by": [0.0]}, ValueError, "rank_by has 1"),
        ({"rank_by": [0.0, np.inf]}, ValueError, "rank_by holds NaN or infinity"),
        ({"weights": (0, 0)}, ValueError, "weights must not both be 0"),
        ({"weights": (1,)}, ValueError, r"weights must be two numbers, not \(1,\)"),
        ({"weights": 0.5}, ValueError, "weights must be two numbers, not 0.5"),
        ({"weights": [[1], [1, 2]]}, ValueError, "weights must be an array of 1 axis"),
        ({"weights": (1, 1, 1)}, ValueError, "weights must be two numbers"),
        ({"weights": (-1, 2)}, ValueError, "weights must be between"),
        ({"n": 0}, ValueError, "n must be at least 1, not 0"),
        ({"lambda_top": 1.5}, ValueError, "lambda_top must be between 0 and 1"),
        ({"on_mismatch": np.array(["keep"])}, ValueError, "on_mismatch must be one of 'keep', 'relabel', not array"),
        ({"on_mismatch": "drop"}, ValueError, "on_mismatch must be one of 'keep', 'relabel', not 'drop'"),
        ({"threads": -1}, ValueError, "threads must be at least 1"),
    ],
)
@pytest.mark.parametrize("function", [refine, sweep, refine_there])
def test_mistakes_are_named(function: Any, change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        function(**(GOOD | change))


def test_a_sigma_that_no_float_holds_is_named() -> None:
    for huge in (10**400, -(10**400)):
        with pytest.raises(ValueError, match="sigma must be a number that a float holds, not one of 1329 bits"):
            refine(**GOOD, sigma=huge)


@pytest.mark.parametrize("function", [refine, sweep, refine_there])
def test_more_clusters_than_anything_else_takes_are_refused(function: Any) -> None:
    names = np.broadcast_to(np.int8(0), (checks.MOST_CLUSTERS + 1,))
    with pytest.raises(ValueError, match="class_of_cluster must be of at most 16777216 clusters, not 16777217"):
        function(**(GOOD | {"class_of_cluster": names}))


def test_a_sweep_over_fewer_classes_than_seen_is_refused() -> None:
    with pytest.raises(ValueError, match="class_of_cluster must be below 1"):
        sweep(**GOOD, n_classes=1)


@pytest.mark.parametrize(
    ("sigma", "text"),
    [(0.5, "sigma must have 1 axis, not 0"), ([0.5, 0.4], "sigma must be ascending"), ([np.nan], "sigma holds NaN")],
)
def test_wrong_values_of_sigma_are_named(sigma: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sweep(**GOOD, sigma=sigma)


def test_a_sweep_over_too_many_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="n_classes must be at most 664444 for 101 values of sigma, not 16777216"):
        sweep([0], [0.5], [2**24 - 1], [0])


def test_an_array_on_a_gpu_without_cupy_says_what_to_install() -> None:
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"gdui\[cuda12\]"):
            refine(OnGpu(), [0.5], [0], [0])  # type: ignore[arg-type]
        with pytest.raises(ImportError, match=r"gdui\[cuda12\]"):
            refine([0], OnGpu(), [0], [0])  # type: ignore[arg-type]
    else:
        pytest.skip("CuPy is installed")


def test_what_cannot_be_read_on_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise BufferError("Can't export tensors that require gradient")

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(asarray=np.asarray, from_dlpack=refuse))
    with pytest.raises(TypeError, match="confidence can't be read as an array: Can't export tensors that require grad"):
        refine([0], OnGpu([0.5]), [0], [0])  # type: ignore[arg-type]


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("memory", [2, 13], ids=["of the device", "managed"])
def test_a_sweep_of_an_array_on_a_gpu_is_refused(at: int, memory: int) -> None:
    asked: list[Any] = [[0], [0.5], [0], [0]]
    asked[at] = OnGpu(kind=memory)
    name = ("cluster", "confidence", "opinion", "class_of_cluster")[at]
    with pytest.raises(TypeError, match=f"{name} is on a GPU: copy it to the CPU first"):
        sweep(*asked)
