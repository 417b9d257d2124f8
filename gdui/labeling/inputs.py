"""What a labeler is handed: features of every image and the opinion of each, read in blocks, never copied whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui import checks
from gdui.labeling.features import Features
from gdui.labeling.opinions import zero_shot
from gdui.labeling.rows import first_not_finite, project, softmax, unit_rows, units
from gdui.labels import no_quarantine

__all__ = ["Images", "Scores", "Texts", "same_encoder"]

Matrix = npt.NDArray[np.float32]

NARROW = 128  # columns


def same_encoder(name: str, found: str, wanted: str) -> None:
    """Refuses the encoder `name` of hash `found` beside features of hash `wanted`; "" is a hash nobody knows."""
    if found and wanted and found != wanted:
        raise ValueError(
            f"encoder {name!r} (hash {found[:12]}) is not the one that the other features come from "
            f"(hash {wanted[:12]}): their vectors can't be compared, so use one encoder"
        )


@dataclass(frozen=True)
class Texts:
    """The opinion is the cosine between an image's vector and those of the class names [C, d], times `scale`.

    The vector is taken from `embeddings`, or where there are none it is the image's features.
    """

    vectors: Matrix
    scale: float
    embeddings: Features | None = None

    @property
    def classes(self) -> int:
        """C."""
        return len(self.vectors)

    @property
    def by_features(self) -> bool:
        """Whether the images' features are what it looks at."""
        return self.embeddings is None

    def __call__(self, rows: npt.NDArray[np.integer], unit: Matrix) -> Matrix:
        """Probabilities [n, C], from the images' features at length 1 [n, d] if it looks at them."""
        name = "features" if self.embeddings is None else "embeddings"
        seen = unit if self.embeddings is None else unit_rows(self.embeddings.gather(rows))
        checks.columns(name, seen, self.vectors.shape[1], "as long as the encoder's texts")
        return zero_shot(seen, self.vectors, self.scale)


@dataclass(frozen=True)
class Scores:
    """The opinion is handed in [N, C]: as probabilities, or else as log-odds."""

    given: Features
    are_probabilities: bool
    by_features = False

    @property
    def classes(self) -> int:
        """C."""
        return self.given.dim

    @classmethod
    def of(cls, given: Features, images: int, classes: int) -> "Scores":
        """Scores [images, classes]; they are probabilities where no row is negative and each sums to 1."""
        if len(given) != images:
            raise ValueError(f"opinions must have {images} rows, not {len(given)}")
        if given.dim != classes:
            raise ValueError(f"opinions must have {classes} columns, one a class, not {given.dim}")
        blocks = (block for _, block in given.blocks())
        return cls(
            given, all(b.min() >= 0 and np.abs(b.sum(axis=1, dtype=np.float64) - 1).max() < 1e-2 for b in blocks)
        )

    def __call__(self, rows: npt.NDArray[np.integer], unit: Matrix) -> Matrix:  # noqa: ARG002 - as Texts
        """Probabilities [n, C]."""
        chosen = checks.array("opinions", self.given.gather(rows), 2)
        if self.are_probabilities:
            return np.asarray(chosen, np.float32)
        return softmax(chosen, 1.0)


@dataclass(frozen=True)
class Images:
    """N images as features and opinions, and those that could not be read.

    encoder_hash, named_hash: tell the encoders that features and opinions come from, "" where nobody knows.
    """

    features: Features
    opinion: Texts | Scores
    encoder_hash: str = ""
    named_hash: str = ""
    quarantine: pa.Table = field(default_factory=no_quarantine)

    def __post_init__(self) -> None:
        distinct = len(pc.unique(self.ids))
        if distinct < len(self):
            raise ValueError(f"ids must differ, but {len(self)} images have only {distinct} ids")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def ids(self) -> pa.ChunkedArray:
        """What every image is called."""
        return self.features.ids

    def rows(self, rows: npt.NDArray[np.integer]) -> tuple[Matrix, Matrix]:
        """Features [n, d] and opinion [n, C] of some images."""
        features = self.features.take(rows)
        _check_finite(rows, first_not_finite(features))
        return features, self.opinion(rows, unit_rows(features if self.opinion.by_features else features[:0]))

    def units(self, rows: npt.NDArray[np.integer], center: Matrix) -> tuple[Matrix, Matrix]:
        """Features less the `center` [d] at length 1 [n, d], and opinion [n, C], of some images."""
        features = self.features.take(rows)
        checks.columns("features", features, len(center), "as those that were learned from")
        unit, plain, wrong = units(features, center, plain=self.opinion.by_features)
        _check_finite(rows, wrong)
        return unit, self.opinion(rows, plain)

    def narrow(self, columns: Sequence[Matrix]) -> Texts | None:
        """The opinion, where it and these columns are so few that `products` with them are best made in one pass."""
        opinion = self.opinion
        if not isinstance(opinion, Texts) or not opinion.by_features:
            return None
        return opinion if sum(map(len, columns)) + opinion.classes <= NARROW else None

    def products(
        self, rows: npt.NDArray[np.integer], center: Matrix, columns: Sequence[Matrix], opinion: Texts
    ) -> tuple[list[Matrix], Matrix]:
        """The features that `units` would give times each of the `columns` [k, d], and the opinion [n, C]."""
        features = self.features.take(rows)
        checks.columns("features", features, len(center), "as those that were learned from")
        checks.columns("features", features, opinion.vectors.shape[1], "as long as the encoder's texts")
        found = project(features, center, columns, opinion.vectors)
        _check_finite(rows, found.wrong)
        return found.centred, softmax(found.plain, opinion.scale)

    def called(self, rows: npt.NDArray[np.integer]) -> pa.ChunkedArray:
        """The ids of some images, in the order of `rows`."""
        return self.ids if len(rows) == len(self) else self.ids.take(pa.array(rows))


def _check_finite(rows: npt.NDArray[np.integer], wrong: int | None) -> None:
    if wrong is not None:
        raise ValueError(f"features must be finite numbers, but row {rows[wrong]} holds NaN or infinity")
