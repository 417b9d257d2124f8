"""Encoders: one fixed batch shape, so bytes never depend on the batch; loading never unpickles; errors are one line."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from gdui.images import Transform
from gdui.labeling.encoders import Encoder, clip_encoder, load_encoder
from gdui.labeling.opinions import TEMPLATES, class_embeddings, zero_shot

SMALL = Transform(size=32)
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = open_clip.CLIP(**CONFIG)
    config = {"size": 32, "mode": "RGB", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
    open_clip.model.set_model_preprocess_cfg(model, {**config, "resize_mode": "squash", "fill_color": 0})
    return model.eval()


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 12)).eval()


@pytest.fixture
def pixels(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 256, (11, 32, 32, 3), np.uint8)


@pytest.fixture(params=["bfloat16", "float32"])
def clip(request: pytest.FixtureRequest) -> Encoder:
    return clip_encoder(tiny_clip(), open_clip.tokenize, name="tiny", dtype=request.param, batch=4, device="cpu")


def test_features_equal_the_model_by_hand(clip: Encoder, pixels: npt.NDArray[np.uint8]) -> None:
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        wanted = nn.functional.normalize(tiny_clip().encode_image(images), dim=-1).numpy()  # type: ignore[operator]
    got = clip.encode_images(pixels)
    assert got.dtype == np.float32
    assert (got * wanted).sum(axis=1).min() > (0.999999 if clip.precision == "float32" else 0.999)
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_bytes_do_not_depend_on_the_company_of_an_image(clip: Encoder, pixels: npt.NDArray[np.uint8]) -> None:
    together = clip.encode_images(pixels)
    for at in range(len(pixels)):
        assert np.array_equal(clip.encode_images(pixels[at : at + 1])[0], together[at])
    assert np.array_equal(clip.encode_images(pixels[::-1])[::-1], together)


def test_the_network_sees_one_batch_shape(pixels: npt.NDArray[np.uint8]) -> None:
    seen = []

    def features(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return images.mean(dim=(2, 3))

    encoder = load_encoder(features, transform=SMALL, batch=4)
    assert encoder.encode_images(pixels).shape == (11, 3)
    assert encoder.encode_images(pixels[:0]).shape == (0, 3)
    assert set(seen) == {(4, 3, 32, 32)}


def test_texts_and_images_share_a_space(clip: Encoder) -> None:
    texts = clip.encode_texts(["a cat", "a dog"] * 200)
    assert texts.shape == (400, clip.dim)
    assert np.array_equal(texts[0], texts[2])
    assert clip.encode_texts([]).shape == (0, 16)
    assert clip.logit_scale == pytest.approx(float(tiny_clip().logit_scale.exp()))  # type: ignore[operator, union-attr]


def test_the_hash_follows_the_weights_and_the_model_stays_as_it_was(pixels: npt.NDArray[np.uint8]) -> None:
    module = backbone()
    first = load_encoder(module, transform=SMALL)
    assert next(module.parameters()).dtype == torch.float32
    assert first.hash == load_encoder(backbone(), transform=SMALL, dtype="float32").hash
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 1e-6  # type: ignore[index, union-attr, operator]
    assert load_encoder(module, transform=SMALL).hash != first.hash


def test_functions_are_told_apart_by_what_they_return() -> None:
    hashes = [
        load_encoder(function, transform=SMALL).hash
        for function in (lambda x: x.mean(dim=(2, 3)), lambda x: x.mean(dim=(2, 3)), lambda x: x.amax(dim=(2, 3)))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_compiled_encoder_agrees(pixels: npt.NDArray[np.uint8]) -> None:
    plain = load_encoder(backbone(), transform=SMALL, batch=4).encode_images(pixels)
    compiled = load_encoder(backbone(), transform=SMALL, batch=4, compiled=True).encode_images(pixels)
    assert (plain * compiled).sum(axis=1).min() > 0.9995


def test_a_local_checkpoint_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-io.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path)
    save_file(tiny_clip().state_dict(), tmp_path / "w.safetensors")
    torch.save(tiny_clip().state_dict(), tmp_path / "w.pt")
    hashes = {load_encoder(f"tiny-io/{tmp_path}/{name}").hash for name in ("w.safetensors", "w.pt")}
    assert hashes == {clip_encoder(tiny_clip(), open_clip.tokenize, name="tiny").hash}


def test_a_torchvision_backbone_loses_its_head(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    whole = mobilenet_v2(num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "m.safetensors")
    spec = f"torchvision:mobilenet_v2/{tmp_path}/m.safetensors"
    encoder = load_encoder(spec, transform=SMALL, dtype="float32", batch=4)
    assert encoder.dim == 1280
    mean, std = torch.tensor(SMALL.mean), torch.tensor(SMALL.std)
    images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        wanted = nn.functional.normalize(whole.features(images).mean(dim=(2, 3)), dim=-1).numpy()
    assert (encoder.encode_images(pixels) * wanted).sum(axis=1).min() > 0.9999
    low = load_encoder(spec, transform=SMALL, dtype="bfloat16", batch=4)
    assert (low.encode_images(pixels) * wanted).sum(axis=1).min() > 0.999
    with pytest.raises(ValueError, match="the file is not for this model"):
        load_encoder(f"torchvision:resnet18/{tmp_path}/m.safetensors")
    with pytest.raises(TypeError, match="has no text tower: give scores of your own"):
        encoder.encode_texts(["a cat"])


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("spec", ["torchvision:resnet18/{}", "ViT-B-32/{}"])
def test_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    if spec.startswith("ViT"):
        monkeypatch.setattr(open_clip.factory, "CLIP", lambda **_: tiny_clip())
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    with pytest.raises((ValueError, OSError), match=r"w\.pt") as caught:
        load_encoder(spec.format("w.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_weights_that_are_not_to_be_had_get_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such\nrepository")

    monkeypatch.setattr(open_clip, "create_model", refused)
    monkeypatch.setattr("gdui.labeling.encoders.load.hub_trouble", lambda: "")
    wanted = r"'ViT-B-32/openai' could not be loaded \(tried the local cache and the hub\): no such repository; "
    with pytest.raises(OSError, match=wanted + ".* name them: 'ViT-B-32/path/weights.safetensors'$"):
        load_encoder("ViT-B-32/openai")
    with pytest.raises(OSError, match=r"'hf-hub:a/b' could not be loaded .* name them: 'local-dir:path'$"):
        load_encoder("hf-hub:a/b")
    monkeypatch.setattr("gdui.labeling.encoders.load.hub_trouble", lambda: pytest.fail("a folder needs no hub"))
    with pytest.raises(OSError, match=r"\(tried the file 'local-dir:.*'\): no such repository$"):
        load_encoder(f"local-dir:{tmp_path}")


def test_without_a_network_one_line_says_so_at_once(tmp_path: Path) -> None:
    """Nobody listens at the hub's address: other programs' lines and minutes of retries stay away."""
    for number in range(2):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "names.txt").write_text("a\nb")
    command = [sys.executable, "-m", "gdui.cli", "label", str(tmp_path), "--classes", str(tmp_path / "names.txt")]
    command += ["--out", str(tmp_path.with_suffix(".run")), "--encoder", "ViT-B-32/laion2b_s34b_b79k"]
    apart = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | apart, timeout=45)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"gdui: error: encoder 'ViT-B-32/laion2b_s34b_b79k' could not be loaded .*: the hub can't be reached: .*; "
        r"with the weights at hand, name them: 'ViT-B-32/path/weights.safetensors'\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-32", r"must end in a file or one of the tags \[.*openai.*\], not ''"),
        ("ViT-B-32/nope", r"must end in a file or one of the tags \[.*openai.*\], not 'nope'$"),
        ("ViT-B-32/open-ai", r"not 'open-ai'; did you mean 'openai'"),
        ("no-such/model", "open_clip has no such model$"),
        ("vit-b32/openai", "open_clip has no such model; did you mean 'ViT-B-32'"),
        ("digit", "not 'digit': open_clip has no such model; did you mean 'digits'"),
        ("torchvision:nope/x", "must be 'torchvision:MODEL/FILE' with a known model, not 'torchvision:nope/x'"),
        ("torchvision:resnet/x", "not 'torchvision:resnet/x'; did you mean 'resnet"),
        ("torchvision:resnet18/x", "there is no file 'x' of weights for encoder 'torchvision:resnet18/x'"),
        ("spice:resnet18", "there is no file '' of weights for encoder 'spice:resnet18'"),
        ("spice:resnet99/x", "must be 'spice:MODEL/FILE' with a known model"),
        ("digits#layer", "not 'layer'; did you mean 'layer"),
        (3, "must be a name or a callable, not int"),
    ],
)
def test_wrong_names_say_what_is_wanted(spec: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load_encoder(spec)


def test_wrong_settings_and_wrong_models_are_named() -> None:
    with pytest.raises(ValueError, match="device must be one of"):
        load_encoder(backbone(), device="tpu")
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_encoder(backbone(), dtype="int8")
    with pytest.raises(ValueError, match=r"must return \[B, d\], not \[4, 3, 32, 32\]"):
        load_encoder(lambda x: x, transform=SMALL, batch=4)
    with pytest.raises(ValueError, match=r"pixels must be uint8 \[B, 32, 32, 3\], not float64"):
        load_encoder(backbone(), transform=SMALL).encode_images(np.zeros((2, 32, 32, 3)))  # type: ignore[arg-type]


# Names and opinions


class Echo:
    """Remembers the prompts; a prompt's vector is its first two letters."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def encode_texts(self, texts: Any) -> npt.NDArray[np.float32]:
        self.prompts += texts
        vectors = np.array([[ord(text[0]), ord(text[1])] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_class_embeddings_are_means_over_prompts() -> None:
    echo = Echo()
    descriptions = {"b_c": ["zz top"]}
    got = class_embeddings(echo, ["aa", "b_c"], templates=["{}", "x {}"], descriptions=descriptions)
    assert echo.prompts == ["aa", "x aa", "b c", "x b c", "zz top"]
    vectors = Echo().encode_texts(echo.prompts)
    for at, part in enumerate((vectors[:2], vectors[2:])):
        assert np.allclose(got[at], part.mean(axis=0) / np.linalg.norm(part.mean(axis=0)))
    only = class_embeddings(Echo(), ["aa"], templates=[], descriptions={"aa": ["q!"]})
    assert np.allclose(only[0], Echo().encode_texts(["q!"])[0])


def test_braces_in_class_names_are_just_letters() -> None:
    echo = Echo()
    class_embeddings(echo, ["{0.__class__}"], templates=["a {}"])
    assert echo.prompts == ["a {0.  class  }"]
    assert all("{}" in template for template in TEMPLATES)


def test_prompts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"descriptions are given for \['x'\], which are no classes"):
        class_embeddings(Echo(), ["aa"], descriptions={"x": ["y"]})
    with pytest.raises(ValueError, match=r"templates must hold .* where the class name goes"):
        class_embeddings(Echo(), ["aa"], templates=["a photo"])
    with pytest.raises(ValueError, match=r"neither a template nor a description: \['aa'\]"):
        class_embeddings(Echo(), ["aa"], templates=[])


def test_zero_shot_is_a_softmax_of_scaled_cosines(rng: np.random.Generator) -> None:
    features, texts = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    logits = 20 * features @ texts.T
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    wanted /= wanted.sum(axis=1, keepdims=True)
    got = zero_shot(features.astype(np.float32), texts.astype(np.float32), 20.0)
    assert np.allclose(got, wanted, atol=1e-5)


def test_no_weights_are_drawn_that_a_checkpoint_fills(encoder: str) -> None:
    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(func.__name__)
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    with Recorder():
        load_encoder(encoder)
    assert "copy_" in seen
    assert not seen & {"normal_", "uniform_", "kaiming_uniform_"}
