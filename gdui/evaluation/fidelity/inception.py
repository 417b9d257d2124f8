"""Inception score (Salimans et al., 2016): how sure a classifier is of each image, and how varied its answers are."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gdui import checks

__all__ = ["InceptionScore", "inception_score"]

SEED = 2020  # torch-fidelity's, so that both shuffle alike


class InceptionScore(NamedTuple):
    """The mean over the parts, and the standard deviation among them."""

    mean: float
    deviation: float


def inception_score(logits: npt.ArrayLike, *, parts: int = 10, seed: int = SEED) -> InceptionScore:
    """exp(mean KL(p(y|x) || p(y))) of `logits` [N, C], over `parts` random parts of the images."""
    rows = checks.array("logits", logits, 2)
    checks.whole("parts", parts, 1, max(1, len(rows)))
    order = np.random.RandomState(seed).permutation(len(rows))
    logs = torch.from_numpy(rows[order]).double().log_softmax(dim=1)
    cuts = [part * len(rows) // parts for part in range(parts + 1)]
    scores = [_score(logs[start:end]) for start, end in pairwise(cuts)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logs: torch.Tensor) -> float:
    mean = logs.logsumexp(dim=0) - math.log(len(logs))  # a share that is 0 in float64 still has a logarithm
    return float((logs.exp() * (logs - mean)).sum(dim=1).mean().exp())
