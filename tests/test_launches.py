"""What the ops ask of a GPU, seen without one: on tensors that only say they are there, with launches written down.

Such tensors hold no numbers, so whatever would wait for one raises; and every operation of PyTorch is looked at, so a
tensor that is made on the host, to be copied or read, is found. What is left is what a CUDA graph can record.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gdui import ops
from gdui.diffusion.classifier import Classifier, ClassifierConfig
from gdui.diffusion.sample import Guide, Method, Sampler
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.unet import UNet, preset
from gdui.ops.cluster import double_softmax_loss_backward_op, double_softmax_loss_op
from gdui.ops.contrast import info_nce_op
from gdui.ops.norm import group_norm_backward_op, group_norm_op
from gdui.ops.objective import compute_gradient

triton = pytest.importorskip("triton")

GPU = torch.device("cuda", 0)
QUIET = {
    "device",
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "view",
    "slice",
    "unsqueeze",
    "detach",
    "alias",
    "select",
}


class Watch(TorchDispatchMode):
    """Notes the operations that calculate, and raises where one meets a tensor that is not on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calculated: list[str] = []
        self.launched: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, Tensor):
                assert value.device == GPU, f"{func} meets a tensor on {value.device}"
        name = func.overloadpacket.__name__
        if name not in QUIET:
            self.calculated.append(name)
        return out

    def launch(self, kernel: Any, *args: Any, grid: tuple[int, ...], **kwargs: Any) -> None:
        for value in tree_leaves((args, kwargs)):
            by_value = isinstance(value, int | float | str | None | triton.language.dtype)
            assert by_value or value.device == GPU, f"{kernel} is given {value}"
        assert all(isinstance(size, int) and size > 0 for size in grid)
        self.launched.append(kernel.fn.__name__.removeprefix("_"))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    seen = Watch()
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(
        triton.runtime.jit.JITFunction, "run", lambda kernel, *args, **kwargs: seen.launch(kernel, *args, **kwargs)
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield seen


@pytest.fixture
def schedule(watch: Watch) -> Schedule:
    """Its table is brought to the GPU here, once for all steps."""
    made = Schedule.from_name("cosine", 50)
    made.table(GPU)
    return made


def batch(side: int = 16, images: int = 4) -> dict[str, Tensor]:
    shape = (images, 3, side, side)
    made = {name: torch.empty(shape, device=GPU) for name in ("x", "gradient", "noise", "weak")}
    whole = {name: torch.empty(images, dtype=torch.int64, device=GPU) for name in ("t", "seed")}
    return made | whole | {"prediction": torch.empty(images, 6, side, side, device=GPU)}


@pytest.mark.parametrize("noise", ["noise", "seed"])
@pytest.mark.parametrize("method", ["ancestral", "ddim"])
@pytest.mark.parametrize(("side", "clip", "launches"), [(16, True, 1), (16, False, 1), (16, 0.995, 1), (96, 0.995, 2)])
def test_a_guided_step_is_one_launch(
    watch: Watch, schedule: Schedule, side: int, clip: bool | float, launches: int, method: Any, noise: str
) -> None:
    """Two, where dynamic thresholding meets images that don't fit into a block of threads."""
    data = batch(side)
    options: dict[str, Any] = {"unconditional": data["weak"], "guidance": 2.0, "gradient": data["gradient"]}
    options |= {noise: data[noise], "method": method, "eta": 0.5, "clip": clip}
    with watch:
        schedule.timesteps(data["t"])  # what the network is told belongs to the step too
        calculated = len(watch.calculated)
        out = ops.guided_step(data["x"], data["prediction"], data["t"], schedule, **options)
    assert out.device == GPU
    assert watch.launched == ["limits_kernel", "guided_step_kernel"][-launches:]
    assert len(watch.calculated) == calculated


def test_noising_is_one_launch(watch: Watch, schedule: Schedule) -> None:
    data = batch()
    with watch:
        ops.noise_images(data["x"], data["t"], schedule, seed=data["seed"])
    assert watch.launched == ["noise_images_kernel"]
    assert watch.calculated == []


@pytest.mark.parametrize("kind", ["simple", "hybrid", "vlb"])
def test_the_loss_saves_its_inputs_alone_and_its_gradient_is_one_launch(
    watch: Watch, schedule: Schedule, kind: Any
) -> None:
    data = batch()
    prediction = data["prediction"].requires_grad_()
    given = [prediction, data["x"], data["t"], schedule.table(GPU), data["seed"]]
    saved: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        saved.append(value)
        return value

    with watch, torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        ops.denoising_loss(prediction, data["x"], data["t"], schedule, seed=data["seed"], kind=kind)
    assert {id(value) for value in saved} == {id(value) for value in given}
    assert watch.launched == ["denoising_loss_kernel"]
    assert watch.calculated == ["sum"]  # of each image's blocks, in one order
    above = torch.ones(1, device=GPU).expand(4)
    with watch:
        gradient = compute_gradient(above, *given[:4], None, given[4], kind, "eps", "none", "auto")
    assert gradient.shape == prediction.shape
    assert watch.launched[1:] == ["denoising_loss_backward_kernel"]
    assert watch.calculated == ["sum"]


def test_the_losses_of_labelling_neither_copy_nor_wait(watch: Watch) -> None:
    q, queue, logits = (torch.empty(n, 128, device=GPU) for n in (64, 4096, 30))
    targets = torch.empty(30, dtype=torch.int64, device=GPU)
    with watch:
        info_nce_op._init_fn(q, q, queue, 0.2, "auto")
        losses = double_softmax_loss_op._init_fn(logits, targets, "auto")
        double_softmax_loss_backward_op._init_fn(logits, targets, losses, "auto")
    assert watch.launched == [
        "info_nce_partial", "info_nce_combine", "double_softmax_forward", "double_softmax_backward",
    ]  # fmt: skip
    assert watch.calculated == []


def test_a_group_norm_is_one_launch_each_way(watch: Watch) -> None:
    x, affine = torch.empty(4, 64, 128, device=GPU), torch.empty(4, 128, device=GPU)
    with watch:
        _, mean, rstd = group_norm_op._init_fn(x, affine, affine, 32, 1e-5, True, "auto")
        group_norm_backward_op._init_fn(x, x, affine, affine, mean, rstd, 32, True, "auto")
    assert watch.launched == ["group_norm_forward", "group_norm_backward"]
    assert watch.calculated == []


def test_what_would_wait_or_copy_is_seen(watch: Watch) -> None:
    """The watch itself: each of these a graph could not record."""
    t = batch()["t"]
    for mistake in (
        lambda: t.max().item(),
        lambda: t[t > 3],
        lambda: t.cpu(),
        lambda: torch.tensor([1.0]).to(GPU),
        lambda: t + torch.ones(4, dtype=torch.int64),
    ):
        with pytest.raises((AssertionError, RuntimeError)), watch:
            mistake()


@pytest.mark.parametrize("method", ["dpm", "heun", "ddim", "ancestral"])
@pytest.mark.parametrize("guides", [{}, {"classifier": 1.0, "free": 0.5}, {"auto": 1.0}], ids=str)
def test_the_sampling_loop_copies_nothing_and_waits_for_nothing(
    watch: Watch, method: Method, guides: dict[Guide, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the noise to the last state, network and all; of the classifier only the way there, as autograd's engine
    won't go back without a GPU."""

    def way_there(classifier: Classifier, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        return classifier(x, t).log_softmax(dim=1).gather(1, classes[:, None])[:, :, None, None] * x

    monkeypatch.setattr("gdui.diffusion.sample.guidance_gradient", way_there)
    schedule = Schedule.from_name("cosine", 50, "3")
    schedule.table(GPU)
    torch.set_default_device(GPU)
    try:
        unet = UNet(preset("tiny", width=32, classes=3), null_class=True)
        classifier = Classifier(
            ClassifierConfig(8, 32, 1, (1, 2), attention_at=(4,), classes=3, head_width=32, learned_variance=False)
        )
        labels = torch.empty(4, dtype=torch.int64)
        scales = torch.empty(4)
    finally:
        torch.set_default_device(None)
    sampler = Sampler(unet, schedule, classifier, unet, null_class=3, guides=guides, method=method, steps=3)
    with watch:
        *_, last = sampler.states((3, 8, 8), labels, labels, scales if guides else None)
    assert last.device == GPU
    assert watch.launched.count("noise_images_kernel") == 1
    assert watch.launched.count("guided_step_kernel") == (len(schedule) if method in ("ddim", "ancestral") else 0)
