"""The feature store: whole shards or none, the same bytes whatever the batch and the workers, no mixing of encoders."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gdui.images import Shard, Source, Transform, arrays, open_source
from gdui.labeling.encoders import Encoder, load_encoder
from gdui.labeling.features import Features, FeatureStore, encode_source, load_features

SMALL = Transform(size=8)


def encoder(seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.GELU(), nn.Linear(64, 5))
    return load_encoder(module, **{"transform": SMALL, "batch": 4, **options})


@pytest.fixture
def source(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Three shards of 10, 10 and 3 images, 2 of which can't be read."""
    monkeypatch.setattr(arrays, "ROWS", 10)
    images = rng.random((23, 8, 8, 3))
    images[[4, 15]] = 7
    return open_source(images, ids=[f"i{at}" for at in range(23)])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_source_becomes_features_with_ids(source: Source, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, encoder())
    ledger = encode_source(source, encoder(), store)
    features = store.features()
    assert features.ids.to_pylist() == [f"i{at}" for at in range(23) if at not in (4, 15)]
    assert (len(features), features.dim) == (21, 5)
    assert all(block.dtype == np.float16 for _, block in features.blocks())
    assert np.allclose(np.linalg.norm(features.array(), axis=1), 1, atol=2e-3)
    reason = "floats must be in [0, 1], not [7, 7]"
    assert store.quarantine().to_pylist() == [{"id": "i4", "reason": reason}, {"id": "i15", "reason": reason}]
    assert (ledger.images, ledger.quarantined, ledger.shards) == (21, 2, 3)
    assert min(ledger.encode, ledger.write, ledger.clock.decode) > 0


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (5, 2), (64, 4)])
def test_the_bytes_do_not_depend_on_batch_size_or_workers(
    source: Source, tmp_path: Path, batch_size: int, workers: int
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    encode_source(source, encoder(), FeatureStore(plain, encoder()))
    encode_source(source, encoder(), FeatureStore(other, encoder()), batch_size=batch_size, workers=workers)
    assert content(plain) == content(other)


def test_progress_is_reported(source: Source, tmp_path: Path) -> None:
    seen: list[int] = []
    encode_source(
        source, encoder(), FeatureStore(tmp_path, encoder()), progress=lambda ledger: seen.append(ledger.images)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 21


def test_a_second_run_does_nothing(source: Source, tmp_path: Path) -> None:
    encode_source(source, encoder(), FeatureStore(tmp_path, encoder()))
    before = content(tmp_path)
    ledger = encode_source(source, encoder(), FeatureStore(tmp_path, encoder()))
    assert (ledger.shards, ledger.shards_skipped, ledger.images) == (0, 3, 0)
    assert content(tmp_path) == before


def test_a_run_that_fails_continues_to_the_same_bytes(source: Source, tmp_path: Path) -> None:
    broken, whole = encoder(), encoder()
    calls = 0

    def failing(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise MemoryError("no more")
        return whole.forward(images)

    object.__setattr__(broken, "forward", failing)
    with pytest.raises(MemoryError):
        encode_source(source, broken, FeatureStore(tmp_path / "a", broken))
    ledger = encode_source(source, encoder(), FeatureStore(tmp_path / "a", encoder()))
    assert ledger.shards_skipped == 1
    encode_source(source, encoder(), FeatureStore(tmp_path / "b", encoder()))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_two_encoders_share_what_is_read(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = encoder(), encoder(seed=1)
    for name, alone in (("one", one), ("other", other)):
        encode_source(source, alone, FeatureStore(tmp_path / name, alone))
    both = FeatureStore(tmp_path / "a", one), FeatureStore(tmp_path / "b", other)
    with monkeypatch.context() as patched:
        patched.setattr(both[1], "write", None)
        with pytest.raises(TypeError):
            encode_source(source, one, both[0], beside=(other, both[1]))
    read: list[str] = []
    shards = [
        Shard(s.key, lambda s=s: (read.append(s.key), s.read())[1], s.stamp, s.fingerprint) for s in source.shards
    ]
    ledger = encode_source(Source("counted", shards), one, both[0], beside=(other, both[1]))
    assert read == [shard.key for shard in source.shards]
    assert (ledger.images, ledger.shards, ledger.shards_skipped) == (21, 3, 0)
    assert min(ledger.encode, ledger.beside) > 0
    assert content(tmp_path / "a") == content(tmp_path / "one")
    assert content(tmp_path / "b") == content(tmp_path / "other")
    shifted = encoder(transform=Transform(size=8, mean=(0.1, 0.1, 0.1)))
    with pytest.raises(ValueError, match="their transforms differ"):
        encode_source(source, one, both[0], beside=(shifted, FeatureStore(tmp_path / "c", shifted)))


def encode_slowly(folder: str, seconds: float = 0.0) -> None:
    """400 images in 50 shards."""
    arrays.ROWS = 8
    values = np.arange(400 * 192, dtype=np.uint32).astype(np.uint8).reshape(400, 8, 8, 3)

    def mean(images: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        return images.mean(dim=(2, 3))

    slow = load_encoder(mean, transform=SMALL, batch=4, device="cpu")
    encode_source(open_source(values), slow, FeatureStore(folder, slow))


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "ROWS", 8)
    victim = subprocess.Popen([sys.executable, __file__, str(tmp_path / "a")])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "a").glob("[0-9a-f]*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    done = len(list((tmp_path / "a").glob("[0-9a-f]*.parquet")))
    assert 5 <= done < 50
    for folder in ("a", "b"):
        encode_slowly(str(tmp_path / folder))
    kept = {name: data for name, data in content(tmp_path / "a").items() if not name.startswith(".")}
    assert kept == content(tmp_path / "b")


def test_features_of_another_encoder_are_refused(source: Source, tmp_path: Path) -> None:
    encode_source(source, encoder(), FeatureStore(tmp_path, encoder()))
    for other in (encoder(seed=1), encoder(transform=Transform(size=8, resize="squash")), encoder(dtype="float32")):
        if other.precision == encoder().precision and other.hash == encoder().hash and other.transform == SMALL:
            continue  # no bfloat16 on this machine
        with pytest.raises(ValueError, match="are of encoder 'Sequential', not of 'Sequential'; use the same encoder"):
            FeatureStore(tmp_path, other)


def test_the_same_weights_under_another_name_are_welcome(tmp_path: Path) -> None:
    FeatureStore(tmp_path, encoder())
    renamed = encoder()
    object.__setattr__(renamed, "name", "other")
    FeatureStore(tmp_path, renamed)


def test_a_grown_source_encodes_only_what_is_new(source: Source, tmp_path: Path) -> None:
    half = Source("half", source.shards[:2])
    encode_source(half, encoder(), FeatureStore(tmp_path / "a", encoder()))
    ledger = encode_source(source, encoder(), FeatureStore(tmp_path / "a", encoder()))
    assert (ledger.shards, ledger.shards_skipped) == (1, 2)
    encode_source(source, encoder(), FeatureStore(tmp_path / "b", encoder()))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_shard_that_changes_underway_stops_the_run(tmp_path: Path) -> None:
    stamps = iter("ab")

    def rows() -> Iterator[Any]:
        yield "0", np.zeros((8, 8, 3), np.uint8)

    shard = Shard.make("x", rows, lambda: next(stamps))
    with pytest.raises(OSError, match="shard 'x' of the source changed while it was read: run again to continue"):
        encode_source(Source("s", [shard]), encoder(), FeatureStore(tmp_path, encoder()))
    assert not list(tmp_path.glob("*.npy"))


def test_a_shard_without_a_readable_image_is_complete(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, encoder())
    encode_source(open_source([b"text"]), encoder(), store)
    assert store.features().array().shape == (0, 5)
    assert store.quarantine().num_rows == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest"])
def test_damage_is_noticed(source: Source, tmp_path: Path, damage: str) -> None:
    encode_source(source, encoder(), FeatureStore(tmp_path, encoder()))
    path = tmp_path / f"{source.shards[1].fingerprint}.npy"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:-20])
    elif damage == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "missing":
        path.unlink()
    else:
        (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"^features .*(is no feature store|can't be read|damaged: delete)"):
        load_features(tmp_path, verify=True)


def test_a_newer_store_is_refused_politely(source: Source, tmp_path: Path) -> None:
    FeatureStore(tmp_path, encoder())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(ValueError, match=r"were written by a newer gdui \(schema 99"):
        load_features(tmp_path)


# The virtual array


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), max_size=5), data=st.data())
def test_a_virtual_array_reads_like_a_real_one(sizes: list[int], data: st.DataObject) -> None:
    whole = np.random.default_rng(0).normal(size=(sum(sizes), 3)).astype(np.float16)
    parts = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    features = Features(sizes, parts.__getitem__, load_features(whole).ids, 3)
    assert len(features) == len(whole)
    assert np.array_equal(features.array(), whole)
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1)) if len(whole) else st.just([]))
    assert np.array_equal(features.gather(rows), whole[rows].astype(np.float32).reshape(-1, 3))
    blocks = list(features.blocks(4))
    assert all(np.array_equal(block, whole[at : at + len(block)]) and 0 < len(block) <= 4 for at, block in blocks)
    assert sum(len(block) for _, block in blocks) == len(whole)


