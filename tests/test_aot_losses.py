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
INFO_NCE = {("fp32", 128): 255, ("fp32", 512): 124, ("half", 128): 196, ("half", 512): 150}  # 255 are all there are


def assert_fits(built: Compiled, registers: int, shared: int) -> None:
    assert built.spilled == 0
    assert built.registers <= registers
    assert built.shared <= shared
    assert max(built.accesses("ld")) >= 16


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
    assert_fits(built, registers=INFO_NCE["fp32" if kind == "fp32" else "half", width], shared=100 * 1024)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_info_nce_combine(architecture: int) -> None:
    names = ("log_sum_ptr", "centre_ptr", "loss_ptr", "pull_ptr", "rest_ptr")
    arguments = {"q_ptr": "*bf16", "k_ptr": "*bf16"} | dict.fromkeys(names, FLOATS)
    arguments |= {"rows": "i32:16", "width": "i32:16", "splits": "i32:16", "inverse_temperature": "fp32"}
    constants = {"BLOCK_S": contrast.SPLITS, "BLOCK_D": 512}
    built = compile_ahead(contrast._info_nce_combine, arguments, constants, architecture, warps=8)
    assert_fits(built, registers=114, shared=8 * 1024)


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
        assert_fits(built, registers, shared=4 * 1024)


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
    for kernel, arguments, registers in (
        (norm._group_norm_forward, forward, 85),
        (norm._group_norm_backward, backward, 120 if channels <= 512 else 204),
    ):
        built = compile_ahead(kernel, arguments, constants, architecture, warps=warps)
        assert_fits(built, registers, shared=16 * 1024)
