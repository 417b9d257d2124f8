"""Finds what a user means by a source."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gdui.images.arrays import open_array, open_bytes, open_npy
from gdui.images.files import open_files, urls_of
from gdui.images.folders import open_folder
from gdui.images.shards import Source

__all__ = ["open_source"]


def open_source(
    source: Any,
    *,
    image_column: str | None = None,
    id_column: str | None = None,
    layout: str | None = None,
    ids: Sequence[str] | None = None,
) -> Source:
    """The images behind `source`, cut into shards with stable ids.

    Args:
        source: a folder; tar shards or Parquet files as a path, a pattern (`*`, `{000..099}`, any fsspec URL) or a
            list of these; an .npy or .npz file; an array or tensor of images; a list of encoded files (bytes).
        image_column: the Parquet column of the images, where it can't be guessed.
        id_column: the Parquet column that names the rows; without it the ids are file/row.
        layout: the axes of an array: "NHWC", "NCHW" or "NHW", where its shape leaves a doubt.
        ids: names for the rows of an array or a list; without them the ids are the row numbers.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if Path(path).is_dir():
            return open_folder(Path(path))
        if path.lower().endswith((".npy", ".npz")) and Path(path).is_file():
            return open_npy(Path(path), layout, ids)
        return open_files(path, urls_of(path), image_column, id_column)
    if isinstance(source, (list, tuple)) and source and all(isinstance(one, bytes) for one in source):
        return open_bytes(source, ids)
    if isinstance(source, (list, tuple)) and source and all(isinstance(one, (str, os.PathLike)) for one in source):
        return open_files("a list of files", urls_of(source), image_column, id_column)
    return open_array(source, layout, ids)
