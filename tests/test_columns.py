"""Labels beside the images in Parquet files: text or numbers, under the ids that the images have."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gdui.images import labels_in, open_source

NAMES = ["ant", "bee", "cow"]


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()


def write(path: Path, labels: pa.Array, metadata: dict[bytes, bytes] | None = None) -> str:
    table = pa.table({"image": [picture(at) for at in range(len(labels))], "label": labels, "name": list("abcdefgh")})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)
    return str(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_text_names_a_class(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["bee", None, "", "ant", "cow", None, None, "bee"]).cast(kind)
    path = write(tmp_path / "photos.parquet", texts)
    found = labels_in(path, "label", NAMES)
    assert found == {"photos/0": "bee", "photos/3": "ant", "photos/4": "cow", "photos/7": "bee"}
    ids = [id_ for shard in open_source(path).shards for id_, _ in shard.read()]
    assert set(found) < set(ids)
    assert labels_in(path, "label", NAMES, id_column="name") == {"a": "bee", "d": "ant", "e": "cow", "h": "bee"}


def test_several_files_are_named_as_their_images_are(tmp_path: Path) -> None:
    for at in range(2):
        write(tmp_path / f"part-{at}.parquet", pa.array([at, -1, None, 2, -1, -1, -1, -1]))
    pattern = str(tmp_path / "part-{0..1}.parquet")
    found = labels_in(pattern, "label", NAMES)
    assert found == {"part-0/0": "ant", "part-0/3": "cow", "part-1/0": "bee", "part-1/3": "cow"}
    ids = [id_ for shard in open_source(pattern).shards for id_, _ in shard.read()]
    assert set(found) < set(ids)


def test_numbers_count_the_names_that_stand_with_the_column(tmp_path: Path) -> None:
    told = {"info": {"features": {"label": {"names": ["cow", "ant"], "_type": "ClassLabel"}}}}
    path = write(
        tmp_path / "a.parquet", pa.array([1, 0, -1, None, -1, -1, -1, -1]), {b"huggingface": json.dumps(told).encode()}
    )
    assert labels_in(path, "label", NAMES) == {"a/0": "ant", "a/1": "cow"}


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.array([3, 0, -1, None, -1, -1, -1, -1]))
    with pytest.raises(ValueError, match=r"'label' of .* holds 3, and there are only 3 names"):
        labels_in(path, "label", NAMES)
    with pytest.raises(ValueError, match=r"labels_column must be a column of .*, not 'kind'$"):
        labels_in(path, "kind", NAMES)
    with pytest.raises(ValueError, match="labels_column must hold text or whole numbers"):
        labels_in(path, "image", NAMES)
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="labels_column is a column of Parquet files"):
        labels_in(str(tmp_path / "a.npy"), "label", NAMES)