def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "ROWS", 4)
    store = FeatureStore(tmp_path, encoder())
    encode_source(open_source(np.zeros((400, 8, 8, 3), np.uint8)), encoder(), store)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    try:
        features = store.features()
        assert features.array().shape == features.gather(np.arange(400)[::-1]).shape == (400, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ready_features(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(6, 4)).astype(np.float32)
    np.save(tmp_path / "f.npy", matrix)
    from_file = load_features(tmp_path / "f.npy", ids=list("abcdef"))
    assert isinstance(from_file.piece(0).base, np.memmap)
    assert np.array_equal(from_file.array(), matrix)
    assert from_file.ids.to_pylist() == list("abcdef")
    assert load_features(matrix).ids.to_pylist() == list("012345")
    assert load_features(from_file) is from_file


def test_ready_features_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features must have 2 axes, not 1"):
        load_features(np.zeros(3))
    with pytest.raises(ValueError, match="ids must be 3 names"):
        load_features(np.zeros((3, 2)), ids=["a"])
    (tmp_path / "f.npy").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"features .*f\.npy' can't be read"):
        load_features(tmp_path / "f.npy")
    with pytest.raises(ValueError, match=r"rows must be below 3, but holds 3"):
        load_features(np.zeros((3, 2))).gather([3])


if __name__ == "__main__":
    encode_slowly(sys.argv[1], seconds=0.02)
