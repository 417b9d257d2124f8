"""denoising_loss: published numbers, closed forms done another way, and one meaning on every backend."""

from typing import Any

import pytest
import torch
from backends import device_of, runnable
from diffusion_cases import SHAPES, backends_and_types, moved, steps_for, wave
from scipy import stats
from tolerance import assert_no_worse
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import Normal, kl_divergence

from gdui import ops
from gdui.diffusion.schedule import Schedule
from gdui.kernels import reference_diffusion as reference
from gdui.kernels.reference_diffusion import Denoising

BACKENDS = runnable(native=True)
SCHEDULE = Schedule.from_name("cosine", 1000, "50")
CASES = [
    ("simple", "eps", None), ("simple", "x0", "min_snr"), ("simple", "v", "p2"), ("hybrid", "eps", None),
    ("hybrid", "v", "min_snr"), ("rescaled_hybrid", "eps", "p2"),
    ("vlb", "eps", None), ("vlb", "x0", None), ("vlb", "v", None),
]  # fmt: skip
# What OpenAI's guided-diffusion gives for the inputs of `published`, a loss for each of four images.
PUBLISHED = {
    ("hybrid", "eps"): [3.344, 19.1645, 1.65307, 431096.0],
    ("hybrid", "x0"): [39.9587, 5364.55, 1.24658, 1.09199],
    ("rescaled_hybrid", "eps"): [1.5625, 2.37917, 1.51287, 21556.2],
    ("rescaled_hybrid", "x0"): [3.10353, 269.217, 1.14948, 1.09126],
    ("vlb", "eps"): [1.87526, 17.6688, 0.147583, 431094.0],
    ("vlb", "x0"): [38.7949, 5363.51, 0.102208, 0.000765003],
}


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction with a variance's values, clean images that reach the outermost levels, noise."""
    both = (shape[0], 2 * shape[1], *shape[2:])
    return wave(1.3, *both), (1.2 * wave(0.7, *shape)).clamp(-1, 1), 1.4 * wave(2.1, *shape)


