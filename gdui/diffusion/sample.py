"""Draws images: a network, guides and a seed for each image in, images out. The loop never waits for the device."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui import checks, ops
from gdui.diffusion.classifier import guidance_gradient
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.solvers import Instant, dpm_solver, heun, instants

__all__ = ["GradAt", "Guide", "Method", "Sampler", "image_seeds"]

Method = Literal["dpm", "heun", "ddim", "ancestral"]
Network = Callable[..., Tensor]
Guide = Literal["classifier", "free", "auto"]
GradAt = Literal["x", "mean"]


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
    guides: what steers, and its share of each image's scale: the gradient of a noisy classifier, the network without
        its class ("free"), or a weaker network ("auto"). The last two move the prediction by their share times
        (prediction - other).
    grad_at: where the classifier's gradient is taken: at x_t, or for "ancestral" also at the mean of the next state.
    eta: share of fresh noise, of "dpm" and "ddim".
    conditional: whether the network takes classes; the classifier does in any case.
    bounded: whether clean images lie within [-1, 1]; latents needn't.
    """

    network: Network
    schedule: Schedule
    classifier: Network | None = None
    weaker: Network | None = None
    null_class: int | None = None
    guides: Mapping[Guide, float] = field(default_factory=dict)
    method: Method = "dpm"
    steps: int = 50
    eta: float = 0.0
    grad_at: GradAt = "x"
    conditional: bool = True
    learned_variance: bool = True
    target: Literal["eps", "x0", "v"] = "eps"
    bounded: bool = True

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, get_args(Method))
        checks.one_of("grad_at", self.grad_at, get_args(GradAt))
        if self.grad_at == "mean" and self.method != "ancestral":
            raise ValueError(f"grad_at 'mean' is for method 'ancestral', whose steps have a mean, not {self.method!r}")
        needs = {
            "classifier": (self.classifier, "a classifier"),
            "free": (self.null_class, "a network trained with forgotten classes"),
            "auto": (self.weaker, "a weaker network"),
        }
        for guide in self.guides:
            had, wanted = needs[checks.one_of("guide", guide, get_args(Guide))]
            if had is None:
                raise ValueError(f"guide {guide!r} needs {wanted}, and there is none")

    def states(
        self, shape: tuple[int, ...], classes: Tensor | None, seeds: Tensor, scales: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Every state of a batch [B, *shape] on the way from noise to images in [-1, 1].

        Args:
            scales: how hard each image [B] is steered; None for not at all.
        """
        with torch.no_grad():
            last = torch.full_like(seeds, len(self.schedule) - 1)
            black = torch.zeros(len(seeds), *shape, device=seeds.device).to(memory_format=torch.channels_last)

            def noise(number: int) -> Tensor:
                return ops.noise_images(black, last, self.schedule, seed=seeds + number)

            x = noise(0)
            pull = None if scales is None else scales[:, None, None, None]
            if self.method in ("dpm", "heun"):
                solver = (
                    partial(dpm_solver, noise=lambda step: noise(step + 1), eta=self.eta)
                    if self.method == "dpm"
                    else heun
                )
                way = instants(self.schedule, self.steps)
                yield from solver(lambda state, at: self._clean(state, at, classes, pull), x, way)
            else:
                yield from self._stepwise(x, classes, seeds, pull)

    def _stepwise(self, x: Tensor, classes: Tensor | None, seeds: Tensor, pull: Tensor | None) -> Iterator[Tensor]:
        steps = torch.arange(len(self.schedule), device=x.device)[:, None].expand(-1, len(x)).contiguous()
        still = torch.zeros_like(x)
        for t in reversed(steps.unbind()):
            told = self.schedule.timesteps(t)
            prediction = self._predict(x, told, classes, pull)
            at = x
            if self.grad_at == "mean":
                at = self._next(x, prediction, t, noise=still)
            x = self._next(x, prediction, t, seed=seeds, gradient=self._gradient(at, told, classes, pull))
            yield x

    def _next(
        self,
        x: Tensor,
        prediction: Tensor,
        t: Tensor,
        *,
        noise: Tensor | None = None,
        seed: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Tensor:
        return ops.guided_step(
            x,
            prediction,
            t,
            self.schedule,
            gradient=gradient,
            noise=noise,
            seed=seed,
            method="ddim" if self.method == "ddim" else "ancestral",
            eta=self.eta,
            variance="learned_range" if self.learned_variance else "fixed_small",
            clip=self.bounded,
            target=self.target,
        )

    def _clean(self, x: Tensor, at: Instant, classes: Tensor | None, pull: Tensor | None) -> Tensor:
        """The clean image that the guided prediction means."""
        t = torch.full((len(x),), at.timestep, device=x.device)
        noise = self._noise(self._predict(x, t, classes, pull)[:, : x.shape[1]], x, at)
        gradient = self._gradient(x, t, classes, pull)
        if gradient is not None:
            noise = noise - at.sigma * gradient
        clean = (x - at.sigma * noise) / at.alpha
        return clean.clamp(-1, 1) if self.bounded else clean

    def _noise(self, prediction: Tensor, x: Tensor, at: Instant) -> Tensor:
        if self.target == "eps":
            return prediction
        if self.target == "v":
            return at.alpha * prediction + at.sigma * x
        return (x - at.alpha * prediction) / at.sigma

    def _predict(self, x: Tensor, t: Tensor, classes: Tensor | None, pull: Tensor | None) -> Tensor:
        """The prediction, moved away from the other predictions."""
        named = () if classes is None or not self.conditional else (classes,)
        prediction = self.network(x, t, *named).float()
        others: list[tuple[float, Tensor]] = []
        if pull is not None and "free" in self.guides:
            nobody = torch.full_like(t, cast(int, self.null_class), dtype=torch.long)
            others.append((self.guides["free"], self.network(x, t, nobody).float()))
        if pull is not None and "auto" in self.guides:
            others.append((self.guides["auto"], cast(Network, self.weaker)(x, t, *named).float()))
        if pull is None or not others:
            return prediction
        channels = x.shape[1]
        mean = prediction[:, :channels]
        moved = sum((share * pull * (mean - other[:, :channels]) for share, other in others), start=mean)
        return torch.cat([moved, prediction[:, channels:]], dim=1)

    def _gradient(self, x: Tensor, t: Tensor, classes: Tensor | None, pull: Tensor | None) -> Tensor | None:
        """The classifier's gradient at each image's scale; None where no classifier steers."""
        if pull is None or "classifier" not in self.guides:
            return None
        gradient = guidance_gradient(cast(Network, self.classifier), x, t, cast(Tensor, classes))
        return self.guides["classifier"] * pull * gradient
