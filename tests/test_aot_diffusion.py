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


def check(kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], architecture: int, registers: int) -> None:
    built = compile_ahead(kernel, arguments, constants | {"BLOCK": 1024}, architecture)
    assert built.spilled == 0
    assert built.registers <= registers
    assert built.shared <= 8 * 1024
    if constants["FLAT"]:
        assert built.widest_load() == 16


def images(names: list[str], kind: str, flat: bool) -> dict[str, Any]:
    """The arguments for image tensors and their strides."""
    strides = FLAT if flat else LAST
    return {key: value for name in names for key, value in ((name, f"*{kind}"), (f"{name}_strides", strides))}


@pytest.mark.parametrize("flat", [True, False], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_noise_images(architecture: int, kind: str, flat: bool) -> None:
    arguments = images(["x0"], kind, flat) | {"noise": "*i64", "noise_strides": ("1",)}
    arguments |= images(["out"], kind, flat) | STEPS | SIZES
    check(noising.noise_images_kernel, arguments, {"DRAWN": True, "FLAT": flat}, architecture, registers=64)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
@pytest.mark.parametrize("kind", TYPES[:2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_denoising_loss(architecture: int, kind: str, loss: str, backward: bool) -> None:
    arguments = images(["predicted", "values", "x0"], kind, True) | {"noise": "*i64", "noise_strides": ("1",)} | STEPS
    if backward:
        arguments |= {"dloss": "*fp32"} | images(["dpredicted", "dvalues"], kind, True)
    else:
        arguments |= {"sums": "*fp32"}
    arguments |= {"bound_scale": "fp32"} | SIZES
    constants = {"KIND": loss, "TARGET": "eps", "WEIGHTING": "min_snr" if loss != "vlb" else "none"}
    kernel = objective.denoising_loss_backward_kernel if backward else objective.denoising_loss_kernel
    check(kernel, arguments, constants | {"DRAWN": True, "FLAT": True}, architecture, registers=72 if backward else 56)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_denoising_loss_of_a_single_number(backward: bool) -> None:
    """Images of one element and a schedule of one step: Triton makes arguments that are 1 into constants."""
    arguments = images(["predicted", "values", "x0", "noise"], "fp32", True)
    arguments |= {"t": "*i64", "table": "*fp32", "steps": "1"}
    arguments |= {"dloss": "*fp32"} | images(["dpredicted", "dvalues"], "fp32", True) if backward else {"sums": "*fp32"}
    arguments |= {"bound_scale": "fp32", "count": "1", "positions": "1"}
    constants = {"KIND": "hybrid", "TARGET": "v", "WEIGHTING": "p2", "DRAWN": False, "FLAT": True, "BLOCK": 1024}
    kernel = objective.denoising_loss_backward_kernel if backward else objective.denoising_loss_kernel
    assert compile_ahead(kernel, arguments, constants, ARCHITECTURES[0]).spilled == 0


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize("kind", TYPES[:2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_guided_step(architecture: int, kind: str, method: str) -> None:
    arguments = images(["x", "predicted", "values", "gradient"], kind, True) | {
        "noise": "*i64",
        "noise_strides": ("1",),
    }
    arguments |= images(["weak", "out"], kind, True) | STEPS | {"limit": "*fp32"}
    arguments |= {"scale": "fp32", "eta": "fp32", "guidance": "fp32"} | SIZES
    constants = {"METHOD": method, "VARIANCE": "learned_range", "TARGET": "eps", "NOISE_KIND": "drawn"}
    constants |= {"PUSHED": True, "MIXED": True, "LIMITED": True, "FLAT": True}
    check(guidance.guided_step_kernel, arguments, constants, architecture, registers=64)
