"""The compiled core. Arrays may have any strides; see csrc/ for what each function means."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

def stable_match(
    priority: Reals, class_priority: Reals | None, tie_break: Sequence[Reals], seats: Labels, threads: int
) -> npt.NDArray[np.int64]: ...
def certify(
    priority: Reals,
    class_priority: Reals | None,
    tie_break: Sequence[Reals],
    seats: Labels,
    class_of_cluster: Labels,
    threads: int,
) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64], int]: ...
def range_of(values: Labels, threads: int) -> tuple[int, int]: ...
def select(
    cluster: Labels, confidence: Reals, wanted: Labels, most: bool, threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
def vote_shares(
    votes: Labels, cluster: Labels, classes: int, clusters: int, threads: int
) -> npt.NDArray[np.float64]: ...
def consistency(neighbors: Labels, cluster: Labels, clusters: int, threads: int) -> npt.NDArray[np.float64]: ...

class Policy:
    n: int
    weight_top: float
    weight_btm: float
    lambda_delta: float
    lambda_top: float
    lambda_btm: float
    relabel_no_vote: bool
    def __init__(
        self,
        n: int,
        weight_top: float,
        weight_btm: float,
        lambda_delta: float,
        lambda_top: float,
        lambda_btm: float,
        relabel_no_vote: bool,
    ) -> None: ...

def refine(
    cluster: Labels,
    confidence: Reals,
    rank_by: Reals,
    opinion: Labels,
    name: Labels,
    classes: int,
    policy: Policy,
    sigma: float,
    threads: int,
) -> tuple[
    npt.NDArray[np.int32],
    npt.NDArray[np.uint8],
    npt.NDArray[np.uint8],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
]: ...
def sweep(
    cluster: Labels,
    confidence: Reals,
    rank_by: Reals,
    opinion: Labels,
    name: Labels,
    classes: int,
    policy: Policy,
    sigma: npt.NDArray[np.float64],
    threads: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
def unit_rows(
    block: npt.NDArray[np.float32] | npt.NDArray[np.float64], first: int, unit: npt.NDArray[np.float32]
) -> None: ...
def nearest(
    rows: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    *,
    k: int,
    leave_self_out: bool,
    threads: int,
    instructions: str = "amx",
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
def rank(
    rows: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    indices: npt.NDArray[np.int32],
    *,
    threads: int,
) -> npt.NDArray[np.float32]: ...
def radii(
    rows: npt.NDArray[np.float32], *, k: int, threads: int, instructions: str = "amx"
) -> npt.NDArray[np.float64]: ...
def inside(
    points: npt.NDArray[np.float32],
    rows: npt.NDArray[np.float32],
    squares: npt.NDArray[np.float64],
    *,
    threads: int,
    instructions: str = "amx",
) -> npt.NDArray[np.bool_]: ...

# Called with their arguments packed, from gdui/ops alone; csrc/bindings names them.
def noise_images(*arguments: Any) -> None: ...
def denoising_loss(*arguments: Any) -> None: ...
def guided_step(*arguments: Any) -> None: ...
def first_not_finite(rows: Reals, threads: int) -> int: ...
def centred_rows(
    rows: Reals,
    center: npt.NDArray[np.float32],
    unit: npt.NDArray[np.float32],
    plain: npt.NDArray[np.float32] | None,
    threads: int,
) -> int: ...
def project(
    rows: Reals,
    center: npt.NDArray[np.float32],
    centred: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    plain: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    threads: int,
) -> int: ...
def choose(
    scores: npt.NDArray[np.float32],
    scale: float,
    first: npt.NDArray[np.int32],
    second: npt.NDArray[np.int32],
    most: npt.NDArray[np.float32],
    share: npt.NDArray[np.float32],
    lead: npt.NDArray[np.float32],
    softmax: npt.NDArray[np.float32] | None,
    threads: int,
) -> None: ...
def double_softmax_loss(*arguments: Any) -> None: ...
def double_softmax_loss_backward(*arguments: Any) -> None: ...
def group_norm(*arguments: Any) -> None: ...
def group_norm_backward(*arguments: Any) -> None: ...
def first_means(
    rows: npt.NDArray[np.float32], draws: npt.NDArray[np.float64], threads: int, instructions: str = "amx"
) -> npt.NDArray[np.int64]: ...
def cluster_sums(
    rows: npt.NDArray[np.float32], cluster: npt.NDArray[np.int32], k: int, threads: int
) -> npt.NDArray[np.float64]: ...
def walk(
    start: npt.NDArray[np.int64],
    column: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float32],
    field: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
    move: float,
    keep: float,
    to: npt.NDArray[np.float32],
    threads: int,
) -> None: ...
