"""Checks of what users hand in: each raises a ValueError or TypeError that says what came and what is wanted."""

import difflib
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "array",
    "class_names",
    "columns",
    "descriptions",
    "did_you_mean",
    "finite_numbers",
    "flag",
    "in_range",
    "indices",
    "number",
    "on_cpu",
    "on_gpu",
    "one_of",
    "ranged_numbers",
    "same_length",
    "setting_instead",
    "thread_count",
    "typed",
    "utf8",
    "whole",
]

MOST_CLUSTERS = 1 << 24
MOST_THREADS = 1 << 16
CUDA = {2, 13}  # DLPack's numbers for its memory: a device's own, and managed
BEYOND_INT64 = 1 << 63
ALIKE = 0.65  # of difflib's ratio
KINDS = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    types.NoneType: "None",
}
EXACT = 1 << 53  # float64 holds every whole number up to here


def on_cpu(name: str, value: npt.ArrayLike, ndim: int) -> npt.NDArray[Any]:
    """`value` as an array in this machine's byte order; `ndim` is what the refusal of uneven lists speaks of."""
    if on_gpu(value):
        raise TypeError(f"{name} is on a GPU: copy it to the CPU first")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill it or drop what is masked first")
    try:
        out = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of {_axes(ndim)}: {error}") from None
    except (TypeError, RuntimeError) as error:  # PyTorch's: a type that NumPy lacks, a tensor that requires grad
        raise TypeError(f"{name} can't be read as an array: {error}") from None
    return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))


def array(
    name: str,
    value: npt.ArrayLike,
    ndim: int,
    *,
    finite: bool = True,
    length: int | None = None,
    read: Callable[[str, Any, int], npt.NDArray[Any]] = on_cpu,
) -> npt.NDArray[np.floating]:
    """`value` as a real array of `ndim` axes in float16, float32 or float64; a copy only where the type must change."""
    out = read(name, value, ndim)
    if out.dtype.kind in "biu":
        out = _as_floats(name, out)
    if out.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} must be real numbers (float16, float32 or float64), not {out.dtype}")
    if out.ndim != ndim:
        raise ValueError(f"{name} must have {_axes(ndim)}, not {out.ndim} (its shape is {out.shape})")
    if length is not None and len(out) != length:
        raise ValueError(f"{name} must have {length} rows, not {len(out)}")
    if finite:
        finite_numbers(name, out)
    return out


def finite_numbers(name: str, value: npt.NDArray[np.floating]) -> None:
    """Refuses an array, on any device, that holds NaN or infinity."""
    if value.size and not (math.isfinite(value.min()) and math.isfinite(value.max())):
        raise ValueError(f"{name} holds NaN or infinity; only finite numbers can be ranked")


def columns(name: str, value: npt.NDArray[np.generic], wanted: int, why: str) -> None:
    """Refuses `value` [n, d] unless d is `wanted`; `why` ends the sentence."""
    if value.ndim != 2 or value.shape[1] != wanted:
        raise ValueError(f"{name} must be [n, {wanted}], {why}, not {list(value.shape)}")


def indices(
    name: str,
    value: npt.ArrayLike,
    upper: int | None = None,
    *,
    length: int | None = None,
    ndim: int = 1,
    lowest: int = 0,
    ranged: bool = True,
    read: Callable[[str, Any, int], npt.NDArray[Any]] = on_cpu,
) -> npt.NDArray[np.integer]:
    """`value` as integers in [lowest, upper), one axis of them; without `ranged` who reads them looks at the range."""
    out = read(name, value, ndim)
    if out.size == 0 and out.dtype.kind == "f":
        out = out.astype(np.int64)
    if out.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {out.dtype}")
    if out.ndim != ndim:
        raise ValueError(f"{name} must have {_axes(ndim)}, not {out.ndim} (its shape is {out.shape})")
    if length is not None and len(out) != length:
        raise ValueError(f"{name} must have {length} entries, not {len(out)}")
    if ranged:
        ranged_numbers(name, out, lowest, upper)
    return out


def ranged_numbers(name: str, value: npt.NDArray[np.integer], lowest: int, upper: int | None) -> None:
    """Refuses an array, on any device, of whole numbers that aren't all in [lowest, upper)."""
    if value.size and int(value.min()) < lowest:
        raise ValueError(f"{name} must be at least {lowest}, but holds {int(value.min())}")
    if value.size and upper is not None and int(value.max()) >= upper:
        raise ValueError(f"{name} must be below {upper}, but holds {int(value.max())}")


def on_gpu(value: Any) -> bool:
    """Whether `value` is an array in a CUDA device's memory."""
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in CUDA


