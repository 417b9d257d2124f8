"""Labels: one row an image, in Arrow columns that stay small at ten million rows."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gdui import checks
from gdui.labels import export, files, words
from gdui.labels.facts import Facts
from gdui.labels.totals import Totals, no_quarantine
from gdui.places import place
from gdui.runs import LABELS, QUARANTINE, read_manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RULES", "Labels", "no_quarantine"]

# What decided on an image's label, and how that is said after "because".
RULES = {
    "cluster": "that is the name of its cluster",
    "opinion": "its cluster's name is in doubt and it lies only loosely in it, so the opinion's first choice stands",
    "unvoted": "none of its cluster's surest images votes for the cluster's name, so the opinion's first choice stands",
    "graph": "the votes of images like it, and what was learned from them, outweigh what cluster and opinion came to",
    "rejected": "neither it nor the images like it surely belong to any class",
    "pinned": "a person said so",
    "alone": "nothing bears the opinion out, so its first choice stands as it is",
}

NAME = pa.dictionary(pa.int32(), pa.string())
COLUMNS = pa.schema(
    [
        ("id", pa.large_string()),
        ("label", NAME),
        ("label_index", pa.int32()),
        ("confidence", pa.float32()),
        ("matched_label", NAME),
        ("cluster", pa.int32()),
        ("cluster_confidence", pa.float32()),
        ("consistency", pa.float32()),
        ("clip_label", NAME),
        ("clip_confidence", pa.float32()),
        ("clip_second", NAME),
        ("rule", NAME),
    ]
)


@dataclass(frozen=True, eq=False)
class Labels:
    """A label for every image, and why. `table` has the columns of COLUMNS, `facts` what holds for all of them.

    `quarantine` has the id and the reason of every image that could not be read and so has no row. A run folder keeps
    it in a file of its own; the files that labels are written to leave it out.
    """

    table: pa.Table
    classes: list[str]
    facts: Facts
    quarantine: pa.Table = field(default_factory=no_quarantine)

    @classmethod
    def from_arrays(
        cls,
        ids: Sequence[str] | npt.NDArray[np.str_] | pa.ChunkedArray,
        classes: Sequence[str],
        *,
        label_index: npt.ArrayLike,
        confidence: npt.ArrayLike,
        matched_index: npt.ArrayLike,
        cluster: npt.ArrayLike,
        cluster_confidence: npt.ArrayLike,
        consistency: npt.ArrayLike,
        clip_index: npt.ArrayLike,
        clip_confidence: npt.ArrayLike,
        clip_second_index: npt.ArrayLike,
        rule: npt.ArrayLike,
        facts: Facts,
    ) -> Self:
        """Labels from vectors of length N. Indices of classes are -1 where there is none, numbers NaN where unknown.

        Args:
            ids: one distinct text an image.
            classes: their names; the indices count from them.
            rule: a name of RULES an image, or its position there.
        """
        names = _class_names(classes)
        columns = {
            "id": _ids(ids),
            "label": _named("label_index", label_index, names),
            "label_index": pa.array(checks.indices("label_index", label_index, lowest=-1), pa.int32()),
            "confidence": _numbers("confidence", confidence),
            "matched_label": _named("matched_index", matched_index, names),
            "cluster": pa.array(checks.indices("cluster", cluster, lowest=-1), pa.int32()),
            "cluster_confidence": _numbers("cluster_confidence", cluster_confidence),
            "consistency": _numbers("consistency", consistency),
            "clip_label": _named("clip_index", clip_index, names),
            "clip_confidence": _numbers("clip_confidence", clip_confidence),
            "clip_second": _named("clip_second_index", clip_second_index, names),
            "rule": _named("rule", _rule_index(rule), list(RULES)),
        }
        checks.same_length(**columns)
        return cls(pa.table(columns, schema=COLUMNS), names, facts)

    @classmethod
    def joined(cls, parts: "Sequence[Labels]", facts: Facts, quarantine: pa.Table) -> Self:
        """The labels of all `parts`, in their order."""
        table = pa.concat_tables([part.table for part in parts]).combine_chunks()
        return cls(table, parts[0].classes, facts, quarantine)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"<Labels of {len(self):,} images in {len(self.classes)} classes>"

    @property
    def ids(self) -> pa.ChunkedArray:
        """What every image is called, in the order of the rows."""
        return self.table["id"]

    @property
    def label_index(self) -> npt.NDArray[np.int32]:
        """The class of every image, -1 where it was abstained on."""
        return self.numbers("label_index")

    @property
    def nameless(self) -> list[str]:
        """The classes that no cluster is named after."""
        return Totals.none(self.classes, self.facts).nameless

    def totals(self) -> Totals:
        """The labels summed up."""
        totals = replace(Totals.none(self.classes, self.facts), quarantine=self.quarantine)
        return next(totals for _ in totals.counting([self.table]))

    def numbers(self, column: str) -> npt.NDArray[Any]:
        """A numeric column; NaN where unknown."""
        return np.asarray(self.table[column].to_numpy())

    def indices(self, column: str) -> npt.NDArray[np.int32]:
        """The positions in `classes` (in RULES for "rule") of a column of names; -1 for none."""
        return np.concatenate([np.empty(0, np.int32)] + [_codes(chunk) for chunk in self.table[column].chunks])

    def report(
        self,
        path: str | os.PathLike[str] = "report.html",
        *,
        images: Any = None,
        features: Any = None,
        truth: Mapping[str, str] | None = None,
        title: str = "labels",
    ) -> Path:
        """Writes one HTML page, in need of nothing else, by which a person can judge these labels and correct them.

        Args:
            path: of the file to write; it is returned.
            images: the pictures: a folder that the ids lie in, or anything else `gdui.images.open_source` takes.
            features: vectors of the images [N, d], from which a map is drawn.
            truth: the true class name of each id that is known.
            title: what the page is called.
        """
        # The one step upward: the page is made from labels, and this is its short name.
        report_labels = import_module("gdui.report").report_labels
        return Path(report_labels(self, path, images=images, features=features, truth=truth, title=title))

    def decided(self) -> "Labels":
        """Without the images that were abstained on."""
        return self.take(np.flatnonzero(self.label_index >= 0))

    def take(self, rows: npt.ArrayLike) -> "Labels":
        """The images in these rows."""
        wanted = checks.indices("rows", rows, len(self))
        return replace(self, table=self.table.take(pa.array(wanted, pa.int64())))

    def find(self, path: str) -> str:
        """The id that a path means: it is one, the end of one ("7.png" for "photos/7.png"), or ends in one.

        Where there is none it is returned as it stands; where there are several a ValueError names them.
        """
        ids = pa.chunked_array([*self.ids.chunks, *self.quarantine["id"].cast(pa.large_string()).chunks])
        ends = [path.split("/", skipped)[-1] for skipped in range(path.count("/") + 1)]
        if found := next((end for end in ends if pc.index(ids, pa.scalar(end, ids.type)).as_py() >= 0), None):
            return found
        matching = ids.filter(pc.ends_with(ids, f"/{path}"))
        if len(matching) > 1:
            raise ValueError(f"{path!r} may be {words.listed(matching.to_pylist())}: give more of the id")
        return str(matching[0]) if len(matching) else path

    def row(self, id: str) -> dict[str, Any]:  # noqa: A002 - the column's name
        """Everything the table holds on one image."""
        at = pc.index(self.ids, pa.scalar(id, pa.large_string())).as_py()
        if at < 0:
            unread = pc.index(self.quarantine["id"], pa.scalar(id, self.quarantine.schema.field("id").type)).as_py()
            if unread >= 0:
                reason = self.quarantine["reason"][unread].as_py()
                raise ValueError(f"{id!r} has no label, since the image could not be read: {reason}")
            example = f"; they look like {self.ids[0].as_py()!r}" if len(self) else ""
            raise ValueError(f"no image has the id {id!r}{example}")
        return dict(self.table.slice(at, 1).to_pylist()[0])

    def why(self, id: str) -> str:  # noqa: A002 - the column's name
        """One paragraph on how the image `id` got its label."""
        return words.why(self.row(id), self.classes, self.facts, RULES)

    def summary(self) -> str:
        """How many images each class got, what each stage changed, and how good it should be."""
        return words.summary(self.totals())

    def diff(self, other: "Labels") -> words.Diff:
        """What `other` says otherwise, image by image."""
        return words.diff(self, other)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes one file, whole or not at all; the same labels give the same bytes."""
        files.write_parquet([self.table], COLUMNS, self.classes, self.facts, place(path))

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `to_parquet` wrote; refuses another program's file and a newer gdui's."""
        table, classes, facts = files.read_parquet(place(path), COLUMNS, list(RULES))
        return cls(table, classes, facts)

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str]) -> Self:
        """The labels that the run in `folder` ended with."""
        read_manifest(folder)
        path, unread = place(folder) / LABELS, place(folder) / QUARANTINE
        if not path.is_file():
            raise ValueError(f"{folder!s} has no labels yet: run gdui label again to finish it")
        labels = cls.from_parquet(path)
        return replace(labels, quarantine=files.read_quarantine(unread)) if unread.is_file() else labels

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the rows as CSV; a cell that a spreadsheet would take for a formula gets a quote in front."""
        files.write_csv(self.table, Path(path))

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a data frame, names as categories."""
        return export.to_pandas(self.table)

    def to_cleanlab(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """`labels` (N,) and `pred_probs` (N, C) as cleanlab takes them; see `decided` where images were abstained on.

        A label has its confidence; the rest goes to the class that the opinion names instead, or else names second.
        """
        return export.to_cleanlab(self)

    def to_imagefolder(self, folder: str | os.PathLike[str], images: str | os.PathLike[str]) -> int:
        """Fills the new `folder` with one a class, and that with links to files under `images`; returns how many."""
        return export.to_imagefolder(self, Path(folder), Path(images))

    def to_datasets(self, images: str | os.PathLike[str] | None = None) -> Any:
        """A Hugging Face `datasets.Dataset`, with the pictures where the folder `images` is given that ids lie in."""
        return export.to_datasets(self, None if images is None else Path(images))

    def to_label_studio(self, path: str | os.PathLike[str], prefix: str = "") -> None:
        """Writes tasks with predictions as Label Studio imports them; an image's address is `prefix` and its id."""
        export.to_label_studio(self, Path(path), prefix)

    def to_fiftyone(self, path: str | os.PathLike[str]) -> None:
        """Writes the labels.json of a FiftyOneImageClassificationDataset, whose `data_path` is the images' folder."""
        export.to_fiftyone(self, Path(path))


