"""A UNet that begins where another one ended: everything is taken over, and of the classes those of the same name."""

import torch

from gdui.diffusion.generator import Generator
from gdui.diffusion.plan import Plan
from gdui.diffusion.unet import UNet

__all__ = ["begin_at", "check_start"]

CLASSES = "label_emb.weight"


def check_start(start: Generator, plan: Plan) -> None:
    """Refuses a generator whose weights would mean something else in a network of this plan."""
    for name, ours, theirs in (
        ("schedule", plan.schedule, start.schedule),
        ("timesteps", plan.timesteps, start.timesteps),
        ("recipe.target", plan.recipe.target, start.target),
    ):
        if ours != theirs:
            raise ValueError(f"setting {name} must be {theirs!r}, as in the generator to start from, not {ours!r}")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in UNet(plan.network).state_dict().items() if name != CLASSES}
    given = {name: value.shape for name, value in start.unet.state_dict().items() if name != CLASSES}
    if differing := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
        raise ValueError(
            f"start must be a generator of the same sizes; {len(differing)} tensors differ: {differing[0]}"
        )


@torch.no_grad()
def begin_at(network: UNet, names: tuple[str, ...], start: Generator) -> None:
    """Gives `network`, which is to draw `names`, the weights of `start`; a new class begins between the known ones."""
    own, given = network.state_dict(), start.unet.state_dict()
    for name in own.keys() - {CLASSES}:
        own[name].copy_(given[name])
    if CLASSES not in own or CLASSES not in given:
        return
    known, middle = dict(zip(start.names, given[CLASSES], strict=False)), given[CLASSES].mean(dim=0)
    for row, name in enumerate(names):
        own[CLASSES][row].copy_(known.get(name, middle))
    if network.null_class:
        own[CLASSES][-1].copy_(given[CLASSES][-1] if start.unet.null_class else middle)
