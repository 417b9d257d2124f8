"""Every score against its formula in float64, and against torch-fidelity on the same weights and images."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui import _core
from gdui.cli import evaluating, main
from gdui.evaluation import fidelity as public
from gdui.evaluation.fidelity import neighbours, observe, scores
from gdui.evaluation.fidelity.frechet import between, frechet_distance, frechet_to_infinity, gaussian, of_moments
from gdui.evaluation.fidelity.inception import inception_score
from gdui.evaluation.fidelity.kernel import kernel_distance
from gdui.evaluation.fidelity.neighbours import precision_recall
from gdui.evaluation.fidelity.networks import digits_network, inception_network, load_network
from gdui.evaluation.fidelity.statistics import Stream, merged, moments

# A network of random weights hands out nearly equal images; this many of them are enough to compare arithmetic.
IMAGES = 12


def cloud(rng: np.random.Generator, n: int, d: int, *, spread: float = 1.0) -> np.ndarray:
    return (spread * rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)).astype(
        np.float32
    )


def test_moments_are_those_of_numpy(rng: np.random.Generator) -> None:
    rows = cloud(rng, 3000, 7) + 100
    found = moments(rows)
    assert found.count == 3000
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 1500), min_size=1, max_size=6), st.integers(0, 100))
def test_moments_are_the_same_bytes_however_the_stream_is_cut(cuts: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((sum(cuts), 3))
    stream, start = Stream(), 0
    for cut in cuts:
        stream.add(rows[start : start + cut])
        start += cut
    found, whole = stream.finish(), moments(rows)
    assert found.mean.tobytes() == whole.mean.tobytes()
    assert found.scatter.tobytes() == whole.scatter.tobytes()


def test_merged_moments_are_those_of_all(rng: np.random.Generator) -> None:
    rows = cloud(rng, 500, 5)
    found, whole = merged([moments(rows[:1]), moments(rows[1:200]), moments(rows[200:])]), moments(rows)
    assert found is not None
    assert found.count == 500
    np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-12)


def slow_frechet(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize("d", [2, 17, 200])
def test_frechet_distance_is_scipys(rng: np.random.Generator, d: int) -> None:
    a, b = cloud(rng, 600, d), cloud(rng, 500, d, spread=1.3)
    assert frechet_distance(a, b) == pytest.approx(slow_frechet(a, b), rel=1e-6)


def test_frechet_distance_of_gaussians_along_axes_is_the_closed_form(rng: np.random.Generator) -> None:
    """Columns that are orthogonal by construction: the distance is a sum over axes of (s1 - s2)^2."""
    basis = np.linalg.qr(rng.standard_normal((64, 9)) - 0)[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    first, second = 10.0 ** np.arange(0, -9, -1), 3 * 10.0 ** np.arange(0, -9, -1)
    expected = float(((first - second) ** 2).sum() / 63)
    assert frechet_distance(basis * first, basis * second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (60, 70), (60, 300)])
def test_singular_covariances_are_compared_too(rng: np.random.Generator, n: int, m: int) -> None:
    """The oracle: tr (S1 S2)^(1/2) is the sum of the singular values of the product of the centred samples."""
    a, b = rng.standard_normal((n, 80)), rng.standard_normal((m, 80)) * 2 + 1
    centred_a, centred_b = (a - a.mean(0)) / math.sqrt(n - 1), (b - b.mean(0)) / math.sqrt(m - 1)
    trace = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (centred_a**2).sum() + (centred_b**2).sum() - 2 * trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert between(of_moments(moments(a)), of_moments(moments(b))) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself(rng: np.random.Generator) -> None:
    rows = cloud(rng, 300, 50)
    assert frechet_distance(rows, rows) < 1e-9 * float(np.cov(rows, rowvar=False).trace())


def test_the_extrapolated_distance_has_less_bias(rng: np.random.Generator) -> None:
    """Both sets come from one distribution, so the true distance is 0 but for the reference's own bias."""
    d = 40
    reference = gaussian(rng.standard_normal((100_000, d)))
    sample = rng.standard_normal((1000, d))
    plain, endless = between(gaussian(sample), reference), frechet_to_infinity(sample, reference)
    assert abs(endless) < plain / 4


def slow_share(points: np.ndarray, rows: np.ndarray, k: int) -> float:
    points, rows = points.astype(np.float64), rows.astype(np.float64)

    def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    radii = np.sort(squared(rows, rows), axis=1)[:, k]
    return float((squared(points, rows) <= radii).any(axis=1).mean())