def _class_names(classes: Sequence[str]) -> list[str]:
    names = list(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes must be a list of names, not {classes!r}")
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"classes must differ, but {twice!r} stands there more than once")
    return names


def _ids(ids: Sequence[str] | npt.NDArray[np.str_] | pa.ChunkedArray) -> pa.Array:
    """One piece, so that the bytes on disk don't depend on how the ids came."""
    try:
        column = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(ids, pa.large_string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise TypeError("ids must be texts") from None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise TypeError(f"ids must be texts, not {column.type}{' with gaps' if column.null_count else ''}")
    column = column.cast(pa.large_string())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    distinct = len(pc.unique(column))  # several times as fast as count_distinct
    if distinct < len(column):
        raise ValueError(f"ids must differ, but {len(column)} images have only {distinct} ids")
    return column


def _named(argument: str, index: npt.ArrayLike, names: list[str]) -> pa.DictionaryArray:
    codes = checks.indices(argument, index, len(names), lowest=-1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(names, pa.string()))


def _codes(chunk: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    return np.asarray(chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def _numbers(argument: str, value: npt.ArrayLike) -> pa.Array:
    numbers = checks.array(argument, value, 1, finite=False).astype(np.float32)
    return pa.array(numbers, mask=np.isnan(numbers))


def _rule_index(rule: npt.ArrayLike) -> npt.NDArray[Any]:
    given = np.asarray(rule)
    if given.dtype.kind not in "UO":
        return given
    names, inverse = np.unique(given.astype(str), return_inverse=True)
    order = list(RULES)
    codes = [order.index(checks.one_of("rule", name, order)) for name in names.tolist()]
    return np.asarray(codes, np.int32)[inverse]
