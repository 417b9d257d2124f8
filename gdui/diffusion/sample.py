"""Draws images: a network, a guide and a seed for each image in, images out. The loop never waits for the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks, ops
from gdui.diffusion.classifier import guidance_gradient
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.solvers import Instant, dpm_solver, heun, instants
from gdui.training.precision import autocast

__all__ = ["Guide", "Method", "Sampler", "image_seeds"]

Method = Literal["dpm", "heun", "ddim", "ancestral"]
Network = Callable[..., Tensor]
Guide = Literal["classifier", "free", "auto"]


def image_seeds(seed: int, classes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """A seed for each image, from `seed`, its class and how many of it came before: order changes none."""
    places = np.zeros(len(classes), np.int64)
    for name in np.unique(classes):
        places[classes == name] = np.arange(np.count_nonzero(classes == name))
    pairs = zip(classes.tolist(), places.tolist(), strict=True)
    words = [np.random.SeedSequence([seed, label + 1, place]).generate_state(1, np.uint64)[0] for label, place in pairs]
    return (np.array(words, np.uint64) >> np.uint64(1)).astype(np.int64)


@dataclass(frozen=True)
class Sampler:
    """How images are drawn from a network.

    schedule: as trained for the solvers "dpm" and "heun", which take `steps` moments of it; respaced for "ddim" and
        "ancestral", which take every step it has.
    guide: what steers: the gradient of a noisy classifier, the network without its class, or a weaker network.
    scale: how much of it; 0 for none. For "free" and "auto" the prediction is other + (1 + scale)(prediction - other).
    eta: DDIM's share of fresh noise.
    conditional: whether the network takes classes; the classifier does in any case.
    """

    network: Network
    schedule: Schedule
    classifier: Network | None = None
    weaker: Network | None = None
    null_class: int | None = None
    guide: Guide | None = None
    scale: float = 0.0
    method: Method = "dpm"
    steps: int = 50
    eta: float = 0.0
    conditional: bool = True
    learned_variance: bool = True
    target: Literal["eps", "x0", "v"] = "eps"

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, get_args(Method))
        needs = {"classifier": self.classifier, "free": self.null_class, "auto": self.weaker}
        if self.guide and needs[self.guide] is None:
            wanted = {
                "classifier": "a classifier",
                "free": "a network trained with forgotten classes",
                "auto": "a weaker network",
            }
            raise ValueError(f"guide {self.guide!r} needs {wanted[self.guide]}, and there is none")

    def states(self, shape: tuple[int, ...], classes: Tensor | None, seeds: Tensor) -> Iterator[Tensor]:
        """Every state of a batch [B, *shape] on the way from noise to images in [-1, 1]."""
        with torch.no_grad():
            last = torch.full_like(seeds, len(self.schedule) - 1)
            black = torch.zeros(len(seeds), *shape, device=seeds.device).to(memory_format=torch.channels_last)
            x = ops.noise_images(black, last, self.schedule, seed=seeds)
            if self.method in ("dpm", "heun"):
                solver = dpm_solver if self.method == "dpm" else heun
                way = instants(self.schedule, self.steps)
                yield from solver(lambda state, at: self._clean(state, at, classes), x, way)
            else:
                yield from self._stepwise(x, classes, seeds)

    def _stepwise(self, x: Tensor, classes: Tensor | None, seeds: Tensor) -> Iterator[Tensor]:
        steps = torch.arange(len(self.schedule), device=x.device)[:, None].expand(-1, len(x)).contiguous()
        for t in reversed(steps.unbind()):
            prediction, other, gradient = self._predict(x, self.schedule.timesteps(t), classes)
            x = ops.guided_step(
                x,
                prediction,
                t,
                self.schedule,
                gradient=gradient,
                scale=self.scale,
                seed=seeds,
                method="ddim" if self.method == "ddim" else "ancestral",
                eta=self.eta,
                variance="learned_range" if self.learned_variance else "fixed_small",
                target=self.target,
                unconditional=other,
                guidance=1 + self.scale,
            )
            yield x

    def _clean(self, x: Tensor, at: Instant, classes: Tensor | None) -> Tensor:
        """The clean image that the guided prediction means, within [-1, 1]."""
        t = torch.full((len(x),), at.timestep, device=x.device)
        prediction, other, gradient = self._predict(x, t, classes)
        channels = x.shape[1]
        mean = prediction[:, :channels]
        if other is not None:
            mean = other[:, :channels] + (1 + self.scale) * (mean - other[:, :channels])
        noise = self._noise(mean, x, at)
        if gradient is not None:
            noise = noise - at.sigma * self.scale * gradient
        return ((x - at.sigma * noise) / at.alpha).clamp(-1, 1)

    def _noise(self, prediction: Tensor, x: Tensor, at: Instant) -> Tensor:
        if self.target == "eps":
            return prediction
        if self.target == "v":
            return at.alpha * prediction + at.sigma * x
        return (x - at.alpha * prediction) / at.sigma

    def _predict(self, x: Tensor, t: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The prediction, the one to move away from, and the classifier's gradient; None where not asked for."""
        named = () if classes is None or not self.conditional else (classes,)
        with autocast(x.device.type):
            prediction = self.network(x, t, *named).float()
            if not self.guide or not self.scale:
                return prediction, None, None
            if self.guide == "auto":
                return prediction, cast(Network, self.weaker)(x, t, *named).float(), None
            if self.guide == "free":
                nobody = torch.full_like(t, cast(int, self.null_class), dtype=torch.long)
                return prediction, self.network(x, t, nobody).float(), None
            return prediction, None, guidance_gradient(cast(Network, self.classifier), x, t, cast(Tensor, classes))
