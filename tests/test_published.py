"""Checkpoints as MoCo and SPICE publish them are read by their names, and nothing in them is run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gdui.labeling.cluster import Heads
from gdui.labeling.encoders import load_encoder
from gdui.labeling.encoders.published import published_heads, published_trunk, read_checkpoint
from gdui.training.backbones import backbone


def trunk() -> torch.nn.Module:
    torch.manual_seed(0)
    network = backbone("resnet18")
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
    return network.eval()


def weights(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in trunk().state_dict().items() if name != "center"}


def head(at: int, names: tuple[str, str] = ("0", "2")) -> dict[str, torch.Tensor]:
    torch.manual_seed(10 + at)
    start, (first, second) = f"module.head.head_{at}.classifier.", names
    shapes = {f"{first}.weight": (16, 512), f"{first}.bias": (16,), f"{second}.weight": (4, 16), f"{second}.bias": (4,)}
    return {start + name: torch.randn(shape) for name, shape in shapes.items()}


def same_features(found: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(x), trunk()(x))


def test_moco(tmp_path: Path) -> None:
    state = weights("module.encoder_q.") | weights("module.encoder_k.")
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(2, 2), "module.queue": torch.zeros(3)}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state, "optimizer": {}}, tmp_path / "moco.pth.tar")
    same_features(published_trunk("resnet18", read_checkpoint(tmp_path / "moco.pth.tar"), 32))


def test_an_encoder_is_named_by_its_file(tmp_path: Path) -> None:
    torch.save({"state_dict": weights("module.encoder_q.")}, tmp_path / "moco.pth.tar")
    encoder = load_encoder(f"spice:resnet18/{tmp_path / 'moco.pth.tar'}", dtype="float32", batch=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert encoder.transform.size == 32
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.transform.mean, encoder.transform.std))
    expected = trunk()((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = torch.nn.functional.normalize(expected, dim=1).detach()
    torch.testing.assert_close(torch.from_numpy(encoder.encode_images(pixels)), expected, atol=1e-4, rtol=1e-3)


def test_spice_with_its_heads(tmp_path: Path) -> None:
    torch.save({"state_dict": weights("module.feature_module.") | head(0) | head(1)}, tmp_path / "self.pth")
    state = read_checkpoint(tmp_path / "self.pth")
    same_features(published_trunk("resnet18", state, 32))
    heads = published_heads(state)
    assert len(heads) == 2
    rows = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    first, bias, second, last = head(1).values()
    expected = torch.relu(torch.from_numpy(rows) @ first.T + bias) @ second.T + last
    torch.testing.assert_close(Heads(*heads[1])(rows), expected, atol=1e-4, rtol=1e-4)


def test_joint_training_keeps_the_average(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in weights("module.feature_module.").items() if value.is_floating_point()}
    saved = {"train_model": other, "eval_model": weights("module.feature_module."), "it": 5}
    torch.save(saved, tmp_path / "semi.pth")
    same_features(published_trunk("resnet18", read_checkpoint(tmp_path / "semi.pth"), 32))


def test_other_names_for_a_shortcut(tmp_path: Path) -> None:
    renamed = {name.replace("downsample", "shortcut"): value for name, value in weights("module.encoder_q.").items()}
    save_file({name: value.contiguous() for name, value in renamed.items()}, tmp_path / "moco.safetensors")
    same_features(published_trunk("resnet18", read_checkpoint(tmp_path / "moco.safetensors"), 32))


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_nothing_else_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "was run")}))
    with pytest.raises(ValueError, match=r"evil\.pth' can't be read"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "was run").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the weights are not for resnet34"):
        published_trunk("resnet34", weights(""), 32)
    with pytest.raises(ValueError, match="backbone must be one of"):
        published_trunk("vgg", weights(""), 32)
    with pytest.raises(ValueError, match="hold no network"):
        published_trunk("resnet18", {"a": torch.zeros(1)}, 32)
    with pytest.raises(ValueError, match="two linear layers"):
        published_heads({"head.head_0.classifier.0.weight": torch.zeros(3, 3)})
