"""The kernels of the losses and the norm, compiled for GPUs that need not be here: nothing spills, loads are wide.

The bounds on registers are what was measured and a sixth more, so that a kernel that grows is seen.
"""

import pytest
import torch
from aot import ARCHITECTURES, Compiled, compile_ahead

pytest.importorskip("triton")

from gdui.kernels import cluster, contrast, norm

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLOATS = "*fp32"
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# 252 were measured of the 255 there are: what bounds that kernel is that nothing spills. From 129 on no number lets a
# second block of its 256 threads onto a multiprocessor, so a smaller tile would gain nothing and read the queue twice.
INFO_NCE = {("fp32", 128): 255, ("fp32", 512): 124, ("half", 128): 196, ("half", 512): 150}


def assert_fits(built: Compiled, registers: int, shared: int, *, read: float, written: float) -> None:
    """Nothing spills, and so many accesses of each thread are of 16 bytes: all of the large operands'."""
    assert built.spilled == 0
    assert built.registers <= registers
    assert built.shared <= shared
    assert built.accesses("ld")[16] >= read
    assert built.accesses("st")[16] >= written


def vectors(numbers: int, kind: str, warps: int) -> float:
    """Accesses of 16 bytes that each thread makes for so many numbers."""
    return numbers * BYTES[kind] / (warps * 32 * 16)


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_info_nce(architecture: int, kind: str, width: int) -> None:
    tile = contrast.tile_of(width, TYPES[kind])
    warps = tile.pop("num_warps")
    sizes = {"rows": "i32:16", "entries": "i32:16", "width": "i32:16", "inverse_temperature": "fp32", "span": "i32:16"}
    pointers = {"q_ptr": f"*{kind}", "queue_ptr": f"*{kind}", "log_sum_ptr": FLOATS, "centre_ptr": FLOATS}
    constants = tile | {"BLOCK_D": width, "OPERAND": contrast.operand_of(TYPES[kind])}
    built = compile_ahead(contrast._info_nce_partial, pointers | sizes, constants, architecture, warps=warps)
    registers = INFO_NCE["fp32" if kind == "fp32" else "half", width]
    read = vectors((tile["BLOCK_B"] + tile["BLOCK_Q"]) * width, kind, warps)
    written = vectors(tile["BLOCK_B"] * width, "fp32", warps)
    assert_fits(built, registers, shared=100 * 1024, read=read, written=written)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_info_nce_combine(architecture: int) -> None:
    names = ("log_sum_ptr", "centre_ptr", "loss_ptr", "pull_ptr", "rest_ptr")
    arguments = {"q_ptr": "*bf16", "k_ptr": "*bf16"} | dict.fromkeys(names, FLOATS)
    arguments |= {"rows": "i32:16", "width": "i32:16", "splits": "i32:16", "inverse_temperature": "fp32"}
    constants = {"BLOCK_S": contrast.SPLITS, "BLOCK_D": 512}
    built = compile_ahead(contrast._info_nce_combine, arguments, constants, architecture, warps=8)
    read = vectors(contrast.SPLITS * 512, "fp32", warps=8)
    assert_fits(built, registers=114, shared=8 * 1024, read=read, written=0)


@pytest.mark.parametrize("clusters", [16, 16384])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_double_softmax(architecture: int, kind: str, clusters: int) -> None:
    _, blocks = cluster.tiles(50_000, clusters)
    warps = blocks.pop("num_warps")
    read = {"logits_ptr": f"*{kind}", "target_ptr": "*i64"}
    sizes = {"rows": "i32:16", "K": "i32:16"}
    forward = read | {"loss_ptr": FLOATS} | sizes
    backward = read | {"dloss_ptr": FLOATS, "dlogits_ptr": f"*{kind}"} | sizes
    for kernel, arguments, registers in (
        (cluster._double_softmax_forward, forward, 88),
        (cluster._double_softmax_backward, backward, 150),
    ):
        built = compile_ahead(kernel, arguments, blocks, architecture, warps=warps)
        tile = vectors(blocks["BLOCK_R"] * blocks["BLOCK_K"], kind, warps)
        assert_fits(built, registers, shared=4 * 1024, read=tile, written=tile if "dlogits_ptr" in arguments else 0)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (512, 1), (4096, 1)])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_group_norm(architecture: int, kind: str, channels: int, groups: int) -> None:
    _, blocks = norm.tiles(torch.Size((32, 1024, channels)), groups)
    warps = blocks.pop("num_warps")
    constants = blocks | {"SILU": True}
    affine = dict.fromkeys(("gain_ptr", "offset_ptr"), FLOATS)
    saved = dict.fromkeys(("mean_ptr", "rstd_ptr"), FLOATS)
    sizes = {"pixels": "i32:16", "channels": "i32:16"}
    forward = {"x_ptr": f"*{kind}"} | affine | {"y_ptr": f"*{kind}"} | saved | sizes | {"eps": "fp32"}
    backward = dict.fromkeys(("x_ptr", "dy_ptr"), f"*{kind}") | affine | saved | {"dx_ptr": f"*{kind}"}
    backward |= dict.fromkeys(("dgain_ptr", "doffset_ptr"), FLOATS) | sizes
    tile = vectors(blocks["BLOCK_P"] * blocks["BLOCK_C"], kind, warps)
    for kernel, arguments, registers, passes in (
        (norm._group_norm_forward, forward, 85, 2),
        (norm._group_norm_backward, backward, 120 if channels <= 512 else 204, 4),  # of two operands each
    ):
        built = compile_ahead(kernel, arguments, constants, architecture, warps=warps)
        assert_fits(built, registers, shared=16 * 1024, read=passes * tile, written=tile)
