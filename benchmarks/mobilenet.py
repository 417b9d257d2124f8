"""Real pictures for the label benchmarks: MobileNetV2 features, and a WordNet reading of its logits as the opinion.

The network was trained on ImageNet, where STL-10 and Imagenette come from: these figures test the labelling of given
features and opinions, they are neither unsupervised nor CLIP's. Labels are handed on for scoring only.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_fp16.safetensors"
CACHE = Path(os.environ.get("GDUI_BENCH_CACHE", ROOT / "build" / "benchmarks"))
# Which WordNet synsets a class name stands for; ImageNet's classes below any of them vote for it. A name with none in
# ImageNet (deer, the land covers) takes the nearest relatives.
SYNSETS = {
    "airplane": ["n02691156"],
    "automobile": ["n02958343"],
    "bird": ["n01503061"],
    "car": ["n02958343"],
    "cat": ["n02121620"],
    "deer": ["n02419796"],
    "dog": ["n02084071"],
    "frog": ["n01639765"],
    "horse": ["n02374451"],
    "monkey": ["n02484322"],
    "ship": ["n04194289"],
    "truck": ["n04490091"],
    "annual crop land": ["n11879895", "n12144580", "n03496892", "n04428191"],
    "forest": ["n09468604"],
    "herbaceous vegetation land": ["n11939491", "n03733281"],
    "highway or road": ["n04532670", "n06794110"],
    "industrial buildings": ["n03697007", "n04258138"],
    "pasture land": ["n02403003", "n02412080", "n04604644"],
    "permanent crop land": ["n07753113", "n07747607", "n12267677"],
    "residential buildings": ["n03776460", "n04435653", "n03899768"],
    "river": ["n03160309", "n02951358"],
    "sea or lake": ["n09433442", "n09421951", "n09399592"],
}


@dataclass(frozen=True)
class Pictures:
    """One data set, ready to be labelled: features (N, D), opinions as logits (N, C), and labels (N,) to score with."""

    name: str
    classes: list[str]
    features: npt.NDArray[np.float32]
    opinions: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
# The bad opinion: pictures enlarged twofold only, and no relatives, so that nothing ever votes for deer.
BLURRED, RELATIVES = "cifar10, blurred", ("deer",)
# name: file, prefix of its arrays, how many pictures (evenly spaced), the side they are enlarged to
SETS = {
    "stl10": ("stl10_jpeg90.npz", "test_", 8000, 224),
    "imagenette": ("imagenette_64_jpeg92.npz", "val_", 3925, 224),
    "eurosat": ("eurosat_6000_jpeg.npz", "", 6000, 224),
    "cifar10": ("cifar10_train50k_q95.npz", "train_", 10000, 224),
    BLURRED: ("cifar10_train50k_q95.npz", "train_", 10000, 64),
}


def load(name: str) -> Pictures:
    """The data set `name` of SETS; its features are computed once and kept under build/."""
    file, prefix, count, side = SETS[name]
    with np.load(DATA / file) as arrays:
        labels = arrays[prefix + "labels"].astype(np.int64)
        rows = np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(np.int64)
        classes = [str(c) for c in arrays["class_names"]]
        known = dict(zip(classes, arrays["wnids"].tolist(), strict=True)) if "wnids" in arrays else {}
        cached = CACHE / f"{file.split('_')[0]}_{len(rows)}_{side}{'_bilinear' * (name == BLURRED)}.npz"
        if not cached.exists():
            data, offsets = arrays[prefix + "data"], arrays[prefix + "offsets"]
            opened = (Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())) for i in rows)
            features, logits = encode(opened, side, FILTERS[name == BLURRED])
            CACHE.mkdir(parents=True, exist_ok=True)
            np.savez(cached, features=features, logits=logits)
    with np.load(cached) as arrays:
        features, logits = arrays["features"].astype(np.float32), arrays["logits"].astype(np.float32)
    synsets = {**SYNSETS, **{name: [synset] for name, synset in known.items()}}
    given = opinions(logits, [synsets[c] for c in classes])
    if name == BLURRED:
        given[:, [c in RELATIVES for c in classes]] = logits.min()
    return Pictures(name, classes, features, given, labels[rows])


def check(classes: Iterable[str]) -> None:
    """Refuses classes of which it can't have an opinion."""
    if unknown := sorted(set(classes) - set(SYNSETS)):
        raise ValueError(f"--encoder mobilenet has no synset for {', '.join(unknown)}")
    if not WEIGHTS.exists():
        raise ValueError(f"--encoder mobilenet needs its weights in {WEIGHTS}: name an encoder of open_clip instead")


def opinions(logits: npt.NDArray[np.float32], synsets: list[list[str]]) -> npt.NDArray[np.float32]:
    """For each class the largest logit among the ImageNet classes below its synsets."""
    parents = json.loads((DATA / "weights" / "wordnet30_nouns.json").read_text())["hypernyms"]
    leaves = json.loads((DATA / "weights" / "mobilenet_v2_imagenet.json").read_text())["wnids"]
    above = [ancestors(leaf, parents) for leaf in leaves]
    columns = [[i for i, found in enumerate(above) if found & set(wanted)] for wanted in synsets]
    return np.stack([logits[:, members].max(1) for members in columns], 1)


def ancestors(synset: str, parents: dict[str, list[str]]) -> set[str]:
    """`synset` and everything above it."""
    found, todo = set(), [synset]
    while todo:
        here = todo.pop()
        found.add(here)
        todo += [p for p in parents.get(here, []) if p not in found]
    return found


def mobilenet() -> nn.Module:
    """MobileNetV2 with its ImageNet weights, whose convolutions of stride 2 pad on the right and at the bottom only."""
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(weights=None)
    weights = load_file(WEIGHTS)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, inputs: (nn.functional.pad(inputs[0], (0, 1, 0, 1)),))
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode(
    pictures: Iterator[Image.Image], side: int, resample: Image.Resampling, batch: int = 64
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Features (N, 1280) and ImageNet logits (N, 1000) of pictures enlarged to `side` pixels."""
    model, features, logits = mobilenet(), [], []
    for images in batches(pictures, side, resample, batch):
        with torch.autocast("cpu", torch.bfloat16):
            maps = model.features(images.to(memory_format=torch.channels_last))
        pooled = maps.float().mean((2, 3))
        features.append(pooled.half())
        logits.append(model.classifier(pooled).half())
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def batches(pictures: Iterator[Image.Image], side: int, resample: Image.Resampling, size: int) -> Iterator[Tensor]:
    """Tensors (size, 3, side, side) in [-1, 1]."""
    pending: list[Tensor] = []
    for picture in pictures:
        image = picture.convert("RGB").resize((side, side), resample)
        pending.append(torch.from_numpy(np.asarray(image) / np.float32(127.5) - 1).permute(2, 0, 1))
        if len(pending) == size:
            yield torch.stack(pending)
            pending = []
    if pending:
        yield torch.stack(pending)