def _as_floats(name: str, whole_numbers: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    """The same numbers as floats, or a refusal where a float would be another number."""
    out: npt.NDArray[np.floating] = whole_numbers.astype(
        np.float32 if whole_numbers.dtype.itemsize <= 2 else np.float64
    )
    if out.dtype == np.float64 and out.size and max(-int(whole_numbers.min()), int(whole_numbers.max())) > EXACT:
        with np.errstate(invalid="ignore"):
            changed = out.astype(whole_numbers.dtype) != whole_numbers
        if changed.any():
            raise ValueError(f"{name} holds {whole_numbers[changed][0]}, which float64 cannot tell from its neighbours")
    return out


def _axes(ndim: int) -> str:
    return "1 axis" if ndim == 1 else f"{ndim} axes"


def whole(name: str, value: int, lowest: int, highest: int | None = None) -> int:
    """`value` as a whole number of at least `lowest` and at most `highest`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < lowest or (highest is not None and value > highest):
        wanted = f"at least {lowest}" if highest is None or value < lowest else f"at most {highest}"
        raise ValueError(f"{name} must be {wanted}, not {value}")
    return int(value)


def in_range(name: str, value: float, low: float, high: float) -> float:
    """`value` as a float in [low, high]."""
    out = number(name, value)
    if not low <= out <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {value}")
    return out


def number(name: str, value: float) -> float:
    """`value` as a float."""
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        bits = int(value).bit_length()
        raise ValueError(f"{name} must be a number that a float holds, not one of {bits} bits") from None


def flag(name: str, value: bool) -> bool:
    """`value` as True or False, which nothing else stands for."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def class_names(value: Iterable[str], *, least: int = 2) -> list[str]:
    """`value` as a list of at least `least` distinct names, none of them blank."""
    names, seen = list(value), set[str]()
    if isinstance(value, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes must be a list of names, not {value!r}")
    if len(names) < least:
        raise ValueError(f"classes must name at least {least} classes, not {len(names)}")
    for at, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"classes must not be blank, but number {at} is")
        if name in seen:
            raise ValueError(f"classes must differ, but {name!r} stands there more than once")
        seen.add(name)
    return names


def descriptions(value: Any) -> dict[str, tuple[str, ...]]:
    """The texts of those classes that have some, where `value` maps names to texts; one text may stand alone."""
    if not isinstance(value, Mapping):
        return {}
    found = {name: texts if isinstance(texts, (list, tuple)) else (texts,) for name, texts in value.items()}
    for name, texts in found.items():
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise TypeError(f"the descriptions of class {name!r} must be texts, none of them blank, not {texts!r}")
    return {name: tuple(texts) for name, texts in found.items() if texts}


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        meant = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{meant}")
    return value


def did_you_mean(given: str, known: Iterable[str], prefix: str = "") -> str:
    """How a refusal of `given` ends where one of the `known` names, all of which bear a `prefix`, is much like it."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.casefold(), folded, 1, ALIKE)
    return f"; did you mean {prefix + folded[close[0]]!r}?" if close else ""


def setting_instead(name: str, known: Sequence[str], listed: str) -> str:
    """How a refusal ends of the dotted name of a setting that there is not; `listed` says where all of them are."""
    stage, _, inner = name.partition(".")
    within = [one.partition(".")[2] for one in known if one.startswith(f"{stage}.")]
    if within:
        return did_you_mean(inner, within, f"{stage}.") or f"; {stage} has {', '.join(within)}"
    fields = [one.partition(".")[2] for one in known]
    if name not in fields and (meant := did_you_mean(name, known)):
        return meant
    close = difflib.get_close_matches(name, fields, 1, ALIKE)
    alike = [one for one, field in zip(known, fields, strict=True) if field in close]
    return f"; there is {' and '.join(alike)}" if alike else f"; {listed} has the list"


def utf8(name: str, path: object) -> None:
    """Refuses a path that can't be written into a file of text."""
    given = str(path)
    if not given.isascii() and os.fsencode(given).decode("utf-8", "ignore") != given:
        raise ValueError(f"{name} must have a path in UTF-8, not {os.fsencode(given)!r}: rename it")


def typed(owner: type, field_name: str, name: str, value: Any) -> Any:
    """`value` as the field's type takes it: whole numbers pass for float ones, lists for tuples."""
    hint = typing.get_type_hints(owner)[field_name]
    allowed = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    kinds = [_kind(one) for one in allowed]
    if tuple in kinds and isinstance(value, list):
        value = tuple(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in kinds:
        wanted = " or ".join(KINDS.get(kind, kind.__name__) for kind in kinds)
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    return value


def _kind(hint: Any) -> Any:
    """The class of a type hint's values."""
    origin = typing.get_origin(hint) or hint
    return type(typing.get_args(hint)[0]) if origin is typing.Literal else origin


def same_length(**arrays: Sequence[object] | npt.NDArray[np.generic]) -> int:
    """The common length of the named arrays."""
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"these must be equally long: {listed}")
    return next(iter(lengths.values()))


def thread_count(threads: int | None = None) -> int:
    """How many threads to use: the argument, else GDUI_THREADS, else every core this process may use."""
    source = "threads"
    if threads is None:
        source = "the environment variable GDUI_THREADS"
        given = os.environ.get("GDUI_THREADS")
        if given is None:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not (given.isascii() and given.isdigit()):
            raise ValueError(f"{source} must be a whole number of at least 1, not {given!r}")
        threads = int(given)
    return whole(source, threads, 1, MOST_THREADS)
