"""Which backends of an op can be tested here, and on which device each runs."""

import torch

from gdui.ops.dispatch import interpreting


def runnable(*, native: bool = False) -> list[str]:
    """The backends to test: all that run here; under Triton's interpreter that one alone."""
    if interpreting():
        return ["triton"]
    return ["reference", *["native"] * native, *["triton"] * torch.cuda.is_available()]


def device_of(backend: str) -> str:
    """Where the backend's tensors lie."""
    return "cuda" if backend == "triton" and not interpreting() else "cpu"
