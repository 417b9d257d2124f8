"""The one door to the kernels: each op checks its arguments, then runs Triton, else C++, else the reference.

The argument `backend` or the environment variable GDUI_BACKEND forces a choice; one that can't run raises.
"""

from gdui.ops.noising import noise_images

__all__ = ["noise_images"]
