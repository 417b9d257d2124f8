"""Refinement against the paper's tree written out, and the sweep against as many refinements."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui import _core
from gdui.labeling.refine import Branch, Rule, refine, sweep

Array = npt.NDArray[Any]


def tree(
    cluster: Array,
    confidence: Array,
    opinion: Array,
    name: Array,
    sigma: float,
    n: int,
    weights: tuple[float, float],
    lambdas: tuple[float, float, float],
    on_mismatch: str,
) -> tuple[list[int], list[Rule], list[Branch]]:
    """Branch by branch, sample by sample."""
    label = [int(name[k]) for k in cluster]
    rule = [Rule.MATCHED if x >= 0 else Rule.UNNAMED for x in label]
    branches = []
    for m in range(len(name)):
        members = [i for i in range(len(cluster)) if cluster[i] == m]
        if not members:
            branches.append(Branch.EMPTY)
            continue
        count = min(n, -(-len(members) // 10))
        top = sorted(members, key=lambda i: (-float(confidence[i]), i))[:count]
        btm = sorted(members, key=lambda i: (float(confidence[i]), i))[:count]
        delta_top = sum(bool(opinion[i] == name[m]) for i in top) / count
        delta_btm = sum(bool(opinion[i] == name[m]) for i in btm) / count
        r_btm = sum(float(confidence[i]) for i in btm) / count
        total = sum(weights)
        delta = weights[0] / total * delta_top + weights[1] / total * delta_btm
        doubtful = [i for i in members if r_btm < sigma and float(confidence[i]) < sigma]
        if on_mismatch == "relabel" and delta_top == 0:
            branch, relabelled, why = Branch.NO_VOTE, members, Rule.NO_VOTE
        elif delta > lambdas[0]:
            branch, relabelled, why = Branch.AGREED, [], Rule.MATCHED
        elif delta_top < lambdas[1]:
            branch, relabelled, why = Branch.TOP_BAD, doubtful, Rule.OPINION
        elif delta_btm < lambdas[2]:
            branch, relabelled, why = Branch.BOTTOM_BAD, doubtful, Rule.OPINION
        else:
            branch, relabelled, why = Branch.BOTH_GOOD, [], Rule.MATCHED
        branches.append(branch)
        for i in relabelled:
            label[i], rule[i] = int(opinion[i]), why
    return label, rule, branches


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    n, k, seed = draw(st.integers(0, 250)), draw(st.integers(1, 6)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    real = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    name = rng.integers(-1 if draw(st.booleans()) else 0, 5, k)
    cluster = rng.integers(0, k, n)
    agreeing = rng.random(n) < rng.random(k)[cluster] ** 0.3
    return {
        "cluster": cluster,
        "confidence": (rng.integers(0, 101, n) / 100).astype(real),
        "opinion": np.where(agreeing & (name[cluster] >= 0), name[cluster], rng.integers(0, 5, n)),
        "class_of_cluster": name,
        "n": draw(st.sampled_from([1, 3, 100])),
        "weights": draw(st.sampled_from([(0.5, 0.5), (1.0, 0.0), (0.25, 0.5)])),
        "on_mismatch": draw(st.sampled_from(["keep", "relabel"])),
        "lambda_delta": draw(st.sampled_from([0.95, 0.6, 1.0])),
        "lambda_top": draw(st.sampled_from([0.9, 0.5, 0.0])),
        "lambda_btm": draw(st.sampled_from([0.9, 0.5])),
    }


def has_gpu() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


PLACES = ["cpu", pytest.param("gpu", marks=pytest.mark.skipif(not has_gpu(), reason="no CuPy, or no GPU"))]


def refined(place: str, asked: dict[str, Any], **how: Any) -> Any:
    """What `refine` makes of arrays in this place, as NumPy's."""
    if place == "cpu":
        return refine(**asked, **how)
    import cupy

    moved = {name: cupy.asarray(asked[name]) for name in ("cluster", "confidence", "opinion")}
    found = refine(**asked | moved, **how)
    names = ("label_index", "rule", "branch", "delta_top", "delta_btm", "r_btm")
    return SimpleNamespace(**{name: cupy.asnumpy(getattr(found, name)) for name in names})


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=200, deadline=None)
@given(questions(), st.sampled_from([0.0, 0.07, 0.3, 0.5, 0.99, 1.0]), st.sampled_from([1, 2, 5]))
def test_refine_is_the_tree_of_the_paper(place: str, asked: dict[str, Any], sigma: float, threads: int) -> None:
    found = refined(place, asked, sigma=sigma, threads=threads)
    label, rule, branch = tree(
        asked["cluster"],
        asked["confidence"],
        asked["opinion"],
        asked["class_of_cluster"],
        sigma,
        asked["n"],
        asked["weights"],
        (asked["lambda_delta"], asked["lambda_top"], asked["lambda_btm"]),
        asked["on_mismatch"],
    )
    assert found.branch.tolist() == branch
    assert found.label_index.tolist() == label
    assert found.rule.tolist() == rule


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=40, deadline=None)
@given(questions())
def test_the_tree_reduces_to_two_questions(place: str, asked: dict[str, Any]) -> None:
    """Without a cluster that is good at both ends, low delta and low r_btm alone decide."""
    found = refined(place, asked, sigma=0.5)
    top, btm = asked["weights"]
    delta = (top * found.delta_top + btm * found.delta_btm) / (top + btm)
    decided = (found.branch != Branch.BOTH_GOOD) & (found.branch != Branch.NO_VOTE)
    relabels = (delta <= asked["lambda_delta"]) & (found.r_btm < 0.5)
    cluster = asked["cluster"]
    doubtful = relabels[cluster] & (asked["confidence"].astype(float) < 0.5)
    mine = decided[cluster]
    np.testing.assert_array_equal((found.rule == Rule.OPINION)[mine], doubtful[mine])


