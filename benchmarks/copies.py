"""The limit of whatever moves data: a copy of as many numbers as it must read and write."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor


def copy_of(values: int, device: str, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """A copy that reads and writes `values` numbers in all."""
    source, target = torch.zeros(2, values // 2, device=device, dtype=dtype)
    return partial(target.copy_, source)
