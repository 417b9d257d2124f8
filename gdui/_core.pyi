import numpy as np
import numpy.typing as npt

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
    portable: bool,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
def rank(
    rows: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    indices: npt.NDArray[np.int32],
    *,
    threads: int,
) -> npt.NDArray[np.float32]: ...
