"""The diffusion kernels, compiled for GPUs that need not be here: nothing spills, and 16 bytes are read at once.

The bounds on registers are what was measured and a sixth more, so that a kernel that grows is seen.
"""

from typing import Any

import pytest
from aot import ARCHITECTURES, compile_ahead

pytest.importorskip("triton")

from gdui.kernels import guidance, noising, objective

FLAT = ("i32:16", "i32:16", "1")
LAST = ("i32:16", "1", "i32")
SIZES = {"count": "i32:16", "positions": "i32:16"}
STEPS = {"t": "*i64", "table": "*fp32", "steps": "i32"}
TYPES = ["fp32", "bf16", "fp16"]
SHARED = 8 * 1024  # bytes for each 1024 numbers of a block

layouts = pytest.mark.parametrize("flat", [True, False], ids=["contiguous", "channels_last"])


def check(
    kernel: Any,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    architecture: int,
    registers: int,
    *,
    read: int,
    written: int,
    warps: int = 4,
) -> None:
    """Nothing spills; with FLAT all elements of so many images read and written go by 16 bytes at a time."""
    constants = {"BLOCK": 1024} | constants
    built = compile_ahead(kernel, arguments, constants, architecture, warps)
    assert built.spilled == 0
    assert built.registers <= registers
    assert built.shared <= SHARED * constants["BLOCK"] // 1024
    if constants["FLAT"]:
        size = {"*fp32": 4, "*bf16": 2, "*fp16": 2}[arguments.get("x0", arguments.get("x"))]
        vectors = constants["BLOCK"] * size // (warps * 32 * 16)
        assert built.accesses("ld")[16] >= read * vectors
        assert built.accesses("st")[16] >= written * vectors


def images(names: list[str], kind: str, flat: bool) -> dict[str, Any]:
    """The arguments for image tensors and their strides."""
    strides = FLAT if flat else LAST
    return {key: value for name in names for key, value in ((name, f"*{kind}"), (f"{name}_strides", strides))}


@layouts
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_noise_images(architecture: int, kind: str, flat: bool) -> None:
    arguments = images(["x0"], kind, flat) | {"noise": "*i64", "noise_strides": ("1",)}
    arguments |= images(["out"], kind, flat) | STEPS | SIZES
    check(noising.noise_images_kernel, arguments, {"DRAWN": True, "FLAT": flat}, architecture, 64, read=1, written=1)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
@layouts
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_denoising_loss(architecture: int, kind: str, flat: bool, loss: str, backward: bool) -> None:
    arguments = images(["predicted", "values", "x0"], kind, flat) | {"noise": "*i64", "noise_strides": ("1",)} | STEPS
    if backward:
        arguments |= {"dloss": "*fp32", "dloss_strides": ("1",)} | images(["dpredicted", "dvalues"], kind, flat)
    else:
        arguments |= {"sums": "*fp32"}
    arguments |= {"bound_scale": "fp32"} | SIZES
    constants = {"KIND": loss, "TARGET": "eps", "WEIGHTING": "min_snr" if loss != "vlb" else "none"}
    kernel = objective.denoising_loss_backward_kernel if backward else objective.denoising_loss_kernel
    constants |= {"DRAWN": True, "FLAT": flat} | ({"LEARNED": True} if backward else {})
    read, written = 1 if loss == "simple" else 2, 2 * backward
    registers = (72 if backward else 56) if flat else (103 if backward else 75)
    check(kernel, arguments, constants, architecture, registers, read=read, written=written)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_denoising_loss_of_a_single_number(backward: bool) -> None:
    """Images of one element and a schedule of one step: Triton makes arguments that are 1 into constants."""
    arguments = images(["predicted", "values", "x0", "noise"], "fp32", True)
    arguments |= {"t": "*i64", "table": "*fp32", "steps": "1"}
    back = {"dloss": "*fp32", "dloss_strides": ("1",)} | images(["dpredicted", "dvalues"], "fp32", True)
    arguments |= back if backward else {"sums": "*fp32"}
    arguments |= {"bound_scale": "fp32", "count": "1", "positions": "1"}
    constants = {"KIND": "hybrid", "TARGET": "v", "WEIGHTING": "p2", "DRAWN": False, "FLAT": True, "BLOCK": 1024}
    constants |= {"LEARNED": True} if backward else {}
    kernel = objective.denoising_loss_backward_kernel if backward else objective.denoising_loss_kernel
    assert compile_ahead(kernel, arguments, constants, ARCHITECTURES[0]).spilled == 0


def step_arguments(kind: str, flat: bool) -> dict[str, Any]:
    arguments = images(["x", "predicted", "weak", "values", "gradient"], kind, flat)
    arguments |= {"noise": "*i64", "noise_strides": ("1",)} | images(["out"], kind, flat) | STEPS
    arguments |= {"limits": "*fp32", "rank": "i32", "scale": "fp32", "eta": "fp32", "guidance": "fp32"}
    return arguments | SIZES


@pytest.mark.parametrize(("method", "limit"), [("ancestral", "one"), ("ancestral", "found"), ("ddim", "given")])
@layouts
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_guided_step(architecture: int, kind: str, flat: bool, method: str, limit: str) -> None:
    constants = {"METHOD": method, "VARIANCE": "learned_range", "TARGET": "eps", "NOISE_KIND": "drawn", "LIMIT": limit}
    constants |= {"PUSHED": True, "MIXED": True, "FLAT": flat}
    constants["BLOCK"] = guidance.HELD[flat] if limit == "found" else 1024
    warps = 4 * constants["BLOCK"] // 1024 * (1 if flat or limit == "found" else guidance.STRIDED)
    read = 5 if method == "ancestral" else 4  # DDIM has no use for the variance's values
    arguments, registers = step_arguments(kind, flat), 64 if flat else 110
    check(guidance.guided_step_kernel, arguments, constants, architecture, registers, read=read, written=1, warps=warps)


@layouts
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_limits(architecture: int, kind: str, flat: bool) -> None:
    arguments = images(["x", "predicted", "weak"], kind, flat) | STEPS
    arguments |= {"limits": "*fp32", "rank": "i32", "guidance": "fp32"} | SIZES
    constants = {"TARGET": "eps", "MIXED": True, "FLAT": flat, "BLOCK": guidance.SEARCHED}
    warps = 16 * (1 if flat else guidance.STRIDED)
    check(guidance.limits_kernel, arguments, constants, architecture, 64, read=3, written=0, warps=warps)


def test_the_smallest_quantile_of_a_single_number() -> None:
    """Ranks, counts and steps of one are constants to Triton."""
    ones = {"steps": "1", "rank": "1", "count": "1", "positions": "1"}
    constants = {"TARGET": "v", "MIXED": False, "FLAT": True, "BLOCK": 1024}
    searched = images(["x", "predicted", "weak"], "fp32", True) | STEPS | {"limits": "*fp32", "guidance": "fp32"} | ones
    assert compile_ahead(guidance.limits_kernel, searched, constants, ARCHITECTURES[0]).spilled == 0
    constants |= {"METHOD": "ddim", "VARIANCE": "fixed_small", "NOISE_KIND": "none", "LIMIT": "found", "PUSHED": False}
    stepped = step_arguments("fp32", True) | ones
    assert compile_ahead(guidance.guided_step_kernel, stepped, constants, ARCHITECTURES[0]).spilled == 0
