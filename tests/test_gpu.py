"""What only a GPU can show: steps recorded as a CUDA graph, copies and waits counted by the driver, offsets beyond 2³¹.

The ops' own tests compare the kernels' values with the reference wherever there is a GPU.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusion_cases import wave
from torch import Tensor
from weights import fill

from gdui import ops
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.generator import Generator
from gdui.diffusion.sample import Method, Sampler
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.unet import UNet, preset

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use")

SCHEDULE = Schedule.from_name("cosine", 50)
STEPS: list[dict[str, Any]] = [
    {},
    {"method": "ddim", "eta": 0.5},
    {"clip": 0.995},
    {"unconditional": True, "guidance": 2.0},
]
SIDES = [16, 96]  # dynamic thresholding in one pass, and in two


def batch(side: int) -> dict[str, Tensor]:
    made = {"x": wave(0.7, 4, 3, side, side), "gradient": wave(0.9, 4, 3, side, side)}
    made["prediction"] = wave(1.3, 4, 6, side, side)
    on_gpu = {name: value.float().cuda() for name, value in made.items()}
    return on_gpu | {"t": torch.tensor([0, 1, 25, 49]).cuda(), "seed": torch.tensor([1, -2, 3, 2**40]).cuda()}


def step(data: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    weak = {"unconditional": data["gradient"]} if options.get("unconditional") else {}
    rest = {"gradient": data["gradient"], "seed": data["seed"]}
    return ops.guided_step(data["x"], data["prediction"], data["t"], SCHEDULE, **(options | rest | weak))


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """PyTorch raises where the host waits for the GPU."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", STEPS, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_a_recorded_step_follows_new_images_steps_and_seeds(side: int, options: dict[str, Any]) -> None:
    data = batch(side)
    step(data, options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(data, options)
    for change in range(3):
        data["x"].add_(0.1)
        data["t"].copy_((data["t"] + 7) % 50)
        data["seed"].add_(change)
        graph.replay()
        assert torch.equal(out, step(data, options))
        on_cpu = step({name: value.cpu() for name, value in data.items()}, options)
        torch.testing.assert_close(out.cpu(), on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", STEPS, ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.usefixtures("no_waiting")
def test_a_step_copies_nothing_and_waits_for_nothing(side: int, options: dict[str, Any]) -> None:
    data = batch(side)
    step(data, options)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(data, options)
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    assert not [name for name in names if "Memcpy" in name or "Memset" in name]
    kernels = [name for name in names if name.endswith("_kernel")]
    both = ["limits_kernel", "guided_step_kernel"]
    assert kernels == (both if side == 96 and "clip" in options else both[1:])


@pytest.mark.usefixtures("no_waiting")
def test_a_training_step_waits_for_nothing() -> None:
    data = batch(16)
    prediction = data["prediction"].requires_grad_()
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        x = ops.noise_images(data["x"], data["t"], SCHEDULE, seed=data["seed"])
        loss = ops.denoising_loss(prediction, x, data["t"], SCHEDULE, seed=data["seed"], kind="hybrid")
        loss.mean().backward()
        rows = data["x"].flatten(1)
        ops.info_nce(rows, rows, rows, 0.2)
        ops.cluster_loss(rows.view(4, 16, 48), torch.zeros(4, 16, dtype=torch.int64, device=rows.device))
        ops.group_norm_silu(data["prediction"], 3, *torch.ones(2, 6, device=rows.device))


def drawing_generator() -> Generator:
    unet = UNet(preset("tiny", width=32, classes=3), null_class=True)
    classifier = Classifier(ClassifierConfig(8, 32, 1, (1, 2), attention_at=(4,), classes=3, head_width=32))
    for network in (unet, classifier):
        fill(network)
    return Generator(unet.eval(), ("a", "b", "c"), timesteps=50, classifier=classifier.eval()).to("cuda")


def test_a_recorded_network_draws_what_the_plain_one_does() -> None:
    model, how = drawing_generator(), {"n": 4, "steps": 6, "guide": {"classifier": 1.0, "free": 0.5}, "guidance": 2.0}
    plain = model.sample(["a", "b"], **how).astype(int)
    for _ in range(2):
        recorded = model.sample(["a", "b"], compile=True, **how)
        assert np.abs(recorded - plain).mean() < 2


@pytest.mark.parametrize("method", ["dpm", "heun", "ddim", "ancestral"])
@pytest.mark.usefixtures("no_waiting")
def test_the_sampling_loop_copies_nothing_to_the_gpu(method: Method) -> None:
    model = drawing_generator()
    sampler = Sampler(model.unet, SCHEDULE, null_class=3, guides={"free": 1.0}, method=method, steps=5)
    given = [torch.zeros(4, dtype=torch.int64).cuda(), torch.arange(4).cuda(), torch.ones(4).cuda()]
    list(sampler.states((3, 8, 8), *given))
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.cuda.set_sync_debug_mode("error")
        for _ in sampler.states((3, 8, 8), *given):
            pass
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    assert not [event.name for event in profile.events() if "HtoD" in event.name or "DtoH" in event.name]


def test_elements_beyond_the_reach_of_32_bits() -> None:
    """Two images of 2³⁰ + 64 numbers of two bytes: the second one's end lies at 2³¹ and more."""
    count, images = 2**30 + 64, 2
    if torch.cuda.mem_get_info()[0] < 4 * images * 2 * count:
        pytest.skip("needs 18 GB of free GPU memory")
    x0 = torch.zeros(images, 1, count, dtype=torch.bfloat16, device="cuda")
    t, seed = torch.tensor([20, 20]).cuda(), torch.tensor([5, 5]).cuda()
    out = ops.noise_images(x0, t, SCHEDULE, seed=seed)
    assert torch.equal(out[0], out[1])
    assert out[1, 0, -64:].std() > 0.1
    assert ops.guided_step(x0, out, t, SCHEDULE, seed=seed, variance="fixed_small")[1, 0, -64:].isfinite().all()
