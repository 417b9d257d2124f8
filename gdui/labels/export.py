"""Labels for other tools: pandas, cleanlab, ImageFolder, Hugging Face datasets, Label Studio, FiftyOne."""

import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdui import __version__
from gdui.runs import atomic_path

if TYPE_CHECKING:
    import pandas as pd

    from gdui.labels.table import Labels

__all__ = ["to_cleanlab", "to_datasets", "to_fiftyone", "to_imagefolder", "to_label_studio", "to_pandas"]

LONGEST_NAME = 100


def to_pandas(table: pa.Table) -> "pd.DataFrame":
    """The rows as a data frame."""
    try:
        import pandas  # noqa: F401 - pyarrow needs it, and says so less clearly
    except ImportError:
        raise ImportError("a data frame needs pandas: pip install pandas") from None
    return table.to_pandas()


def to_cleanlab(labels: "Labels") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """`labels` (N,) and `pred_probs` (N, C), rows summing to 1."""
    index = labels.label_index.astype(np.int64)
    if (index < 0).any():
        raise ValueError(
            f"cleanlab can't take images without a label, here {int((index < 0).sum())}: use decided() first"
        )
    confidence = np.clip(np.nan_to_num(labels.numbers("confidence"), nan=1.0), 0, 1)
    first, second = labels.indices("clip_label"), labels.indices("clip_second")
    rival = np.where(first != index, first, second)
    rows, others = np.arange(len(index)), len(labels.classes) - 1
    probabilities = np.zeros((len(index), others + 1), np.float32)
    unknown = (rival < 0) | (rival == index)
    probabilities[unknown] = ((1 - confidence[unknown]) / max(others, 1))[:, None]
    probabilities[rows[~unknown], rival[~unknown]] = 1 - confidence[~unknown]
    probabilities[rows, index] = confidence if others else 1
    return index, probabilities


def to_imagefolder(labels: "Labels", folder: Path, images: Path) -> int:
    """folder/CLASS/ID links to images/ID, for every image with a label."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose a new folder")
    root = images.resolve()
    names = folder_names(labels.classes)
    made = 0
    for id_, index in _rows(labels):
        if index < 0:
            continue
        inside = _relative(id_)
        target = root / inside
        if not target.is_file():
            raise ValueError(f"there is no file {target}: links can be made only for images in a folder")
        link = folder / names[index] / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        made += 1
    return made


def folder_names(classes: list[str]) -> list[str]:
    """A distinct file name for each class: itself where it can be one, else what is left of it and a hash."""
    names = [_file_name(name) for name in classes]
    folded = [name.casefold() for name in names]
    return [
        name
        if name == given and folded.count(fold) == 1
        else f"{name}-{hashlib.sha256(given.encode('utf-8', 'replace')).hexdigest()[:8]}"
        for name, given, fold in zip(names, classes, folded, strict=True)
    ]


def to_datasets(labels: "Labels", images: Path | None) -> Any:
    """A `datasets.Dataset` with `label` as a ClassLabel (-1 for none) and, where `images` is given, an `image`."""
    try:
        import datasets
    except ImportError:
        raise ImportError("a Hugging Face data set needs the extra 'datasets': pip install 'gdui[datasets]'") from None
    table = labels.table.drop_columns(["label"]).rename_columns({"label_index": "label"})
    plain = [
        column.cast(pa.string())
        if pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type)
        else column
        for column in table.columns
    ]
    plain[table.schema.names.index("label")] = table["label"].cast(pa.int64())
    dataset = datasets.Dataset(pa.table(plain, names=table.schema.names))
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=labels.classes))
    if images is None:
        return dataset
    paths = [str(images.resolve() / _relative(id_)) for id_ in labels.ids.to_pylist()]
    return dataset.add_column("image", paths).cast_column("image", datasets.Image())


def to_label_studio(labels: "Labels", path: Path, prefix: str) -> None:
    """A list of tasks; the labelling configuration must name the image `image` and the choices `label`."""
    confidence = np.nan_to_num(labels.numbers("confidence"), nan=0.0).tolist()
    tasks = (
        json.dumps(_task(labels.classes, id_, index, score, prefix))
        for (id_, index), score in zip(_rows(labels), confidence, strict=True)
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for at, task in enumerate(tasks):
            file.write((",\n" if at else "\n") + task)
        file.write("\n]\n")


def _task(classes: list[str], id_: str, index: int, score: float, prefix: str) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"image": prefix + id_, "id": id_}}
    if index >= 0:
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [classes[index]]}}
        task["predictions"] = [{"model_version": f"gdui {__version__}", "score": round(score, 6), "result": [choice]}]
    return task


def to_fiftyone(labels: "Labels", path: Path) -> None:
    """FiftyOne knows an image by its path without the suffix; targets count from the list of classes.

    Where there is no label the target is None, and where there is no confidence none is written.
    """
    confidence = labels.numbers("confidence").tolist()
    targets: dict[str, Any] = {}
    for (id_, index), score in zip(_rows(labels), confidence, strict=True):
        key = os.path.splitext(id_)[0]  # noqa: PTH122 - ids need not be paths
        if key in targets:
            raise ValueError(
                f"FiftyOne could not tell {id_!r} from another image: but for the suffix their ids are equal"
            )
        sure = {} if math.isnan(score) else {"confidence": round(score, 6)}
        targets[key] = {"label": index} | sure if index >= 0 else None
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"classes": labels.classes, "labels": targets}), encoding="utf-8")


def _rows(labels: "Labels") -> Iterator[tuple[str, int]]:
    """(id, label_index) of every image."""
    for batch in labels.table.select(["id", "label_index"]).to_batches(max_chunksize=1 << 16):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _relative(id_: str) -> PurePosixPath:
    path = PurePosixPath(id_)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in id_:
        raise ValueError(f"the id {id_!r} is not a path inside a folder")
    return path


def _file_name(name: str) -> str:
    """Without separators, control characters, leading dots and edge blanks, and short enough for any file system."""
    kept = "".join("_" if sign in '/\\:*?"<>|' or unicodedata.category(sign)[0] == "C" else sign for sign in name)
    kept = kept.strip(" .") or "class"
    while len(kept.encode()) > LONGEST_NAME:
        kept = kept[: max(1, len(kept) * LONGEST_NAME // len(kept.encode()))]
    return kept