@pytest.mark.parametrize(("kind", "target"), PUBLISHED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_are_the_published_ones(backend: str, kind: Any, target: Any) -> None:
    prediction, x0, noise = (moved(value, backend) for value in inputs((4, 3, 4, 4)))
    t = torch.tensor([0, 1, 25, 49], device=prediction.device)
    loss = ops.denoising_loss(prediction, x0, t, SCHEDULE, noise=noise, kind=kind, target=target, backend=backend)  # type: ignore[arg-type]
    torch.testing.assert_close(loss.cpu(), torch.tensor(PUBLISHED[kind, target]), rtol=2e-5, atol=0)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_the_bound_is_the_divergence_of_two_normal_distributions(target: Any) -> None:
    prediction, x0, noise = inputs((3, 3, 4, 5))
    t = torch.tensor([1, 20, 49])
    loss = ops.denoising_loss(prediction, x0, t, SCHEDULE, noise=noise, kind="vlb", target=target)
    alphas = 1 - torch.from_numpy(SCHEDULE.betas)
    signal = alphas.cumprod(0)
    for i, step in enumerate(t.tolist()):
        now, before, beta = signal[step], signal[step - 1], 1 - alphas[step]
        x_t = now.sqrt() * x0[i] + (1 - now).sqrt() * noise[i]
        said = prediction[i, :3]
        clean = {
            "eps": (x_t - (1 - now).sqrt() * said) / now.sqrt(),
            "x0": said,
            "v": now.sqrt() * x_t - (1 - now).sqrt() * said,
        }[target]
        # q(x' | x_t, x0) by the product of two Gaussians in x': precisions add.
        precision = alphas[step] / beta + 1 / (1 - before)

        def mean(image: Tensor) -> Tensor:
            return (alphas[step].sqrt() / beta * x_t + before.sqrt() / (1 - before) * image) / precision  # noqa: B023

        share = (prediction[i, 3:] + 1) / 2
        deviation = torch.exp(0.5 * (share * beta.log() - (1 - share) * precision.log()))
        divergence = kl_divergence(Normal(mean(x0[i]), precision**-0.5), Normal(mean(clean), deviation))
        torch.testing.assert_close(loss[i], divergence.mean() / torch.tensor(2.0).log())


def test_the_first_step_is_the_mass_of_a_level() -> None:
    """scipy's exact distribution, of which the formula's is an approximation to 3e-4."""
    x = torch.tensor([-1.0, -0.5, 0.0, 0.3, 1.0], dtype=torch.float64)[:, None]
    mean = x + torch.linspace(-0.02, 0.02, 9, dtype=torch.float64)
    log_variance = torch.full_like(mean, -9.0)
    deviation = torch.exp(0.5 * log_variance)
    upper = torch.where(x > 0.999, torch.inf, x + 1 / 255).expand_as(mean)
    lower = torch.where(x < -0.999, -torch.inf, x - 1 / 255).expand_as(mean)
    mass = stats.norm.cdf(upper, mean, deviation) - stats.norm.cdf(lower, mean, deviation)
    got = reference.discretised_log_likelihood(x.expand_as(mean), mean, log_variance).exp()
    torch.testing.assert_close(got, torch.from_numpy(mass), atol=6e-4, rtol=0)


def test_weights_are_those_of_their_papers() -> None:
    """min-SNR weighs an error of x0 by min(SNR, 5), P2 one of the noise by 1 / (1 + SNR); the targets' errors differ by
    factors of the SNR."""
    _, x0, noise = inputs((3, 3, 4, 5))
    t = torch.tensor([1, 20, 49])
    signal = torch.from_numpy((1 - SCHEDULE.betas).cumprod())[t]
    snr = signal / (1 - signal)
    a, s = (value.sqrt().view(-1, 1, 1, 1) for value in (signal, 1 - signal))
    x_t, off = a * x0 + s * noise, 0.1 * wave(3.3, *x0.shape)
    said = {"x0": x0 + off, "eps": (x_t - a * (x0 + off)) / s}
    said["v"] = a * said["eps"] - s * said["x0"]
    squared = (off**2).flatten(1).mean(1)
    for target, prediction in said.items():
        for weighting, weight in {"min_snr": snr.clamp(max=5), "p2": snr / (1 + snr)}.items():
            options: dict[str, Any] = {"target": target, "weighting": weighting}
            loss = ops.denoising_loss(prediction, x0, t, SCHEDULE, noise=noise, **options)
            torch.testing.assert_close(loss, weight * squared)


@pytest.mark.parametrize(("kind", "target", "weighting"), CASES)
def test_the_gradient_is_the_loss_differentiated(kind: Any, target: Any, weighting: Any) -> None:
    prediction, x0, noise = inputs((3, 2, 3, 3))
    t, table = torch.tensor([0, 20, 49]), SCHEDULE.table(dtype=torch.float64)
    rest = (x0, t, table, noise, None, kind, target, weighting or "none")
    above = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    leaf = prediction.clone().requires_grad_()
    (expected,) = torch.autograd.grad(reference.denoising_loss(Denoising(leaf, *rest)), leaf, above)
    torch.testing.assert_close(reference.denoising_loss_backward(above, Denoising(prediction, *rest)), expected)


@pytest.mark.parametrize("kind", ["simple", "vlb"])
def test_the_gradient_is_that_of_finite_differences(kind: Any) -> None:
    prediction, x0, noise = inputs((2, 2, 3, 3))
    t = torch.tensor([0, 20])
    leaf = prediction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: ops.denoising_loss(p, x0, t, SCHEDULE, noise=noise, kind=kind, target="x0"), leaf
    )


def both(
    prediction: Tensor, x0: Tensor, t: Tensor, above: Tensor, backend: str, **options: Any
) -> tuple[Tensor, Tensor]:
    leaf = prediction.detach().requires_grad_()
    loss = ops.denoising_loss(leaf, x0, t, SCHEDULE, backend=backend, **options)  # type: ignore[arg-type]
    loss.backward(above.to(loss))
    assert leaf.grad is not None
    return loss.detach().cpu(), leaf.grad.cpu()


@pytest.mark.parametrize(("kind", "target", "weighting"), CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("backend", "dtype"), backends_and_types())
def test_backends_mean_the_same(
    backend: str, dtype: torch.dtype, shape: tuple[int, ...], kind: Any, target: Any, weighting: Any, poisoned: None
) -> None:
    """Values and gradients, the incoming gradient not one, no further from float64 than twice plain PyTorch."""
    rounded = [value.to(dtype) for value in inputs(shape)]
    t, above = steps_for(shape), torch.linspace(-1, 2, shape[0])
    options: dict[str, Any] = {"kind": kind, "target": target, "weighting": weighting}

    def run(backend: str, dtype: torch.dtype, channels_last: bool = False) -> tuple[Tensor, Tensor]:
        prediction, x0, noise = (moved(value, backend, dtype, channels_last) for value in rounded)
        where = (t.to(device_of(backend)), above)
        return both(prediction, x0, *where, backend, noise=noise, **options)

    truth, plain = (reference_of(rounded, t, above, options, kind_of) for kind_of in (torch.float64, dtype))
    for channels_last in (False, True):
        for ours, near, exact in zip(run(backend, dtype, channels_last), plain, truth, strict=True):
            for image in range(shape[0]):
                assert_no_worse(ours[image], near[image], exact[image])