@settings(max_examples=60, deadline=None)
@given(questions(), st.sampled_from([1, 2, 5]))
def test_the_sweep_is_as_many_refinements(asked: dict[str, Any], threads: int) -> None:
    found = sweep(**asked, n_classes=5, threads=threads)
    cluster, name, opinion = asked["cluster"], asked["class_of_cluster"], asked["opinion"]
    assert len(found.sigma) == 101
    for step in range(0, 101, 4):
        label = refine(**asked, sigma=float(found.sigma[step])).label_index
        assert found.changed[step] == (label != name[cluster]).sum()
        assert found.class_size[step].tolist() == np.bincount(label[label >= 0], minlength=5).tolist()
        assert found.agreement[step] == pytest.approx((label == opinion).mean() if len(label) else 0)


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_sigma_below_one_in_k_changes_nothing(place: str, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(k, 0.5), n)
    cluster, confidence = probability.argmax(axis=1), probability.max(axis=1)
    asked = {"cluster": cluster, "confidence": confidence, "opinion": rng.integers(0, k, n)}
    found = refined(place, asked | {"class_of_cluster": np.arange(k)}, sigma=0.999 / k)
    np.testing.assert_array_equal(found.label_index, cluster)


def many(rng: np.random.Generator, n: int = 120_000, k: int = 40) -> tuple[Array, Array, Array, Array]:
    cluster = rng.integers(0, k, n)
    opinion = np.where(rng.random(n) < 0.9, cluster, rng.integers(0, k, n))
    return cluster, rng.random(n, dtype=np.float32), opinion, np.arange(k)


def test_threads_strides_and_types_change_nothing(rng: np.random.Generator) -> None:
    cluster, confidence, opinion, name = many(rng)
    expected, swept = refine(cluster, confidence, opinion, name, threads=1), sweep(cluster, confidence, opinion, name)
    assert 0 < (expected.rule == Rule.OPINION).sum() < len(cluster)
    double = np.repeat(confidence, 2)
    double.flags.writeable = False
    for threads in (1, 2, 3):
        found = refine(cluster.astype(np.int32), double[::2], opinion.astype(np.uint8), name, threads=threads)
        np.testing.assert_array_equal(found.label_index, expected.label_index)
        np.testing.assert_array_equal(found.rule, expected.rule)
        np.testing.assert_array_equal(found.r_btm, expected.r_btm)
        again = sweep(cluster, confidence.astype(np.float64), opinion, name, threads=threads)
        np.testing.assert_array_equal(again.class_size, swept.class_size)
        np.testing.assert_array_equal(again.agreement, swept.agreement)