@pytest.mark.parametrize(("n", "m", "d", "shift"), [(300, 250, 7, 0.0), (130, 310, 70, 0.1), (257, 129, 33, 50.0)])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_precision_and_recall_are_brute_forces(
    rng: np.random.Generator, n: int, m: int, d: int, shift: float, k: int
) -> None:
    a = (rng.standard_normal((n, d)) * 1.2 + shift).astype(np.float32)
    b = (rng.standard_normal((m, d)) + shift).astype(np.float32)
    assert precision_recall(a, b, k) == (slow_share(a, b, k), slow_share(b, a, k))


def test_copies_lie_on_the_border_and_count(rng: np.random.Generator) -> None:
    """Radii of 0, and points exactly on a ball's border."""
    rows = np.repeat(rng.integers(0, 3, (40, 5)).astype(np.float32), 6, axis=0)
    assert precision_recall(rows, rows[rng.permutation(len(rows))]) == (1.0, 1.0)
    grid = np.arange(50, dtype=np.float32)[:, None]
    assert precision_recall(grid + 3, grid, 3) == (slow_share(grid + 3, grid, 3), slow_share(grid, grid + 3, 3))


def test_every_road_gives_the_same_balls(rng: np.random.Generator) -> None:
    a, b = neighbours._within_half(cloud(rng, 700, 50), cloud(rng, 400, 50))
    squares = _core.radii(b, k=4, threads=1, instructions="portable")
    covered = _core.inside(a, b, squares, threads=1, instructions="portable")
    assert 0 < covered.mean() < 1
    for threads, instructions in ((1, "amx"), (3, "amx"), (2, "portable"), (1, "avx2"), (1, "avx512")):
        assert _core.radii(b, k=4, threads=threads, instructions=instructions).tobytes() == squares.tobytes()
        assert (_core.inside(a, b, squares, threads=threads, instructions=instructions) == covered).all()


def test_a_lone_far_point_does_not_disturb(rng: np.random.Generator) -> None:
    a, b = cloud(rng, 1200, 3), cloud(rng, 500, 3)
    a[3] *= 1e4
    assert precision_recall(a, b) == (slow_share(a, b, 3), slow_share(b, a, 3))


