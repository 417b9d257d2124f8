"""Triton kernels, each with the plain PyTorch meaning of it in `reference`. Reached through `gdui.ops`."""
