"""A flat map of the images: those with similar features lie close to each other."""

import numpy as np
import numpy.typing as npt

from gdui.labeling.neighbors import neighbors

__all__ = ["project"]

Matrix = npt.NDArray[np.float32]

FEW = 50
WIDTH, TURNS = 8, 12
EDGES = 15
ROUNDS, RIVALS, SHARE, REACH = 200, 30, 8.0, 0.5
# The curve 1 / (1 + A d^2B) by which UMAP says how near two images at distance d are, for a least distance of 0.1.
A, B = 1.577, 0.895


def project(features: Matrix, seed: int = 0) -> tuple[Matrix, str]:
    """Places in the unit square [n, 2], and the method.

    UMAP where it is installed, else its idea in plain form, in seconds and without a dependency; PCA for few images,
    since of many it shows little but a heap.
    """
    if len(features) < FEW:
        return _unit(_principal(features)), "PCA"
    try:
        from umap import UMAP
    except Exception:  # a broken package fails with anything
        return _unit(_spread(features, seed)), "each drawn to its nearest neighbours"
    return _unit(UMAP(metric="cosine", random_state=seed).fit_transform(features)), "UMAP"


def _principal(features: Matrix) -> Matrix:
    """The features along their two widest directions, by iteration from a few random ones."""
    centred = features - features.mean(axis=0)
    basis = np.random.default_rng(0).standard_normal((features.shape[1], WIDTH))
    for _ in range(TURNS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    along = centred @ basis
    _, turned = np.linalg.eigh(along.T @ along)
    flat = (along @ turned)[:, ::-1][:, :2]
    return np.asarray(np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), np.float32)


def _spread(features: Matrix, seed: int) -> Matrix:
    """Nearest neighbours attract each other, random images repel, from the principal plane on."""
    random, n = np.random.default_rng(seed), len(features)
    centred = features - features.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    near = neighbors(unit.astype(np.float32), min(EDGES, n - 1), include_self=False).indices
    tail, head = np.repeat(np.arange(n), near.shape[1]), near.ravel()
    place = 20 * _unit(_principal(unit)) + random.normal(0, 0.01, (n, 2)).astype(np.float32)
    for round_ in range(ROUNDS):
        pace = 1 - round_ / ROUNDS
        pull = _attraction(place[tail] - place[head])
        other = random.integers(n, size=(RIVALS, n))
        push = _repulsion(place - place[other]).sum(axis=0)
        step = _sums(tail, pull, n) - _sums(head, pull, n) + SHARE * near.shape[1] / RIVALS * push
        place += pace * np.clip(step, -REACH, REACH).astype(np.float32)
    return place


def _attraction(apart: Matrix) -> Matrix:
    square = np.maximum(np.square(apart).sum(axis=-1, keepdims=True), 1e-6)
    return np.asarray(-2 * A * B * square ** (B - 1) / (1 + A * square**B) * apart)


def _repulsion(apart: Matrix) -> Matrix:
    square = np.square(apart).sum(axis=-1, keepdims=True)
    return np.asarray(2 * B / ((0.01 + square) * (1 + A * square**B)) * apart)


def _sums(at: npt.NDArray[np.integer], value: Matrix, n: int) -> npt.NDArray[np.float64]:
    return np.stack([np.bincount(at, value[:, axis], minlength=n) for axis in (0, 1)], axis=1)


def _unit(places: npt.NDArray[np.floating]) -> Matrix:
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-9), np.float32)
