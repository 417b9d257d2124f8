"""All scores of a set of images beside a reference, and tables of rows that may be compared."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gdui.evaluation.comparing import comparable
from gdui.evaluation.fidelity.frechet import between, frechet_to_infinity, gaussian, of_moments
from gdui.evaluation.fidelity.inception import inception_score
from gdui.evaluation.fidelity.kernel import kernel_distance
from gdui.evaluation.fidelity.neighbours import precision_recall
from gdui.evaluation.fidelity.networks import Network, load_network
from gdui.evaluation.fidelity.observe import Observed, Progress, observe, observe_reference, side_of
from gdui.images import open_source
from gdui.training.ranks import from_first, joined, own_device

__all__ = ["COLUMNS", "Fidelity", "evaluate", "fidelity"]

FEWEST = 4  # a third neighbour for each
KID_SIZE = 1000
IS_PARTS = 10


@dataclass(frozen=True)
class Fidelity:
    """How faithful and how varied images are.

    samples, references: how many images were compared with how many; scores of other numbers are other scores.
    network: what looked at them.
    fid: Frechet distance of the pooled features; fid_infinity: the same followed to endlessly many samples.
    sfid: of the spatial features. inception_score: of the logits. None where the network has none of them.
    precision, recall: improved ones, k = 3. kid: the kernel distance over subsets of at most 1,000.
    """

    samples: int
    references: int
    network: str
    fid: float
    fid_infinity: float
    sfid: float | None
    inception_score: float | None
    precision: float
    recall: float
    kid: float


COLUMNS = {
    "fid": "FID",
    "fid_infinity": "FID, N to infinity",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "kid": "KID",
}


def fidelity(generated: Observed, reference: Observed) -> Fidelity:
    """Every score of what was `generated`, from what one network saw in it and in the `reference`."""
    if generated.hash != reference.hash:
        raise ValueError(f"both sets must be seen by one network, not by {generated.network} and {reference.network}")
    if min(len(generated), len(reference)) < FEWEST:
        found = f"{len(generated)} and {len(reference)}"
        raise ValueError(f"generated and reference must hold at least {FEWEST} images each, not {found}")
    near = precision_recall(generated.pooled, reference.pooled)
    truth = gaussian(reference.pooled)
    spatial = generated.spatial and reference.spatial and (of_moments(generated.spatial), of_moments(reference.spatial))
    return Fidelity(
        samples=len(generated),
        references=len(reference),
        network=generated.network,
        fid=between(gaussian(generated.pooled), truth),
        fid_infinity=frechet_to_infinity(generated.pooled, truth),
        sfid=between(*spatial) if spatial else None,
        inception_score=None
        if generated.logits is None
        else inception_score(generated.logits, parts=min(IS_PARTS, len(generated))).mean,
        precision=near.precision,
        recall=near.recall,
        kid=kernel_distance(
            generated.pooled, reference.pooled, size=min(KID_SIZE, len(generated), len(reference))
        ).mean,
    )


def evaluate(
    sets: Mapping[str, Any],
    reference: Any,
    network: str | Network = "inception",
    *,
    weights: str | None = None,
    size: int | None = None,
    samples: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Fidelity]:
    """The scores of every named set of images beside one reference.

    Under torchrun the ranks share the images; each then knows the scores.

    Args:
        sets: name -> images, as for labelling: folders, shards, Parquet or arrays.
        reference: the real images.
        network: "inception", "digits", or any encoder's name; see `load_network`.
        weights: a file of Inception's weights, where they are not to be downloaded.
        size: the side to which all images are brought; default: that of the first one.
        samples: how many images of every set count; by default all, and the sets must be equally large.
        cache: a folder in which what was seen in the reference is kept.
    """
    if not sets:
        raise ValueError("sets must name at least one set of images")
    with joined(torch.device("cpu")):
        place = own_device() if device == "auto" else device
        looking = network if isinstance(network, Network) else load_network(network, weights=weights, device=place)
        against = open_source(reference)
        side = side_of(next(iter(sets.values()))) if size is None else size
        seen = {
            name: observe(one, looking, size=side, samples=samples, progress=progress) for name, one in sets.items()
        }
        comparable(seen, ("samples",))
        truth = observe_reference(against, looking, size=side, cache=cache, progress=progress)
        return from_first(lambda: {name: fidelity(one, truth) for name, one in seen.items()})
