"""Label-matching refinement of arrays that are on a GPU: the core's own decisions, compiled there by CuPy."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gdui import _core, checks

__all__ = ["reader", "refine_on_gpu"]

BLOCK = 256


def reader() -> Callable[[str, Any, int], Any]:
    """Takes what a user hands in to the GPU, for `checks`."""
    cp = _cupy()

    def read(name: str, value: Any, ndim: int) -> Any:
        if not checks.on_gpu(value):
            return cp.asarray(checks.on_cpu(name, value, ndim))
        try:
            return cp.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{name} can't be read as an array: {error}") from None

    return read


def refine_on_gpu(
    cluster: Any,
    confidence: Any,
    rank_by: Any,
    opinion: Any,
    class_of_cluster: Any,
    classes: int,
    policy: _core.Policy,
    sigma: float,
) -> tuple[Any, ...]:
    """Label, rule, branch, delta_top, delta_btm and r_btm, as the core gives them, of CuPy arrays, as CuPy arrays.

    Like the core it is handed arrays of the right kind and length, and looks at the values of the N-sized ones itself.
    """
    cp = _cupy()
    labels = _whole(cp, "cluster", cluster, len(class_of_cluster))
    voted = _whole(cp, "opinion", opinion, classes)
    scores = _real(cp, "confidence", confidence)
    key = scores if rank_by is confidence else _real(cp, "rank_by", rank_by)
    names = cp.ascontiguousarray(class_of_cluster)
    k, samples = len(names), len(labels)
    start = cp.concatenate([cp.zeros(1, np.int64), cp.cumsum(cp.bincount(labels, minlength=k))]).astype(np.int64)
    by_top, by_btm = (_order(cp, labels, signed) for signed in (-key, key))
    branch, (top, btm, r) = cp.empty(k, np.uint8), cp.empty((3, k), np.float64)
    label, rule = cp.empty(samples, np.int32), cp.empty(samples, np.uint8)
    judge, decide = _kernels(scores.dtype.name)
    weights = (policy.weight_top, policy.weight_btm, policy.lambda_delta, policy.lambda_top, policy.lambda_btm)
    judged = (by_top, by_btm, start, np.int64(k), np.int64(policy.n), scores, voted, names)
    policies = (*map(np.float64, weights), np.int32(policy.relabel_no_vote))
    _launch(judge, k, (*judged, *policies, branch, top, btm, r))
    _launch(
        decide, samples, (labels, scores, voted, np.int64(samples), names, branch, r, np.float64(sigma), label, rule)
    )
    return label, rule, branch, top, btm, r


def _cupy() -> Any:
    try:
        import cupy
    except ImportError:
        raise ImportError("arrays on a GPU need CuPy: pip install 'gdui[cuda12]' (or cuda13)") from None
    return cupy


@cache
def _kernels(real: str) -> tuple[Any, Any]:
    text = (Path(_core.__file__).parent / "decide.cuh").read_text()
    names = [
        f"{kernel}<{ {'float32': 'float', 'float64': 'double'}[real] }>" for kernel in ("gdui_judge", "gdui_refine")
    ]
    module = _cupy().RawModule(code=text, options=("--std=c++17", "--fmad=false"), name_expressions=names)
    return module.get_function(names[0]), module.get_function(names[1])


def _launch(kernel: Any, items: int, arguments: tuple[Any, ...]) -> None:
    if items:
        kernel((-(-items // BLOCK),), (BLOCK,), arguments)


def _order(cp: Any, labels: Any, key: Any) -> Any:
    """The samples by cluster, then by key, then by index."""
    columns = [cp.arange(len(labels)), key, labels]
    return cp.lexsort(cp.stack([column.astype(np.float64) for column in columns])).astype(np.int64)


def _whole(cp: Any, name: str, value: Any, upper: int) -> Any:
    checks.ranged_numbers(name, value, 0, upper)
    return cp.ascontiguousarray(value, dtype=np.int32)


def _real(cp: Any, name: str, value: Any) -> Any:
    checks.finite_numbers(name, value)
    return cp.ascontiguousarray(value, dtype=np.float64 if value.dtype == np.float64 else np.float32)
