"""What networks see of images: torch-fidelity's scores, however images are read, on any ranks, kept by content."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from gdui.evaluation import fidelity as public
from gdui.evaluation.fidelity import observe, scores
from gdui.evaluation.fidelity.frechet import frechet_distance
from gdui.evaluation.fidelity.kernel import kernel_distance
from gdui.evaluation.fidelity.networks import digits_network, inception_network

# A network of random weights hands out nearly equal images; this many of them are enough to compare arithmetic.
IMAGES = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights that keep the signal alive through its depth."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(theirs, "load_state_dict_from_url", lambda *_a, **_k: {})
        patched.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        model = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    base = rng.integers(0, 256, (2, IMAGES, 5, 5, 3)).astype(np.uint8)
    grown = base.repeat(8, axis=2).repeat(8, axis=3)
    return grown[0], grown[1]


def test_scores_are_torch_fidelitys(weights: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    theirs = FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(weights))
    maps: list[torch.Tensor] = []
    mixed = [part for name, part in theirs.named_children() if name.startswith("Mixed")]
    mixed[6].branch1x1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    drawn, real = (theirs(torch.from_numpy(images).permute(0, 3, 1, 2)) for images in pictures)
    network = inception_network(str(weights), device="cpu", batch=IMAGES)
    seen, truth = (observe.observe(images, network, size=40) for images in pictures)
    np.testing.assert_allclose(seen.pooled, drawn[0].numpy(), rtol=1e-5, atol=1e-6)
    ours = scores.fidelity(replace(seen, spatial=None), truth)
    # Theirs takes half a minute for all 2,048 features.
    statistics = [fid_features_to_statistics(features[0][:, :300]) for features in (drawn, real)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(seen.pooled[:, :300], truth.pooled[:, :300]) == pytest.approx(fid, rel=1e-3)
    assert ours.fid == pytest.approx(frechet_distance(seen.pooled, truth.pooled), rel=1e-9)
    score = isc_features_to_metric(drawn[1], splits=min(10, IMAGES))
    assert ours.inception_score == pytest.approx(score["inception_score_mean"], rel=1e-6)
    kernel = kid_features_to_metric(
        drawn[0], real[0], kid_subsets=5, kid_subset_size=10, kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=2020, verbose=False,
    )  # fmt: skip
    found = kernel_distance(seen.pooled, truth.pooled, subsets=5, size=10)
    assert found.mean == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-3)
    near = prc_features_to_metric(
        drawn[0], real[0], prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    assert (ours.precision, ours.recall) == pytest.approx((near["precision"], near["recall"]), abs=1e-6)
    assert seen.spatial is not None
    spatial = maps[0][:, :7].flatten(1).double().numpy()
    assert spatial.shape == (IMAGES, 2023)
    np.testing.assert_allclose(seen.spatial.mean, spatial.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.spatial.covariance.diagonal(), spatial.var(axis=0, ddof=1), rtol=1e-3, atol=1e-6)


def test_what_is_seen_does_not_depend_on_how_images_are_read(rng: np.random.Generator, tmp_path: Path) -> None:
    from PIL import Image

    images = rng.integers(0, 256, (70, 8, 8), dtype=np.uint8)
    for row, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{row:03}.png")
    network = digits_network(device="cpu")
    one, other = (observe.observe(source, network, size=8) for source in (images, tmp_path))
    assert one.pooled.tobytes() == other.pooled.tobytes()
    assert one.spatial is not None
    assert other.spatial is not None
    assert one.spatial.scatter.tobytes() == other.spatial.scatter.tobytes()
    assert one.logits is not None
    assert one.logits.shape == (70, 10)
    some = observe.observe(images, network, size=8, samples=66)
    assert some.pooled.tobytes() == one.pooled[:66].tobytes()
    smaller = observe.observe(images, digits_network(device="cpu", batch=9), size=8)
    np.testing.assert_allclose(smaller.pooled, one.pooled, rtol=1e-5, atol=1e-5)
    assert smaller.spatial is not None
    np.testing.assert_allclose(smaller.spatial.mean, one.spatial.mean, rtol=1e-5, atol=1e-5)


def test_references_are_kept_by_content(rng: np.random.Generator, tmp_path: Path) -> None:
    images = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    network = digits_network(device="cpu")
    fresh = observe.observe_reference(images, network, size=8, cache=tmp_path)
    (kept,) = tmp_path.glob("*.npz")

    def never(*_: object) -> Any:
        raise AssertionError("looked again")

    blind = type(network)(network.name, network.hash, network.batch, never)
    again = observe.observe_reference(images.copy(), blind, size=8, cache=tmp_path)
    assert again.pooled.tobytes() == fresh.pooled.tobytes()
    assert again.spatial is not None
    assert fresh.spatial is not None
    assert again.spatial.scatter.tobytes() == fresh.spatial.scatter.tobytes()
    images[0, 0, 0] ^= 1
    with pytest.raises(AssertionError, match="looked again"):
        observe.observe_reference(images, blind, size=8, cache=tmp_path)
    kept.write_bytes(b"broken")
    images[0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        observe.observe_reference(images, blind, size=8, cache=tmp_path)


RANK = """
import sys
import numpy as np
import torch.distributed as dist
from gdui.evaluation.fidelity import networks, observe