def reference_of(
    rounded: list[Tensor], t: Tensor, above: Tensor, options: dict[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The reference's value and gradient on the CPU."""
    prediction, x0, noise = (value.to(dtype) for value in rounded)
    return both(prediction, x0, t, above, "reference", noise=noise, **options)


@pytest.mark.parametrize("kind", ["simple", "hybrid"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_stands_for_the_noise_of_noise_images(backend: str, kind: Any) -> None:
    prediction, x0, _ = (moved(value, backend) for value in inputs((3, 3, 7, 5)))
    device = x0.device
    t, seed = torch.tensor([0, 20, 49], device=device), torch.tensor([5, -6, 7], device=device)
    signal, spread = (SCHEDULE.table(device)[t, column].view(-1, 1, 1, 1) for column in (0, 1))
    x_t = ops.noise_images(x0, t, SCHEDULE, seed=seed, backend=backend)  # type: ignore[arg-type]
    noise = (x_t - signal * x0) / spread
    above = torch.ones(3)
    drawn = both(prediction, x0, t, above, backend, seed=seed, kind=kind)
    given = both(prediction, x0, t, above, backend, noise=noise, kind=kind)
    torch.testing.assert_close(drawn, given, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_seeds_may_have_any_strides(backend: str) -> None:
    prediction, x0, _ = (moved(value, backend) for value in inputs((3, 1, 7, 5)))
    t, above = torch.tensor([40, 1, 20, 1, 0]).to(x0.device), torch.ones(3)
    for steps, seed in ((t[::2], t[::2]), (t[:1].expand(3), t[1:2].expand(3))):
        strided = both(prediction, x0, steps, above, backend, seed=seed)
        dense = [torch.stack(list(value)) for value in (steps, seed)]
        for one, other in zip(strided, both(prediction, x0, dense[0], above, backend, seed=dense[1]), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["simple", "hybrid"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_way_back_can_be_gone_twice(backend: str, kind: Any) -> None:
    prediction, x0, noise = (moved(value, backend) for value in inputs((2, 2, 3, 3)))
    leaf, t = prediction.requires_grad_(), torch.tensor([0, 20], device=x0.device)
    loss = ops.denoising_loss(leaf, x0, t, SCHEDULE, noise=noise, kind=kind, backend=backend)  # type: ignore[arg-type]
    above = torch.tensor([3.0, -2.0], device=x0.device)
    (first,) = torch.autograd.grad(loss, leaf, above, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, leaf, 2 * above)
    torch.testing.assert_close(second, 2 * kept)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["x0", "noise"])
def test_a_gradient_that_is_not_made_is_not_lost(name: str, backend: str) -> None:
    prediction, x0, noise = (moved(value, backend) for value in inputs((2, 1, 3, 3)))
    images = {"x0": x0, "noise": noise}

    def loss() -> Tensor:
        t = torch.tensor([0, 20], device=x0.device)
        return ops.denoising_loss(prediction, t=t, schedule=SCHEDULE, backend=backend, **images)  # type: ignore[arg-type]

    with forward_ad.dual_level():
        plain, images[name] = images[name], forward_ad.make_dual(images[name], images[name])
        with pytest.raises(RuntimeError, match=r"denoising_loss has no forward-mode derivative \(jvp\)"):
            loss()
    images[name] = plain.requires_grad_()
    with pytest.raises(ValueError, match=f"{name} gets no gradient: detach it"):
        loss()
    with torch.no_grad():
        assert loss().isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_raises(backend: str) -> None:
    prediction, x0, noise = (moved(value, backend) for value in inputs((2, 1, 3, 3)))
    leaf, t = prediction.requires_grad_(), torch.tensor([0, 20], device=x0.device)
    loss = ops.denoising_loss(leaf, x0, t, SCHEDULE, noise=noise, kind="hybrid", backend=backend)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="denoising_loss has no second derivative"):
        (loss.sum() + gradient.square().sum()).backward()


def test_threads_change_nothing() -> None:
    prediction, x0, noise = (value.float() for value in inputs((16, 3, 41, 40)))
    t, threads = torch.arange(16), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(both(prediction, x0, t, torch.ones(16), "native", noise=noise, kind="hybrid"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_it_compiles_whole_and_is_registered_as_pytorch_wants() -> None:
    prediction, x0, _ = (value.float() for value in inputs((2, 3, 4, 4)))
    t, seed = torch.tensor([0, 40]), torch.tensor([1, 2])
    table = SCHEDULE.table("cpu")

    def loss(p: Tensor) -> Tensor:
        return ops.denoising_loss(p * 1.0, x0, t, SCHEDULE, seed=seed, kind="hybrid").sum()

    found = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = prediction.clone().requires_grad_()
        run(leaf).backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    arguments = (prediction.requires_grad_(), x0, t, table, None, seed, "hybrid", "eps", "none", "auto")
    torch.library.opcheck(torch.ops.gdui.denoising_loss.default, arguments)
    arguments = (torch.ones(2), prediction.detach(), *arguments[1:])
    torch.library.opcheck(torch.ops.gdui.denoising_loss_backward.default, arguments)


X0, T = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (3, {"kind": "hybrid"}, "prediction must be (2, 6, 4, 4) for this x0, not (2, 3, 4, 4)"),
        (4, {}, "prediction must be (2, 3, 4, 4) or (2, 6, 4, 4) for this x0, not (2, 4, 4, 4)"),
        (3, {"kind": "mse"}, "kind must be one of"),
        (3, {"target": "score"}, "target must be one of 'eps', 'x0', 'v', not 'score'"),
        (3, {"weighting": "snr"}, "weighting must be one of 'min_snr', 'p2', not 'snr'"),
        (6, {"kind": "vlb", "weighting": "p2"}, "weighting must be None for kind 'vlb'"),
    ],
)
def test_mistakes_are_named(channels: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        ops.denoising_loss(torch.zeros(2, channels, 4, 4), X0, T, SCHEDULE, noise=X0, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize("channel", [0, 1], ids=["mean", "variance"])
@pytest.mark.parametrize("kind", ["hybrid", "vlb"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_stays_seen(backend: str, kind: Any, channel: int) -> None:
    prediction, x0, noise = (moved(value, backend) for value in inputs((3, 1, 3, 3)))
    prediction[:2, channel, 1, 1] = torch.nan
    t = torch.tensor([0, 20, 0], device=x0.device)
    loss, gradient = both(prediction, x0, t, torch.ones(3), backend, noise=noise, kind=kind)
    assert loss.isnan().tolist() == [True, True, False]
    assert gradient.flatten(1).isnan().any(1).tolist() == [True, True, False]


@pytest.mark.parametrize(("kind", "target", "weighting"), CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_outside_the_schedule_gives_no_number(backend: str, kind: Any, target: Any, weighting: Any) -> None:
    """On a GPU, where nobody waits to look; on the CPU it raises before a kernel is reached."""
    prediction, x0, noise = (moved(value, backend) for value in inputs((3, 1, 9)))
    t = torch.tensor([-1, 50, 49], device=x0.device)
    if device_of(backend) == "cpu":
        with pytest.raises(ValueError, match="t must be in"):
            both(prediction, x0, t, torch.ones(3), backend, noise=noise, kind=kind, target=target, weighting=weighting)
    if backend == "triton":
        from gdui.kernels import objective

        given = Denoising(prediction, x0, t, SCHEDULE.table(x0.device), noise, None, kind, target, weighting or "none")
        gradient = torch.empty_like(prediction)
        objective.denoising_loss_backward(torch.ones(3, device=x0.device), given, gradient)
        assert objective.denoising_loss(given).isnan().tolist() == [True, True, False]
        assert gradient[:, 0].isnan().all(1).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wanted", [False, True], ids=["value", "gradient"])
def test_steps_outside_the_schedule_are_named(dtype: torch.dtype, wanted: bool) -> None:
    prediction = torch.zeros(2, 3, 4, 4, dtype=dtype, requires_grad=wanted)
    for t, held in ((T - 1, -1), (T + 49, 50)):
        with pytest.raises(ValueError, match=rf"t must be in \[0, 50\), but holds {held}"):
            ops.denoising_loss(prediction, X0.to(dtype), t, SCHEDULE, noise=X0.to(dtype))


def test_wrong_kinds_of_arguments_are_named() -> None:
    wrong: Any
    for wrong, message in (
        ({"prediction": X0.numpy()}, "prediction must be a floating-point tensor, not ndarray"),
        ({"t": 3}, "t must be an int64 tensor with one entry for each image, not int"),
        ({"noise": None, "seed": 5}, "seed must be an int64 tensor with one entry for each image, not int"),
    ):
        with pytest.raises(TypeError, match=message):
            ops.denoising_loss(**({"prediction": X0, "x0": X0, "t": T, "schedule": SCHEDULE, "noise": X0} | wrong))
