"""From labels and pictures to a generator: runs that are trained, kept, taken up again and tuned."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoints import assert_alike
from generators import NAMES, OPTIONS, QUICK, make_labels, quick, two_kinds
from matplotlib.axes import Axes
from PIL import Image

import gdui
from gdui.diffusion.curves import plot_losses
from gdui.diffusion.generator import Generator
from gdui.diffusion.spice import Learned, SpiceClassifier
from gdui.images import Transform
from gdui.labeling.cluster import Heads
from gdui.labeling.spice import Spice
from gdui.runs import Run
from gdui.training.backbones import backbone
from gdui.training.history import History


def test_a_run_leaves_a_model_and_what_tells_of_it(tmp_path: Path) -> None:
    labels, source = two_kinds()
    seen: list[tuple[str, int, int]] = []
    model = gdui.train(
        labels,
        source,
        tmp_path / "run",
        settings=QUICK | {"recipe.save_every": 2},
        **OPTIONS,
        progress=lambda *told: seen.append(told),
    )
    assert {stage for stage, _, _ in seen} == {"pictures", "unet", "steps for 16 images", "classifier"}
    assert seen[-1] == ("classifier", 2, 2)
    assert np.load(tmp_path / "run" / "pictures.npy")[:, 0, 0, 0].tolist() == [30, 220] * 10
    assert model.names == tuple(NAMES)
    assert model.unet.null_class
    images = model.sample(NAMES, n=2, steps=3)
    np.testing.assert_array_equal(Generator.load(tmp_path / "run").sample(NAMES, n=2, steps=3), images)
    for made in ("losses.png", "samples/step-00000002.png", "samples/step-00000004.png"):
        assert Image.open(tmp_path / "run" / made).width > 100
    assert len((tmp_path / "run" / "unet" / "losses.csv").read_text().splitlines()) == 5


def test_the_last_checkpoint_has_a_grid_too(tmp_path: Path) -> None:
    labels, source = two_kinds()
    quick(labels, source, tmp_path / "run", settings={"recipe.steps": 3, "recipe.save_every": 2})
    assert sorted(at.name for at in (tmp_path / "run" / "samples").iterdir()) == [
        "step-00000002.png",
        "step-00000003.png",
    ]


def test_the_running_mean_of_a_short_training_is_smoother_than_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [1.0, 9.0] * 15
    rows = [f"{step},{loss}" for step, loss in enumerate(losses, 1)]
    (tmp_path / "losses.csv").write_text("\n".join(["step,loss", *rows]) + "\n")
    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def told(axes: Axes, steps: list[float], values: list[float], **how: Any) -> Any:
        drawn[how["label"]] = list(values)
        return plot(axes, steps, values, **how)

    monkeypatch.setattr(Axes, "plot", told)
    plot_losses(tmp_path / "losses.png", {"unet": tmp_path / "losses.csv"})
    assert drawn["every step"] == losses
    assert drawn["running mean"][9:] == pytest.approx([5.0] * 21)


def test_stopped_and_taken_up_again_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    labels, source = two_kinds()
    quick(labels, source, tmp_path / "whole")
    quick(labels, source, tmp_path / "parts", settings={"recipe.steps": 2, "classifier_recipe.steps": 1})
    quick(labels, source, tmp_path / "parts")
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_the_networks_can_be_trained_one_after_the_other(tmp_path: Path) -> None:
    labels, source = two_kinds()
    with pytest.raises(ValueError, match="needs a trained UNet"):
        quick(labels, source, tmp_path / "run", objective="classifier")
    assert not (tmp_path / "run").exists()
    assert quick(labels, source, tmp_path / "run", objective="unet").classifier is None
    both = quick(labels, source, tmp_path / "run", objective="classifier")
    whole = quick(labels, source, tmp_path / "whole")
    np.testing.assert_array_equal(both.sample("dark", n=2, steps=2), whole.sample("dark", n=2, steps=2))
    again = quick(labels, source, tmp_path / "run", objective="unet", average=0.99)
    assert again.classifier is not None


STILL = {"recipe.rate": 1e-12, "recipe.weight_decay": 0.0}


def test_a_generator_begins_where_another_one_ended(tmp_path: Path) -> None:
    labels, source = two_kinds()
    first = quick(labels, source, tmp_path / "first")
    now = np.array([2, 0, -1])[labels.label_index]
    more = make_labels(labels.ids.to_pylist(), now, names=["bright", "grey", "dark"])
    quick(more, source, tmp_path / "more", objective="unet", start=first, settings=STILL)
    tuned = Generator.load(tmp_path / "more").unet.state_dict()
    given = first.unet.state_dict()
    rows = given.pop("label_emb.weight")[[1, 0, 2]]
    torch.testing.assert_close(tuned["label_emb.weight"][[0, 2, 3]], rows)
    torch.testing.assert_close(tuned["label_emb.weight"][1], rows.mean(dim=0))
    for name, value in given.items():
        torch.testing.assert_close(tuned[name], value)
    with pytest.raises(ValueError, match=r"start: .* -> \(none\)"):
        quick(more, source, tmp_path / "more", objective="unet", settings=STILL)


def test_a_start_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    labels, source = two_kinds()
    first = quick(labels, source, tmp_path / "first", objective="unet")
    for settings, words in (
        ({"timesteps": 100}, "setting timesteps must be 500, as in the generator to start from, not 100"),
        ({"network.width": 64}, r"start must be a generator of the same sizes; \d+ tensors differ: "),
    ):
        with pytest.raises(ValueError, match=words):
            quick(labels, source, tmp_path / "second", start=first, settings=settings)
    assert not (tmp_path / "second").exists()


def test_an_average_can_be_chosen_afterwards(tmp_path: Path) -> None:
    labels, source = two_kinds(8)
    weights = {
        average: next(quick(labels, source, tmp_path, objective="unet", average=average).unet.parameters())
        for average in (0.99, 0.995)
    }
    saved = History(tmp_path / "unet").newest()
    assert saved is not None
    for average, weight in weights.items():
        assert torch.equal(weight, saved.tensors[f"ema.{average}.0"])
    with pytest.raises(ValueError, match=r"average must be one of recipe.ema, 0.99, 0.995, 0.998, not 0.5"):
        quick(labels, source, tmp_path, average=0.5)


def test_a_clustering_network_can_steer(tmp_path: Path) -> None:
    labels, source = two_kinds()
    model = quick(labels, source, tmp_path, classifier="spice")
    again = Generator.load(tmp_path)
    assert isinstance(again.classifier, SpiceClassifier)
    drawn = model.sample("dark", n=2, steps=2, guide="classifier", guidance=3.0)
    np.testing.assert_array_equal(again.sample("dark", n=2, steps=2, guide="classifier", guidance=3.0), drawn)
    assert (model.sample("dark", n=2, steps=2, guidance=0.0) != drawn).any()


def learned_from_pixels(path: Path) -> Spice:
    """What a labelling run would have learned, of two clusters in the other order than the classes."""
    torch.manual_seed(0)
    trunk = backbone("small", 1)
    trunk.center.normal_()
    head = Heads(*(np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in HEAD))
    spice = Spice(trunk.eval(), head, Transform(8, filter="bilinear", mean=(0.4,) * 3, std=(0.3,) * 3))
    spice.save(path)
    return spice


HEAD = [(128, 24), (24,), (24, 2), (2,)]


def test_a_clustering_network_begins_as_the_labels_run_learned_it(tmp_path: Path) -> None:
    labels, source = two_kinds()
    table = labels.table.set_column(
        labels.table.schema.get_field_index("cluster"), "cluster", pa.array(np.arange(20) % 2 == 0, pa.int32())
    )
    with Run(tmp_path / "run", {}) as run:
        run.finish("label")
    replace(labels, table=table).to_parquet(tmp_path / "run" / "labels.parquet")
    spice = learned_from_pixels(tmp_path / "run" / "spice.safetensors")
    changes = {"objective": "both", "classifier": "spice", "settings": {"classifier_recipe.rate": 0.0}}
    model = quick(tmp_path / "run", source, tmp_path / "out", **changes)
    again = Generator.load(tmp_path / "out").classifier
    assert isinstance(again, SpiceClassifier)
    untaught = SpiceClassifier(again.config).eval()
    Learned.read(tmp_path / "run" / "spice.safetensors").into(untaught, table["cluster"].to_numpy(), labels.label_index)
    pixels = np.random.default_rng(1).random((5, 1, 8, 8), np.float32)
    seen = torch.from_numpy((pixels - 0.4) / 0.3)
    with torch.no_grad():
        expected = spice.logits(torch.nn.functional.normalize(spice.trunk(seen), dim=1).numpy())[:, [1, 0]]
        said = untaught(torch.from_numpy(2 * pixels - 1), torch.full((5,), 30.0))
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    for name, value in (*again.features.named_parameters(), *again.head.named_parameters()):
        assert any(torch.equal(value, own) for own in untaught.parameters()), name
    assert model.digest() == Generator.load(tmp_path / "out").digest()
    (tmp_path / "run" / "spice.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds nothing that was learned from pixels"):
        quick(tmp_path / "run", source, tmp_path / "other", **changes)
    assert not (tmp_path / "other").exists()


def test_an_unconditional_model_draws_no_names(tmp_path: Path) -> None:
    labels, source = two_kinds()
    model = quick(labels, source, tmp_path, conditional=False)
    assert model.unet.config.classes is None
    assert model.sample(n=3, steps=2).shape == (3, 8, 8, 1)
    assert model.sample("dark", n=2, steps=2, guide="classifier").shape == (2, 8, 8, 1)


def test_an_unconditional_model_learns_from_the_pictures_alone(tmp_path: Path) -> None:
    """Other labels make the same network, where a conditional one is told them."""
    labels, source = two_kinds()
    others = make_labels(labels.ids.to_pylist(), np.roll(labels.label_index, 3))
    found = {
        (conditional, given): quick(
            table, source, tmp_path / f"{conditional}-{given}", objective="unet", conditional=conditional
        ).digest()
        for conditional in (False, True)
        for given, table in (("own", labels), ("others", others))
    }
    assert found[False, "own"] == found[False, "others"]
    assert found[True, "own"] != found[True, "others"]


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import generators
        generators.quick(*generators.two_kinds(), Path(sys.argv[1]))
    """)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDUI_PRECISION": "float32"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29714"]
    subprocess.run([*torchrun, str(script), str(tmp_path / "two")], check=True, capture_output=True, env=environment)
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "one")], check=True, capture_output=True, env=environment
    )
    for name in ("unet", "classifier"):
        assert_alike(tmp_path / "one" / name, tmp_path / "two" / name)