rank, folder = int(sys.argv[1]), sys.argv[2]
images, network = np.load(f"{folder}/images.npy"), networks.digits_network(device="cpu")
if rank == 0:
    observe.observe_reference(images[:100], network, size=8, cache=f"{folder}/cache{rank}")
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
assert len(observe.observe_reference(images[:100], network, size=8, cache=f"{folder}/cache{rank}")) == 100
seen = observe.observe(images, network, size=8)
np.savez(f"{folder}/{rank}.npz", pooled=seen.pooled, scatter=seen.spatial.scatter, count=seen.spatial.count)
dist.destroy_process_group()
"""


def test_two_ranks_see_what_one_sees(tmp_path: Path, rng: np.random.Generator) -> None:
    """Also where only one of them has a reference in its cache: they look together, or wait for ever."""
    images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    running = [subprocess.Popen([sys.executable, "-P", "-c", RANK, str(rank), str(tmp_path)]) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    alone = observe.observe(images, digits_network(device="cpu"), size=8)
    assert alone.spatial is not None
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as seen:
            np.testing.assert_allclose(seen["pooled"], alone.pooled, atol=1e-6)
            assert seen["count"] == alone.spatial.count
            np.testing.assert_allclose(seen["scatter"], alone.spatial.scatter, atol=1e-5)


def test_where_weights_cannot_be_fetched_it_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(theirs, "load_state_dict_from_url", offline)
    with pytest.raises(OSError, match=r"no route.*\(weights=, --weights\), .* \(--network\) 'digits' or an encoder$"):
        inception_network()


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    for name in ("other.pth", "tensor.pth"):
        with pytest.raises(ValueError, match=rf"{name}' are not those of torch-fidelity's Inception"):
            inception_network(str(tmp_path / name), device="cpu")


def test_weights_saved_on_a_gpu_are_read_on_a_cpu(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's storages say where they were; whoever reads them says where they go."""
    read, asked = torch.load, []

    def load(file: Any, **options: Any) -> Any:
        asked.append(options.get("map_location") if isinstance(file, (str, Path)) else "from memory")
        return read(file, **options)

    monkeypatch.setattr(torch, "load", load)
    inception_network(str(weights), device="cpu")
    assert asked == ["cpu", "from memory"]


def test_an_image_that_cannot_be_read_is_named_with_its_set(rng: np.random.Generator, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "set").mkdir()
    for row in range(5):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "set" / f"{row}.png")
    (tmp_path / "set" / "0.png").write_bytes(b"no picture")
    network = digits_network(device="cpu")
    with pytest.raises(ValueError, match=r"image 0.png of .*set can't be read"):
        public.evaluate({"one": tmp_path / "set"}, np.zeros((9, 8, 8), np.uint8), network)
