"""The networks compute what ADM's reference implementation computes, and refuse what doesn't fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from weights import fill, inputs

from gdui.diffusion import checkpoints
from gdui.diffusion.classifier import Classifier, ClassifierConfig, guidance_gradient
from gdui.diffusion.spice import SpiceClassifier, SpiceConfig
from gdui.diffusion.unet import PRESETS, UNet, UNetConfig, preset
from gdui.training.precision import for_inference

# Outputs of guided-diffusion on the same weights and inputs, forty numbers a case.
ADM_OUTPUTS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "adm_outputs.json").read_text())
UNETS: dict[str, dict[str, Any]] = {
    "legacy": {
        "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "attention_resolutions": "8", "channel_mult": "1,2",
        "class_cond": True, "num_classes": 5, "num_heads": 4, "learn_sigma": True, "resblock_updown": True,
    },
    "new_order": {
        "image_size": 16, "num_channels": 32, "num_res_blocks": 2, "attention_resolutions": "16,8,4",
        "channel_mult": "1,1,2", "num_head_channels": 16, "learn_sigma": True, "resblock_updown": True,
        "use_new_attention_order": True,
    },
    "plain": {
        "image_size": 24, "num_channels": 32, "num_res_blocks": 1, "attention_resolutions": "6",
        "channel_mult": "1,2,3", "class_cond": True, "num_classes": 7, "num_heads": 2, "num_heads_upsample": 4,
        "use_scale_shift_norm": False,
    },
}  # fmt: skip
CLASSIFIER: dict[str, Any] = {
    "image_size": 16, "classifier_width": 32, "classifier_depth": 1, "classifier_attention_resolutions": "8,4",
    "channel_mult": "1,2,2", "num_head_channels": 16, "num_classes": 10,
}  # fmt: skip


def saved(network: nn.Module, path: Path) -> Path:
    fill(network)
    torch.save(network.state_dict(), path)
    return path


def few_numbers(values: torch.Tensor) -> list[float]:
    flat = values.flatten()
    return flat[:: max(1, len(flat) // 40)][:40].tolist()


@pytest.mark.parametrize("case", UNETS)
def test_a_unet_equals_the_reference(case: str, tmp_path: Path) -> None:
    flags, expected = UNETS[case], ADM_OUTPUTS[case]
    path = saved(UNet(checkpoints.adm_unet_config(**flags)), tmp_path / "model000010.pt")
    network = checkpoints.load_adm_unet(path, **flags)
    assert len(network.state_dict()) == expected["keys"]
    x, t, classes = inputs(flags["image_size"], flags.get("num_classes"))
    with torch.no_grad():
        out = network(x, t, classes)
        laid_out_otherwise = network.to(memory_format=torch.channels_last)(x, t, classes)
    assert few_numbers(out) == pytest.approx(expected["values"], abs=1e-4)
    torch.testing.assert_close(laid_out_otherwise, out, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_a_classifier_equals_the_reference(pool: str, tmp_path: Path) -> None:
    flags = CLASSIFIER | {"classifier_pool": pool}
    path = saved(Classifier(checkpoints.adm_classifier_config(**flags)), tmp_path / "classifier.pt")
    network, expected = checkpoints.load_adm_classifier(path, **flags), ADM_OUTPUTS[f"classifier_{pool}"]
    assert len(network.state_dict()) == expected["keys"]
    x, t, _ = inputs(16, None)
    assert few_numbers(network(x, t)) == pytest.approx(expected["values"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_channels": 64}, "wanted"),
        ({"channel_mult": "1,3"}, "wanted"),
        ({"num_res_blocks": 2}, "lacks"),
        ({"class_cond": False}, "besides"),
        ({"learn_sigma": False}, "wanted"),
        ({"resblock_updown": False}, "lacks"),
        ({"attention_resolutions": "16"}, "lacks"),
        ({"use_scale_shift_norm": False}, "wanted"),
    ],
)
def test_a_wrong_flag_is_refused_where_shapes_tell(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = saved(UNet(checkpoints.adm_unet_config(**UNETS["legacy"])), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=words) as refusal:
        checkpoints.load_adm_unet(path, **UNETS["legacy"] | change)
    assert str(path) in str(refusal.value)


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "64x64_diffusion.pt"
    torch.save({"label_emb.weight": torch.zeros(1), "trap": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ValueError, match="runs no code"):
        checkpoints.load_adm_unet(path)
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_unreadable_weights_name_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"broken\.pt"):
        checkpoints.load_adm_unet(broken, **UNETS["legacy"])
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        checkpoints.load_adm_unet(tmp_path / "missing.pt", **UNETS["legacy"])


# Parameters of the published files, counted from the reference implementation built with its README's flags.
PUBLISHED_SIZES = {
    "64x64_diffusion": 295_904_454,
    "128x128_diffusion": 421_529_606,
    "256x256_diffusion": 553_838_086,
    "256x256_diffusion_uncond": 552_814_086,
    "512x512_diffusion": 558_997_638,
    "64x64_classifier": 65_438_568,
    "128x128_classifier": 42_568_040,
    "256x256_classifier": 54_096_360,
    "512x512_classifier": 54_448_360,
}


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_published_files_have_presets(name: str) -> None:
    with torch.device("meta"):
        network: nn.Module
        if name in checkpoints.ADM_FLAGS:
            network = UNet(checkpoints.adm_unet_config(**checkpoints.ADM_FLAGS[name]))
        else:
            network = Classifier(checkpoints.adm_classifier_config(**checkpoints.CLASSIFIER_FLAGS[name]))
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_networks(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        network = UNet(replace(config, classes=10))
        x = torch.empty(2, 3, config.image_size, config.image_size)
        out = network(x, torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert out.shape == (2, 6, config.image_size, config.image_size)


@pytest.mark.parametrize(("edge", "channels", "width"), [(8, 1, 48), (12, 4, 40), (96, 3, 32)])
def test_any_size_and_any_number_of_classes(edge: int, channels: int, width: int) -> None:
    config = preset(
        "tiny", image_size=edge, channels=channels, width=width, classes=3, attention_at=(4,), head_width=None
    )
    network = UNet(config, null_class=True)
    fill(network)
    out = network(torch.randn(2, channels, edge, edge), torch.tensor([1, 5]), torch.tensor([0, 3]))
    assert out.shape == (2, 2 * channels, edge, edge)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 9}, "multiple of 2"),
        ({"attention_at": (64,)}, "between 1 and the image size"),
        ({"head_width": 7}, "head_width must divide"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(preset("tiny", **changes))


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="'huge'"):
        preset("huge")


def test_the_gradient_of_one_picture_does_not_depend_on_its_neighbours() -> None:
    network = Classifier(
        ClassifierConfig(8, 32, depth=1, multipliers=(1, 2), attention_at=(4,), classes=4, head_width=16)
    )
    fill(network)
    x, t, classes = inputs(8, 4)
    assert classes is not None
    together = guidance_gradient(network, x, t, classes)
    alone = torch.cat([guidance_gradient(network, x[i : i + 1], t[i : i + 1], classes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-4)
    nudged = x + 1e-2 * together
    before, after = (network(pictures, t).log_softmax(1).gather(1, classes[:, None]) for pictures in (x, nudged))
    assert (after > before).all()


def test_the_time_step_says_nothing_at_first_and_something_later() -> None:
    network = SpiceClassifier(SpiceConfig(8, 5)).eval()
    x, early, late = torch.randn(2, 3, 8, 8), torch.tensor([0.0, 0.0]), torch.tensor([400.0, 400.0])
    features = nn.functional.normalize(network.features(x), dim=1) * network.features.dim**0.5
    torch.testing.assert_close(network(x, late), network.head(features))
    nn.init.normal_(network.extra_out.weight)
    assert (network(x, late) - network(x, early)).abs().max() > 1e-3


def test_the_clustering_network_runs_in_bfloat16_and_gradients_reach_the_picture() -> None:
    network = SpiceClassifier(SpiceConfig(8, 5)).eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.0, 40.0])
    ready = for_inference(network, compile=False)
    torch.testing.assert_close(ready(x, t), network(x, t), atol=0.1, rtol=0.1)
    gradient = guidance_gradient(ready, x, t, torch.tensor([0, 1]))
    assert gradient.shape == x.shape
    assert gradient.abs().sum() > 0


def test_a_new_unet_predicts_nothing_yet() -> None:
    network = UNet(UNetConfig(8, 32, depth=1, multipliers=(1, 2), attention_at=(4,), head_width=16))
    assert network(torch.randn(1, 3, 8, 8), torch.tensor([3])).abs().max() == 0


@pytest.mark.parametrize(("classes", "given"), [(4, False), (None, True)])
def test_classes_where_none_belong_are_refused(classes: int | None, given: bool) -> None:
    network = UNet(preset("tiny", classes=classes))
    x, t = torch.randn(2, 3, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="classes"):
        network(x, t, torch.zeros(2, dtype=torch.long) if given else None)
