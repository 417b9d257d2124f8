"""What the paper's tables are made on: pictures, how they get labels, and everything that is equal for all rows."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import mobilenet
from benchmarks.judge import Judge
from gdui.demo.digits import NAMES, images
from gdui.diffusion.unet import PRESETS
from gdui.encoder_names import check_encoder
from gdui.evaluation.fidelity import load_network
from gdui.evaluation.fidelity.networks import Network
from gdui.images import open_source
from gdui.images.decode import readable_suffixes
from gdui.labeling.labeler import Labeler
from gdui.labels import Labels

__all__ = ["Subject", "digits", "stl10"]


@dataclass(frozen=True)
class Subject:
    """Pictures [N, H, W, C] with their true classes, and how every row of their table is made.

    label: the labels of a preset, by (preset, seed, **settings).
    preset, settings, steps: of the generator that each row trains; curve: fewer steps at which it is scored as well.
    each: how many pictures of each class are drawn, in `sampler_steps` at `guidance`.
    network, judge: what the scores look through, and what says which class a drawn picture is of.
    """

    name: str
    classes: tuple[str, ...]
    pixels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]
    label: Callable[..., Labels]
    preset: str
    settings: Mapping[str, Any]
    steps: int
    curve: tuple[int, ...]
    each: int
    sampler_steps: int
    guidance: float
    network: Callable[[], Network]
    judge: Callable[[], Judge]
    device: torch.device = field(default=torch.device("cpu"))

    @property
    def budget(self) -> dict[str, Any]:
        """What is equal for all rows, as plain values."""
        names = ("preset", "settings", "steps", "each", "sampler_steps", "guidance")
        return {name: getattr(self, name) for name in names}


def digits(steps: int | None = None) -> Subject:
    """scikit-learn's handwritten digits, with the encoder that is shipped: the whole table on two cores.

    Steps and guidance of the sampler were chosen by the scores of the model of true labels; all rows have the same.
    """
    truth = load_digits().target.astype(np.int64)
    return Subject(
        name="digits",
        classes=tuple(NAMES),
        pixels=images()[..., None],
        truth=truth,
        label=partial(_seen, tuple(NAMES), images()[..., None], "digits"),
        preset="tiny",
        settings={"channels": 1, "network.width": 32, "recipe.warmup": 50, "recipe.save_every": 75},
        steps=steps or 300,
        curve=(75, 150, 225),
        each=179,
        sampler_steps=10,
        guidance=0.25,
        network=partial(load_network, "digits", device="cpu"),
        judge=partial(Judge, images()[..., None], truth),
    )


def stl10(data: Path, preset: str, encoder: str, network: str, weights: str | None, steps: int, each: int) -> Subject:
    """STL-10, as the paper has it: a file of its JPEG pictures, or a folder with one of them for each class."""
    side = PRESETS[preset].image_size
    classes, pixels, truth = _from_file(data, side) if data.is_file() else _from_folder(data, side)
    if encoder == "mobilenet":
        mobilenet.check(classes)
    else:
        check_encoder(encoder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Subject(
        name=f"stl10-{side}",
        classes=classes,
        pixels=pixels,
        truth=truth,
        label=partial(_with_mobilenet, classes, pixels)
        if encoder == "mobilenet"
        else partial(_seen, classes, pixels, encoder),
        preset=preset,
        settings={"recipe.mirror": True, "recipe.save_every": max(1, steps // 4)},
        steps=steps,
        curve=tuple(sorted({steps * quarter // 4 for quarter in (1, 2, 3)} - {0, steps})),
        each=each,
        sampler_steps=50,
        guidance=1.0,
        network=partial(load_network, network, weights=weights),
        judge=partial(Judge, pixels, truth, mirror=True, device=device),
        device=device,
    )


def _seen(
    classes: Sequence[str], pixels: npt.NDArray[np.uint8], encoder: str, preset: str, seed: int, **settings: Any
) -> Labels:
    """The labels of pictures as an encoder sees them."""
    return Labeler(classes, encoder, preset, seed=seed, **settings).fit_predict(open_source(pixels, layout="NHWC"))


def _with_mobilenet(
    classes: Sequence[str], pixels: npt.NDArray[np.uint8], preset: str, seed: int, **settings: Any
) -> Labels:
    """Those of MobileNetV2's features and its WordNet opinion, where no CLIP is at hand."""
    enlarged = (Image.fromarray(picture) for picture in pixels)
    features, logits = mobilenet.encode(enlarged, 224, Image.Resampling.BICUBIC)
    opinions = mobilenet.opinions(logits.astype(np.float32), [mobilenet.SYNSETS[name] for name in classes])
    labeler = Labeler(classes, preset=preset, seed=seed, **settings)
    return labeler.fit_predict(features=features.astype(np.float32), opinions=opinions)


def _from_file(path: Path, side: int) -> tuple[tuple[str, ...], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Both folds: picture i of a fold is data[offsets[i]:offsets[i + 1]], a JPEG file."""
    if not is_zipfile(path):
        raise ValueError(f"--data {path} is no .npz file")
    try:
        with np.load(path) as arrays:
            truth = np.concatenate([arrays[f"{fold}_labels"] for fold in ("train", "test")]).astype(np.int64)
            folds = [(arrays[f"{fold}_data"], arrays[f"{fold}_offsets"]) for fold in ("train", "test")]
            classes = tuple(str(name) for name in arrays["class_names"])
    except KeyError as error:
        raise ValueError(f"--data {path}: {error.args[0]}") from None
    files = (io.BytesIO(data[a:b].tobytes()) for data, at in folds for a, b in pairwise(at))
    return classes, _decoded(files, side), truth


def _from_folder(folder: Path, side: int) -> tuple[tuple[str, ...], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """FOLDER/class/picture, as torchvision's ImageFolder has it."""
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    known = readable_suffixes()
    paths = [path for name in classes for path in sorted((folder / name).iterdir()) if path.suffix.lower() in known]
    if not paths:
        raise ValueError(f"--data must be a file of JPEG pictures or a folder of a folder for each class, not {folder}")
    return classes, _decoded(paths, side), np.array([classes.index(path.parent.name) for path in paths], np.int64)


def _decoded(files: Iterable[Any], side: int) -> npt.NDArray[np.uint8]:
    opened = (Image.open(file).convert("RGB") for file in files)
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.LANCZOS)) for one in opened])