def test_ranking_by_margins_where_probabilities_saturate() -> None:
    cluster, confidence = np.zeros(20, int), np.ones(20, np.float32)
    margin, opinion = np.arange(20.0), np.array([1] * 18 + [0] * 2)
    assert refine(cluster, confidence, opinion, [0]).delta_top[0] == 0
    assert refine(cluster, confidence, opinion, [0], rank_by=margin).delta_top[0] == 1


def test_a_cluster_without_a_name() -> None:
    asked: dict[str, Any] = {"cluster": [0, 0], "confidence": [0.1, 0.9], "opinion": [1, 1], "class_of_cluster": [-1]}
    kept = refine(**asked)
    assert kept.label_index.tolist() == [1, -1]
    assert kept.rule.tolist() == [Rule.OPINION, Rule.UNNAMED]
    relabelled = refine(**asked, on_mismatch="relabel")
    assert relabelled.label_index.tolist() == [1, 1]
    assert relabelled.rule.tolist() == [Rule.NO_VOTE] * 2
    assert relabelled.branch.tolist() == [Branch.NO_VOTE]


def test_empty_input() -> None:
    found = refine([], [], [], [3])
    assert found.label_index.shape == (0,)
    assert found.branch.tolist() == [Branch.EMPTY]
    assert np.isnan(found.r_btm).all()
    assert sweep([], [], [], [3]).class_size.shape == (101, 4)
    assert sweep([], [], [], []).changed.tolist() == [0] * 101


def test_a_sweep_takes_its_own_values_of_sigma(rng: np.random.Generator) -> None:
    asked = many(rng)
    sigma = [-np.finfo(float).max, 0.3, 0.3, 0.71, 5.0]
    found = sweep(*asked, sigma=sigma)
    np.testing.assert_array_equal(found.sigma, sigma)
    for at, threshold in enumerate(sigma):
        label = refine(*asked, sigma=threshold).label_index
        assert found.changed[at] == (label != asked[3][asked[0]]).sum()
        np.testing.assert_array_equal(found.class_size[at], np.bincount(label, minlength=found.class_size.shape[1]))
    assert sweep(*asked, sigma=[]).changed.shape == (0,)


SHARED_HEADER = Path(_core.__file__).parent / "decide.cuh"
INSTANCES = """
#include "decide.cuh"
template __global__ void gdui_judge<float>(const long long *, const long long *, const long long *, long long,
  long long, const float *, const int *, const int *, double, double, double, double, double, int, unsigned char *,
  double *, double *, double *);
template __global__ void gdui_refine<double>(const int *, const double *, const int *, long long, const int *,
  const unsigned char *, const double *, double, int *, unsigned char *);
"""


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on this machine")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_shared_header_compiles_for_the_gpu(architecture: str, tmp_path: Path) -> None:
    source, out = tmp_path / "decide.cu", tmp_path / "decide.cubin"
    source.write_text(INSTANCES)
    command = ["nvcc", f"-arch={architecture}", "-cubin", "--fmad=false", "-I", SHARED_HEADER.parent, "-o", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert b"gdui_judge" in out.read_bytes()


@pytest.mark.skipif(not has_gpu(), reason="no CuPy, or no GPU")
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_on_a_gpu_the_decisions_are_the_same(real: Any, rng: np.random.Generator) -> None:
    import cupy

    cluster, confidence, opinion, name = many(rng)
    confidence = np.round(confidence, 2).astype(real)
    expected = refine(cluster, confidence, opinion, name)
    found = refine(*map(cupy.asarray, (cluster, confidence, opinion)), name)
    for field in ("label_index", "rule", "branch", "delta_top", "delta_btm", "r_btm"):
        np.testing.assert_array_equal(cupy.asnumpy(getattr(found, field)), getattr(expected, field))
    whole = (confidence * 100).round().astype(np.int16)
    np.testing.assert_array_equal(
        cupy.asnumpy(refine(cluster, cupy.asarray(whole), opinion, name).r_btm),
        refine(cluster, whole, opinion, name).r_btm,
    )
    with pytest.raises(ValueError, match="cluster must be below 40, but holds 40"):
        refine(cupy.full(3, 40), cupy.ones(3), cupy.zeros(3, int), name)
