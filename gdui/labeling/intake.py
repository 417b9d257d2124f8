"""What a labeler is handed becomes features of every image and an opinion of each.

Two encoders may take part: one is asked for names, and another (or an inner layer of the same) sees what is clustered.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from gdui import checks
from gdui.config import SourceConfig
from gdui.images import Source, open_source
from gdui.labeling.encoders import Encoder, LazyEncoder
from gdui.labeling.features import Features, FeatureStore, encode_source, load_features
from gdui.labeling.inputs import Images, Scores, Texts, same_encoder
from gdui.labeling.opinions import TEMPLATES, class_embeddings, unknown_names
from gdui.labeling.outcome import Progress
from gdui.labeling.pins import check_ids
from gdui.labels import Facts, no_quarantine
from gdui.labels.words import listed

__all__ = ["Given", "Intake", "same_images"]

log = logging.getLogger(__name__)

SCALE = 100.0  # of cosines with vectors that are handed in: what every published CLIP has learned


class Given(TypedDict, total=False):
    """What may be handed in beside a source of images, or in its place.

    features: instead of a source, ready vectors [N, d]: an array, an .npy file, a feature store's folder.
    embeddings: where the features are another encoder's, the vectors of the one that is asked for names, as features.
    opinions: scores of images against classes [N, C], probabilities or log-odds; or vectors of the classes [C, d] in
        the space of the features, or of the embeddings; an array or an .npy file. By default the encoder's.
    ids: names of the rows of features or of an array of images; by default those stored with them, or the row numbers.
    pins: labels that a person gave, id -> class name, "" for none of the classes. They stand, and speak for the images
        around them; a fit alone can take them.
    progress: called with (stage, images done, images in all).
    """

    features: Any
    embeddings: Any
    opinions: Any
    ids: Sequence[str] | None
    pins: Mapping[str, str] | None
    progress: Progress | None


@dataclass(frozen=True)
class Intake:
    """Who is asked for names, who sees what is clustered (None: the same), texts on the classes, how to read."""

    classes: Sequence[str]
    descriptions: Mapping[str, Sequence[str]]
    templates: Sequence[str]
    namer: LazyEncoder
    seer: LazyEncoder | None
    reading: SourceConfig

    def images(self, source: Any, given: Given, learned: Facts) -> Images:
        """Features and opinion of the images; they must come from the encoders that were `learned` from, if known."""
        if unknown := sorted(set(given) - Given.__annotations__.keys()):
            known = ", ".join(Given.__annotations__)
            meant = checks.did_you_mean(unknown[0], Given.__annotations__)
            raise TypeError(f"{unknown[0]!r} can't be handed in; besides a source there are {known}{meant}")
        if (source is None) == (given.get("features") is None):
            raise ValueError("give either a source of images or their features")
        seen, embeddings, quarantine = (
            self._encoded(source, given, learned) if source is not None else (*_ready(given), no_quarantine())
        )
        seen_hash = str(seen.identity.get("hash", ""))
        same_encoder(str(seen.identity.get("encoder", "")), seen_hash, learned.encoder_hash)
        if given.get("opinions") is not None:
            opinion = _handed_in(given["opinions"], seen, embeddings, len(self.classes))
            return Images(seen, opinion, seen_hash, quarantine=quarantine)
        namer = self.namer.load("an opinion that is not given")
        self._tell_unknown(namer)
        asked = seen if embeddings is None else embeddings
        same_encoder(namer.name, namer.hash, str(asked.identity.get("hash", "")) or learned.named_hash)
        vectors = class_embeddings(
            namer, self.classes, templates=self.templates or TEMPLATES, descriptions=self.descriptions
        )
        texts = Texts(vectors, namer.logit_scale, embeddings)
        return Images(seen, texts, seen_hash or ("" if embeddings else namer.hash), namer.hash, quarantine)

    def _tell_unknown(self, namer: Encoder) -> None:
        """Warns of names that mean nothing to an encoder that was taught a few words only."""
        plain = [name for name in self.classes if not self.descriptions.get(name)]
        if unknown := unknown_names(namer.words, plain):
            meant = checks.did_you_mean(unknown[0], namer.words)
            log.warning("encoder %r was taught few words, and not %s%s", namer.name, listed(unknown), meant)

    def open(self, source: Any, given: Given) -> Source:
        """The images, which have all that are pinned."""
        ids = given.get("ids")
        if ids is not None and isinstance(source, (str, os.PathLike, Source)):
            what = f"ids can be given for arrays and features only: the images of {str(source)!r} have their own"
            raise ValueError(what)
        opened = open_source(source, ids=ids, **self.reading.given())
        check_ids(given.get("pins") or {}, opened)
        return opened

    def _encoded(self, source: Any, given: Given, learned: Facts) -> tuple[Features, Features | None, pa.Table]:
        """A source seen by one encoder, embedded by the other where that is needed, and what could not be read."""
        opened = self.open(source, given)
        seer = (self.seer or self.namer).load("a source of images")
        same_encoder(seer.name, seer.hash, learned.encoder_hash)
        seen, quarantine = _in_memory(opened, seer)
        if self.seer is None or given.get("opinions") is not None:
            return seen, None, quarantine
        embeddings, _ = _in_memory(opened, self.namer.load("an opinion that is not given"))
        return seen, same_images(seen, embeddings), quarantine


def _handed_in(opinions: Any, seen: Features, embeddings: Features | None, classes: int) -> Scores | Texts:
    """Scores of every image, or else vectors of the classes that images are compared with, as many as classes."""
    given, asked = load_features(opinions, name="opinions"), seen if embeddings is None else embeddings
    if len(given) == len(seen) or (len(given), given.dim) != (classes, asked.dim):
        return Scores.of(given, len(seen), classes)
    vectors = checks.array("opinions", given.array(), 2)
    return Texts(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), SCALE, embeddings)


def same_images(seen: Features, embeddings: Features) -> Features:
    """The embeddings, refused unless they are of the same images as the features."""
    if len(seen) != len(embeddings):
        raise ValueError(f"embeddings must have {len(seen)} rows as features, not {len(embeddings)}")
    if not seen.ids.equals(embeddings.ids):
        raise ValueError("embeddings must be of the same images as features, in the same order: their ids differ")
    return embeddings


def _ready(given: Given) -> tuple[Features, Features | None]:
    """Features, and embeddings if there are any, under the ids that were given with them."""
    named, ids = [load_features(given["features"])], given.get("ids")
    if given.get("embeddings") is not None:
        named.append(load_features(given["embeddings"]))
    if ids is not None:
        named = [replace(one, ids=load_features(np.empty((len(one), 0)), ids=ids).ids) for one in named]
    return named[0], same_images(*named) if len(named) == 2 else None


def _in_memory(source: Source, encoder: Encoder) -> tuple[Features, pa.Table]:
    """Features of a source, and the id and the reason of what could not be read."""
    with tempfile.TemporaryDirectory(prefix="gdui-") as folder:
        store = FeatureStore(folder, encoder)
        encode_source(source, encoder, store)
        found = store.features()
        whole = load_features(found.array(), ids=found.ids.to_pylist())
        return replace(whole, identity=found.identity), store.quarantine()
