"""Generators of latents: encoded once, decoded as they are drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generators import NAMES, quick, two_kinds

from gdui.diffusion.generator import Generator


def halved(pictures: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pictures, 2) * 2


def doubled(latents: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(latents / 2, scale_factor=2.0)


def test_latents_are_encoded_once_and_what_is_drawn_is_decoded(tmp_path: Path) -> None:
    labels, source = two_kinds()
    space: dict[str, Any] = {"settings": {"channels": 3, "picture_size": 16}, "latents": (halved, doubled)}
    model = quick(labels, source, tmp_path / "run", **space)
    stored = np.load(tmp_path / "run" / "latents.npy")
    assert stored.shape == (20, 8, 8, 3)
    np.testing.assert_allclose(stored[1], 2 * (220 / 127.5 - 1), rtol=1e-5)
    images = model.sample(NAMES, n=2, steps=3)
    assert images.shape == (4, 16, 16, 3)
    again = Generator.load(tmp_path / "run", latents=(halved, doubled))
    np.testing.assert_array_equal(again.sample(NAMES, n=2, steps=3), images)
    with pytest.raises(ValueError, match="draws latents: give load what decodes them"):
        Generator.load(tmp_path / "run")


def test_latents_of_an_autoencoder_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=2.0,
        shift_factor=0.25,
    ).eval()
    labels, source = two_kinds()
    space: dict[str, Any] = {"settings": {"channels": 4, "picture_size": 16}, "latents": vae}
    model = quick(labels, source, tmp_path, objective="unet", **space)
    stored = torch.from_numpy(np.load(tmp_path / "latents.npy")).permute(0, 3, 1, 2)
    pictures = torch.from_numpy(np.load(tmp_path / "pictures.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(pictures).latent_dist.mean
        assert model.coder is not None
        torch.testing.assert_close(stored, (mean - 0.25) * 2, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.coder.decode(stored), vae.decode(mean).sample, atol=1e-4, rtol=1e-4)
    assert model.sample("dark", n=2, steps=2).shape == (2, 16, 16, 3)


def test_latents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    labels, source = two_kinds()
    sized: dict[str, Any] = {"channels": 3, "picture_size": 32}
    with pytest.raises(ValueError, match=r"the network takes \(8, 8, 3\): it needs size 16 and channels 3"):
        quick(labels, source, tmp_path / "run", settings=sized, latents=(halved, doubled))
    with pytest.raises(TypeError, match=r"latents must be a pair \(encode, decode\)"):
        quick(labels, source, tmp_path / "other", settings=sized, latents=halved)
    with pytest.raises(ValueError, match="mirror must be off with latents"):
        quick(labels, source, tmp_path / "other", settings={"recipe.mirror": True}, latents=(halved, doubled))
    with pytest.raises(ValueError, match="picture_size is for latents"):
        quick(labels, source, tmp_path / "other", settings=sized)
    assert not (tmp_path / "other").exists()
