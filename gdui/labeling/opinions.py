"""Opinions score images against class names: by an encoder's text tower, or as the user hands them in."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from gdui.labeling.rows import softmax

__all__ = ["TEMPLATES", "class_embeddings", "unknown_names", "zero_shot"]

Floats = npt.NDArray[np.float32]

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "{}",
)


class TextEncoder(Protocol):
    """What is asked of an encoder here."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors [len(texts), dim]."""


def class_embeddings(
    encoder: TextEncoder,
    classes: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> Floats:
    """One unit vector a class [C, dim]: the mean over its prompts, the templates filled in and its descriptions."""
    descriptions = descriptions or {}
    if unknown := sorted(set(descriptions) - set(classes)):
        raise ValueError(f"descriptions are given for {unknown}, which are no classes")
    if wrong := [template for template in templates if "{}" not in template]:
        raise ValueError(f"templates must hold {{}} where the class name goes, unlike {wrong}")
    prompts = [
        [template.replace("{}", name.replace("_", " ")) for template in templates] + list(descriptions.get(name, ()))
        for name in classes
    ]
    if empty := [name for name, texts in zip(classes, prompts, strict=True) if not texts]:
        raise ValueError(f"these classes have neither a template nor a description: {empty}")
    vectors = encoder.encode_texts([text for texts in prompts for text in texts])
    ends = np.cumsum([len(texts) for texts in prompts])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def unknown_names(words: Collection[str], classes: Sequence[str]) -> list[str]:
    """The classes whose names hold a word that a text tower was not taught; without `words` it knows a language."""
    spelt = {name: re.findall(r"[\w-]+", name.replace("_", " ").casefold()) for name in classes if words}
    return [name for name, parts in spelt.items() if not set(words).issuperset(parts)]


def zero_shot(features: npt.NDArray[Any], texts: Floats, logit_scale: float) -> Floats:
    """Class probabilities [n, C]: softmax of logit_scale × cosine."""
    logits = torch.from_numpy(np.asarray(features, np.float32)) @ torch.from_numpy(texts).T
    return softmax(logits.numpy(), logit_scale)
