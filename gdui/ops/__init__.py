"""The one door to the kernels: each op checks its arguments, then runs Triton, else "native", else the reference.

"native" is C++ or, for info_nce, PyTorch's products on blocks of the queue. The argument `backend` or the
environment variable GDUI_BACKEND forces a choice; one that can't run raises.
"""

from gdui.ops.cluster import cluster_loss
from gdui.ops.contrast import info_nce
from gdui.ops.guidance import guided_step
from gdui.ops.noising import noise_images
from gdui.ops.norm import group_norm_silu
from gdui.ops.objective import denoising_loss

__all__ = ["cluster_loss", "denoising_loss", "group_norm_silu", "guided_step", "info_nce", "noise_images"]
