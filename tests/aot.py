"""Compiles a Triton kernel ahead of time, for a GPU that need not be there, and reads what came of it."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

ARCHITECTURES = (80, 90)
Types = str | tuple[str, ...]


@dataclass(frozen=True)
class Compiled:
    """A kernel's resources for each thread (registers, spilled bytes) and block (shared bytes), and its PTX."""

    registers: int
    spilled: int
    shared: int
    ptx: str

    def accesses(self, instruction: str) -> Counter[int]:
        """How many loads ("ld") or stores ("st") of global memory there are of each number of bytes.

        Copies to shared memory that a loop makes ahead are loads too.
        """
        found = re.findall(rf"\b{instruction}\.global(?:\.\w+)*?(?:\.v(\d))?\.[bfus](\d+)", self.ptx)
        ahead = re.findall(r"\bcp\.async\.c[ag]\.shared\.global [^;]*?\], (0x\w+)", self.ptx)
        copied = Counter(int(count, 16) for count in ahead if instruction == "ld")
        return copied + Counter(int(lanes or 1) * int(bits) // 8 for lanes, bits in found)


def compile_ahead(
    kernel: Any, arguments: dict[str, Types], constants: dict[str, Any], architecture: int, warps: int = 4
) -> Compiled:
    """Compiles `kernel` as a launch would.

    Args:
        arguments: the type of each argument in order, such as "*bf16", "i32", "fp32", a tuple of them for a tuple;
            pointers count as aligned to 16 bytes, an integer divides by 16 if written "i32:16", and is one if "1".
        constants: the values of the compile-time arguments.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}

    def typed(kind: str, path: tuple[int, ...]) -> str:
        if kind == "1":
            values[path] = 1
            return "constexpr"
        if kind.startswith("*") or kind.endswith(":16"):
            attributes[path] = [["tt.divisibility", 16]]
        return kind.removesuffix(":16")

    for name, kind in arguments.items():
        place = kernel.arg_names.index(name)
        if isinstance(kind, tuple):
            signature[name] = tuple(typed(part, (place, i)) for i, part in enumerate(kind))
        else:
            signature[name] = typed(kind, (place,))
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    source = ASTSource(kernel, ordered, values, attributes)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, spilled = resources(built.asm["cubin"])
    return Compiled(registers, spilled, built.metadata.shared, built.asm["ptx"])


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory for each thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said.stdout))
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])