def test_kernel_distance_is_the_unbiased_estimate(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((50, 4)), rng.standard_normal((50, 4)) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    pairs = [(i, j) for i in range(50) for j in range(50)]
    within = sum(kernel(s[i], s[j]) for s in (a, b) for i, j in pairs if i != j) / (50 * 49)
    between = sum(kernel(a[i], b[j]) for i, j in pairs) / 2500
    assert kernel_distance(a, b, subsets=1, size=50).mean == pytest.approx(within - 2 * between, rel=1e-10)


def test_inception_score_of_sure_and_even_answers_is_the_number_of_classes() -> None:
    logits = 1000 * np.eye(8)[np.arange(800) % 8]
    assert inception_score(logits, parts=1).mean == pytest.approx(8)
    assert inception_score(np.zeros((50, 8))).mean == pytest.approx(1)


def test_a_class_that_no_image_shows_leaves_the_inception_score_known() -> None:
    logits = 1000 * np.eye(8)[np.arange(700) % 7]
    assert inception_score(logits, parts=1).mean == pytest.approx(7)


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


COUNTED = """
import os, sys
from pathlib import Path
from gdui.cli import main
from gdui.evaluation.fidelity.networks import Network

looked, look = [], Network.look
Network.look = lambda self, pixels: looked.append(len(pixels)) or look(self, pixels)
code = main(sys.argv[1:])
Path.home().joinpath("looked" + os.environ.get("RANK", "")).write_text(str(sum(looked)))
sys.exit(code)
"""


def test_the_command_on_two_ranks_shares_the_images_and_prints_once_what_one_does(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """The first writes the reference's statistics, which one process then reads."""
    (tmp_path / "counted.py").write_text(COUNTED)
    for name in ("real", "drawn"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (200, 8, 8), dtype=np.uint8))
    command = [str(tmp_path / "counted.py"), "evaluate", f"mine={tmp_path / 'drawn.npy'}"]
    command += ["--reference", str(tmp_path / "real.npy"), "--network", "digits", "--json"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29733"]
    told: list[dict[str, Any]] = []
    for start, home, looked in ((torchrun, "two", [256, 144]), ([], "one", [400]), ([], "two", [200, 256, 144])):
        (tmp_path / home).mkdir(exist_ok=True)
        environment = os.environ | {"HOME": str(tmp_path / home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        line = [sys.executable, "-P", *start, *command]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout)["mine"])
        assert told[-1].pop("network") == "digits"
        assert [int(file.read_text()) for file in sorted((tmp_path / home).glob("looked*"))] == looked
        assert len(list((tmp_path / home).rglob("*.npz"))) == 1
    assert told[0] == pytest.approx(told[1], rel=1e-9)
    assert told[0] == pytest.approx(told[2], rel=1e-9)


def test_rows_of_one_table_must_be_made_alike(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    network = digits_network(device="cpu")
    with pytest.raises(ValueError, match="same samples, but one has 40, other has 30"):
        public.evaluate({"one": images, "other": images[:30]}, images, network)
    rows = public.evaluate({"one": images, "other": images[::-1]}, images, network, samples=30)
    assert rows["one"].samples == 30
    assert rows["one"].references == 40
    public.comparable(rows)
    with pytest.raises(ValueError, match="same samples"):
        public.comparable(rows | {"short": public.evaluate({"short": images[:20]}, images, network)["short"]})
    assert all(math.isfinite(value) for value in vars(rows["one"]).values() if isinstance(value, float))


def judged(count: int, **options: Any) -> Any:
    images = np.zeros((9, 8, 8), np.uint8)
    return public.evaluate({"few": images[:count]}, images, digits_network(device="cpu"), **options)


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: frechet_distance(np.ones((5, 3)), np.ones((5, 4))), "same number of columns, not 3 and 4"),
        (lambda: frechet_distance(np.ones((1, 3)), np.ones((5, 3))), "at least 2 rows, not 1"),
        (lambda: frechet_distance([[np.nan, 1]], np.ones((5, 2))), "features holds NaN"),
        (lambda: precision_recall(np.ones((5, 3)), np.ones((3, 3))), "k must be below 3"),
        (lambda: kernel_distance(np.ones((5, 3)), np.ones((5, 3))), "size must be at most 5"),
        (lambda: load_network("digits", weights="x"), "weights are for network 'inception' only"),
        (lambda: inception_network("nowhere.pth"), "'nowhere.pth' is none"),
        (lambda: public.evaluate({}, np.zeros((3, 8, 8), np.uint8)), "at least one set"),
        (lambda: precision_recall(np.full((9, 3), 1e39), np.ones((9, 3))), "generated in float32 holds NaN or inf"),
        (lambda: judged(3), "at least 4 images each, not 3 and 9"),
        (lambda: judged(5, samples=0), "samples must be at least 1, not 0"),
        (lambda: judged(5, size=0), "size must be at least 1, not 0"),
    ],
)
def test_mistakes_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_command_prints_a_table(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluating, "CACHE", tmp_path / "cache")
    for name, count in (("real", 40), ("drawn", 30), ("other", 20)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (count, 8, 8), dtype=np.uint8))
    real, drawn, other = (str(tmp_path / f"{name}.npy") for name in ("real", "drawn", "other"))
    command = ["evaluate", f"mine={drawn}", "--reference", real, "--network", "digits"]
    assert main(command) == 0
    assert "30 images a row beside 40 real ones, seen by digits" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["mine"]) >= {"fid", "sfid", "inception_score", "recall"}
    assert main(["evaluate", other, *command[1:]]) == 1
    assert "same samples, but" in capsys.readouterr().err
    assert main(["evaluate", "mine=", *command[2:]]) == 1
    assert "sets must be NAME=SOURCE or a source, not 'mine='" in capsys.readouterr().err


def test_the_command_scores_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.repeat(np.eye(2, 4), 20, axis=0) + np.random.default_rng(0).normal(0, 0.05, (40, 4))
    np.save(tmp_path / "features.npy", features.astype(np.float32))
    np.save(tmp_path / "opinions.npy", np.repeat([[0.9, 0.1], [0.1, 0.9]], 20, axis=0).astype(np.float32))
    np.save(tmp_path / "truth.npy", np.repeat([0, 1], 20))
    (tmp_path / "names.txt").write_text("left\nright\n")
    run = str(tmp_path / "run")
    labelled = ["label", str(tmp_path / "features.npy"), "--features", "--opinions", str(tmp_path / "opinions.npy")]
    assert main([*labelled, "--classes", str(tmp_path / "names.txt"), "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1
    assert found["per class"] == {"left": 1, "right": 1}
    np.save(tmp_path / "truth.npy", np.zeros(40, int))
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per class"] == {"left": 0.5, "right": None}
    for content in (b"", b"id,label", b"PK\x03\x04"):
        (tmp_path / "other").write_bytes(content)
        assert main(["evaluate", run, "--truth", str(tmp_path / "other")]) == 1
        assert "an .npy file of class numbers" in capsys.readouterr().err
    assert main(["evaluate", run, "--truth", str(tmp_path / "none.npy")]) == 1
    assert "none.npy: No such file" in capsys.readouterr().err
    (tmp_path / "truth.csv").write_text("id,label\n0,left\n1,right\n20,right\n21,\n")
    assert main(["evaluate", run, "--truth", str(tmp_path / "truth.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per class"] == {"left": 1, "right": 0.5}
