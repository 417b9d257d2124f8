"""guided_step: published numbers, the distributions it stands for, and one meaning on every backend."""

import math
from typing import Any

import pytest
import torch
from backends import device_of, runnable
from diffusion_cases import SHAPES, backends_and_types, moved, steps_for, wave
from tolerance import assert_no_worse
from torch import Tensor

from gdui import ops
from gdui.diffusion.schedule import Schedule

BACKENDS = runnable(native=True)
SCHEDULE = Schedule.from_name("cosine", 1000, "50")
# What OpenAI's guided-diffusion gives at [:, 1, 2, 3] for the inputs of `inputs`.
ANCESTRAL = {
    "learned_range": [0.824566, 0.29035, -0.936079, -0.610066],
    "fixed_small": [0.824563, 0.287378, -0.936017, -0.60941],
    "fixed_large": [0.824566, 0.316013, -0.936135, -0.610091],
}
DDIM = [0.824566, 0.27989, -0.991587, -478.42]
CASES: list[dict[str, Any]] = [
    {},
    {"variance": "fixed_small", "target": "v", "clip": False},
    {"variance": "fixed_large", "target": "x0", "unconditional": True, "guidance": 2.5},
    {"gradient": True, "scale": 3.0, "clip": 0.9},
    {"method": "ddim"},
    {"method": "ddim", "eta": 0.7, "gradient": True, "scale": 2.0, "target": "v"},
    {"method": "ddim", "eta": 1.0, "unconditional": True, "guidance": 1.5, "clip": 0.5},
]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, prediction with a variance's values, a classifier's gradient, noise."""
    both = (shape[0], 2 * shape[1], *shape[2:])
    return (1.2 * wave(0.7, *shape)).clamp(-1, 1), wave(1.3, *both), wave(0.9, *shape), 1.4 * wave(2.1, *shape)


@pytest.mark.parametrize("variance", ANCESTRAL)
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_the_published_ones(backend: Any, variance: Any) -> None:
    x, prediction, gradient, noise = (moved(value, backend) for value in inputs((4, 3, 4, 4)))
    t = torch.tensor([0, 1, 25, 49], device=x.device)
    options: dict[str, Any] = {"gradient": gradient, "noise": noise, "backend": backend}
    seen = prediction if variance == "learned_range" else prediction[:, :3]
    out = ops.guided_step(x, seen, t, SCHEDULE, variance=variance, **options)
    torch.testing.assert_close(out[:, 1, 2, 3].cpu(), torch.tensor(ANCESTRAL[variance]), rtol=2e-5, atol=2e-6)
    out = ops.guided_step(x, seen, t, SCHEDULE, method="ddim", eta=0.5, **options)
    torch.testing.assert_close(out[:, 1, 2, 3].cpu(), torch.tensor(DDIM), rtol=2e-5, atol=2e-6)


def test_a_perfect_prediction_steps_to_the_posterior() -> None:
    """With x0 known, an ancestral step draws from q(x' | x, x0), and DDIM keeps the noise that was added."""
    x0, t = torch.full((2, 1, 200, 200), 0.25, dtype=torch.float64), torch.tensor([10, 40])
    signal = torch.from_numpy((1 - SCHEDULE.betas).cumprod())
    noise, seed = wave(2.1, *x0.shape), torch.tensor([1, 2])
    x = ops.noise_images(x0, t, SCHEDULE, noise=noise)
    out = ops.guided_step(x, x0, t, SCHEDULE, seed=seed, variance="fixed_small", target="x0")
    now, before, beta = signal[t], signal[t - 1], torch.from_numpy(SCHEDULE.betas)[t]
    precision = (1 - beta) / beta + 1 / (1 - before)
    for i in range(2):
        mean = ((1 - beta[i]).sqrt() / beta[i] * x[i] + before[i].sqrt() / (1 - before[i]) * x0[i]) / precision[i]
        drawn = (out[i] - mean) * precision[i].sqrt()
        assert abs(drawn.mean()) < 5 / 200
        assert abs(drawn.var() - 1) < 5 * 2**0.5 / 200
    ddim = ops.guided_step(x, noise, t, SCHEDULE, method="ddim", clip=False)
    torch.testing.assert_close(ddim, ops.noise_images(x0, t - 1, SCHEDULE, noise=noise))
    assert (now < before).all()


def test_guidance_moves_away_from_the_weaker_prediction() -> None:
    x, prediction, _, noise = inputs((4, 3, 4, 4))
    weak, t = wave(0.4, 4, 6, 4, 4), torch.tensor([3, 10, 20, 40])
    mixed = prediction.clone()
    mixed[:, :3] = weak[:, :3] + 3.0 * (prediction[:, :3] - weak[:, :3])
    by_op = ops.guided_step(x, prediction, t, SCHEDULE, noise=noise, unconditional=weak, guidance=3.0)
    torch.testing.assert_close(by_op, ops.guided_step(x, mixed, t, SCHEDULE, noise=noise))


def thresholded(said: Tensor, backend: str, clip: float) -> Tensor:
    """What becomes of the x0 that was said, [B, 1, ...]: DDIM's last step gives it as it is."""
    t = torch.zeros(len(said), dtype=torch.int64, device=said.device)
    return ops.guided_step(torch.zeros_like(said), said, t, SCHEDULE, method="ddim", target="x0", clip=clip,
                           backend=backend)  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("clip", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("side", [10, 97])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dynamic_thresholding_scales_by_a_quantile(backend: str, side: int, clip: float) -> None:
    """Every quantile is the sorted image's own number, bit by bit: large and small ones, equal ones, none above one."""
    count = side * side
    wide = 10.0 ** torch.linspace(-30, 30, count) * torch.tensor([1, -1]).repeat(count)[:count]
    images = [torch.linspace(-4, 4, count), torch.linspace(-0.5, 0.5, count), torch.full((count,), -3.0), wide]
    said = torch.stack([image[torch.randperm(count)] for image in images]).view(4, 1, side, side)
    out = thresholded(said.to(device_of(backend)), backend, clip).cpu()
    rank = max(1, math.ceil(clip * count))
    limit = said.abs().flatten(1).sort(1).values[:, rank - 1].clamp(min=1).view(4, 1, 1, 1)
    torch.testing.assert_close(out, said.clamp(-limit, limit) / limit, rtol=3e-7, atol=1e-38)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_counts_as_the_largest(backend: str) -> None:
    said = torch.arange(1.0, 101).view(1, 1, 10, 10)
    said[0, 0, 9] = torch.nan
    said = said.to(device_of(backend))
    assert thresholded(said, backend, 0.9)[0, 0, 8, 9] == 1
    assert thresholded(said, backend, 0.91).isnan().all()


def test_the_first_step_adds_no_noise() -> None:
    x, prediction, _, noise = inputs((2, 3, 4, 4))
    t = torch.zeros(2, dtype=torch.int64)
    for method in ("ancestral", "ddim"):
        options: dict[str, Any] = {"method": method, "eta": 1.0 * (method == "ddim")}
        one = ops.guided_step(x, prediction, t, SCHEDULE, noise=noise, **options)
        assert torch.equal(one, ops.guided_step(x, prediction, t, SCHEDULE, seed=t, **options))


@pytest.mark.parametrize("respacing", ["2", "3", "4", "5"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_widest_strides_lose_nothing_to_rounding(backend: Any, respacing: str) -> None:
    """At η = 1 almost nothing is left of the old noise, and the difference of two shares would say nothing."""
    schedule = Schedule.from_name("cosine", 1000, respacing)
    t, (x, prediction, _, noise) = torch.arange(len(schedule)), inputs((len(schedule), 3, 4, 4))
    options: dict[str, Any] = {"method": "ddim", "eta": 1.0}
    truth = ops.guided_step(x, prediction, t, schedule, noise=noise, **options)
    seen, said, drawn = (moved(value, backend) for value in (x, prediction, noise))
    out = ops.guided_step(seen, said, t.to(seen.device), schedule, noise=drawn, backend=backend, **options)
    torch.testing.assert_close(out.cpu(), truth.float(), rtol=2e-6, atol=2e-6)


def step(case: dict[str, Any], values: list[Tensor], t: Tensor, backend: str, **noise: Tensor) -> Tensor:
    x, prediction, gradient = values[:3]
    tensors: dict[str, Any] = {}
    if case.get("gradient"):
        tensors["gradient"] = gradient
    if case.get("unconditional"):
        tensors["unconditional"] = gradient
    return ops.guided_step(x, prediction, t, SCHEDULE, **(case | tensors | noise), backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("backend", "dtype"), backends_and_types())
def test_backends_mean_the_same(
    backend: str, dtype: torch.dtype, shape: tuple[int, ...], case: dict[str, Any], poisoned: None
) -> None:
    rounded, t = [value.to(dtype) for value in inputs(shape)], steps_for(shape)
    truth, plain = (
        step(case, [value.to(kind) for value in rounded], t, "reference", noise=rounded[3].to(kind))
        for kind in (torch.float64, dtype)
    )
    for channels_last in (False, True):
        values = [moved(value, backend, dtype, channels_last) for value in rounded]
        out = step(case, values, t.to(device_of(backend)), backend, noise=values[3])
        for image in range(shape[0]):
            assert_no_worse(out[image].cpu(), plain[image], truth[image])


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_draw_the_same_noise(backend: str) -> None:
    values = [moved(value, backend) for value in inputs((3, 3, 7, 5))]
    t, seed = torch.tensor([1, 20, 49]), torch.tensor([5, -6, 2**50])
    out = step({}, values, t.to(values[0].device), backend, seed=seed.to(values[0].device))
    expected = step({}, [value.double() for value in inputs((3, 3, 7, 5))], t, "reference", seed=seed)
    torch.testing.assert_close(out.cpu(), expected.float(), rtol=1e-5, atol=1e-5)


def test_it_compiles_whole_and_is_registered_as_pytorch_wants() -> None:
    x, prediction, gradient, _ = (value.float() for value in inputs((2, 3, 4, 4)))
    t, seed, table = torch.tensor([0, 40]), torch.tensor([1, 2]), SCHEDULE.table("cpu")

    def run(x: Tensor) -> Tensor:
        return ops.guided_step(x, prediction, t, SCHEDULE, seed=seed, gradient=gradient)

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))
    arguments = (
        x, prediction, t, table, gradient, 1.0, None, seed, "ancestral", 0.0, "learned_range", "quantile", 0.9, "eps",
        None, 1.0, "auto",
    )  # fmt: skip
    torch.library.opcheck(torch.ops.gdui.guided_step.default, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_seeds_may_have_any_strides(backend: str) -> None:
    values = [moved(value, backend) for value in inputs((3, 1, 7, 5))]
    t = torch.tensor([40, 1, 20, 1, 0]).to(values[0].device)
    for steps, seed in ((t[::2], t[::2]), (t[:1].expand(3), t[1:2].expand(3))):
        dense = [torch.stack(list(value)) for value in (steps, seed)]
        out = step({}, values, steps, backend, seed=seed)
        assert torch.equal(out, step({}, values, dense[0], backend, seed=dense[1]))


@pytest.mark.parametrize("clip", [True, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_passes(backend: str, dtype: torch.dtype, clip: bool | float) -> None:
    if backend != "reference" and dtype == torch.float64:
        return
    values = [moved(value, backend, dtype).requires_grad_() for value in inputs((2, 1, 3, 3))]
    t = torch.tensor([3, 20], device=values[0].device)
    out = step({"clip": clip, "gradient": True}, values, t, backend, noise=values[3])
    assert not out.requires_grad


@pytest.mark.parametrize("clip", [True, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_steps_outside_the_schedule_are_named(dtype: torch.dtype, clip: bool | float) -> None:
    x, prediction, _, noise = (value.to(dtype) for value in inputs((2, 3, 4, 4)))
    for t, held in ((T - 1, -1), (T + 49, 50)):
        with pytest.raises(ValueError, match=rf"t must be in \[0, 50\), but holds {held}"):
            ops.guided_step(x, prediction, t, SCHEDULE, noise=noise, clip=clip)


def test_threads_change_nothing() -> None:
    values, t, threads = [value.float() for value in inputs((16, 3, 41, 40))], torch.arange(16), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(step({"gradient": True}, values, t, "native", seed=torch.arange(16)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


X, T = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (6, {}, "give either noise or seed, not neither"),
        (3, {"seed": T}, "prediction must be (2, 6, 4, 4) for this x, not (2, 3, 4, 4)"),
        (6, {"seed": T, "method": "euler"}, "method must be one of 'ancestral', 'ddim', not 'euler'"),
        (6, {"seed": T, "variance": "fixed"}, "variance must be one of"),
        (6, {"seed": T, "eta": 2.0}, "eta must be between 0.0 and 1.0, not 2.0"),
        (6, {"seed": T, "scale": float("nan")}, "scale must be between -inf and inf, not nan"),
        (6, {"seed": T, "clip": 1.5}, "clip must be between 0.0 and 1.0, not 1.5"),
        (6, {"seed": T, "gradient": X[:, :2]}, "gradient must have x's shape (2, 3, 4, 4), not (2, 2, 4, 4)"),
        (6, {"seed": T, "unconditional": X[:, :2]}, "unconditional must be (2, 3, 4, 4) or (2, 6, 4, 4) for this x"),
    ],
)
def test_mistakes_are_named(channels: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        ops.guided_step(X, torch.zeros(2, channels, 4, 4), T, SCHEDULE, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["scale", "guidance", "eta"])
@pytest.mark.parametrize("value", ["2", None, torch.ones(2)], ids=lambda value: type(value).__name__)
def test_a_scale_is_one_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number, not {type(value).__name__}"):
        ops.guided_step(X, X, T, SCHEDULE, method="ddim", **{name: value})
