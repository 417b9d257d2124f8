"""The report: what it says equals what the library does, hostile text stays text, and its size has a bound."""

import base64
import hashlib
import html
import io
import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import confusion_matrix

import gdui.report
from gdui import doctor
from gdui.cli import main
from gdui.doctor import examine
from gdui.images import Source, open_source
from gdui.images.readers import Item
from gdui.images.shards import Shard
from gdui.labeling.refine import Branch, refine
from gdui.labels import ClusterFacts, Facts, Labels
from gdui.labels.pins import read_pins
from gdui.report import measures, pictures, placed, write
from gdui.report.choice import STRIPS, choose, doubtful_first, extremes
from gdui.report.pictures import thumbnails
from gdui.report.projection import project

PAGE = Path(gdui.report.__file__).parent / "page"
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", 'a"b&c\u2028', "{{script}}"]


def make_labels(rng: np.random.Generator, n: int, classes: list[str], clusters: int = 3, **changes: Any) -> Labels:
    c = len(classes)
    cluster = rng.integers(0, clusters, n)
    facts = [
        ClusterFacts(size=int(size), matched=k % c, votes={k % c: 6, (k + 1) % c: 2}, n_top=8, runner_up=(k + 1) % c)
        for k, size in enumerate(np.bincount(cluster, minlength=clusters))
    ]
    columns: dict[str, Any] = {
        "label_index": rng.integers(-1, c, n),
        "confidence": rng.random(n),
        "matched_index": cluster % c,
        "cluster": cluster,
        "cluster_confidence": rng.random(n),
        "consistency": rng.random(n),
        "clip_index": rng.integers(0, c, n),
        "clip_confidence": rng.random(n),
        "clip_second_index": rng.integers(-1, c, n),
        "rule": rng.integers(0, 4, n),
        "facts": Facts(clusters=facts, accuracy=0.9, accuracy_how="a guess"),
    }
    return Labels.from_arrays([f"{row:05d}.png" for row in range(n)], classes, **(columns | changes))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5)), max_size=40), st.integers(0, 4), st.integers(0, 4))
def test_extremes_are_those_of_a_sorted_list(pairs: list[tuple[int, int]], first: int, last: int) -> None:
    group, key = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], float)
    surest, least = extremes(group, key, 4, first, last)
    for at in range(4):
        order = sorted((row for row in range(len(pairs)) if group[row] == at), key=lambda row: (-key[row], row))
        assert surest[at].tolist() == order[:first]
        assert least[at].tolist() == order[first:][::-1][:last]


def test_disagreements_are_reviewed_first_then_images_without_a_label(rng: np.random.Generator) -> None:
    labels = make_labels(rng, 300, ["a", "b", "c"])
    order = doubtful_first(labels)
    label, opinion, sure = labels.label_index[order], labels.indices("clip_label")[order], labels.numbers("confidence")
    kind = np.where(label < 0, 1, np.where(label != opinion, 0, 2))
    assert (np.diff(kind) >= 0).all()
    assert set(kind) == {0, 1, 2}
    for one in range(3):
        assert (np.diff(sure[order][kind == one]) >= 0).all()


@pytest.mark.parametrize("policy", ["keep", "relabel"])
def test_the_sweep_is_what_refine_gives(rng: np.random.Generator, policy: str) -> None:
    n, c, k = 400, 4, 7
    cluster, opinion, truth = rng.integers(0, k, n), rng.integers(0, c, n), rng.integers(-1, c, n)
    sure = rng.random(n).astype(np.float32)
    names = np.array([0, 1, 2, 3, 0, 1, 2])
    opinion = np.where(rng.random(n) < 0.7, names[cluster], opinion)
    opinion[cluster == 3] = 0  # nobody votes for cluster 3's name

    def at(sigma: float) -> Any:
        return refine(cluster, sure, opinion, names, sigma=sigma, on_mismatch=policy)

    judged = at(0.5)
    facts = [
        ClusterFacts(
            size=1,
            matched=int(names[one]),
            r_btm=float(judged.r_btm[one]),
            branch=Branch(judged.branch[one]).name.lower().replace("_", " "),
        )
        for one in range(k)
    ]
    labels = make_labels(
        rng,
        n,
        list("abcd"),
        cluster=cluster,
        cluster_confidence=sure,
        clip_index=opinion,
        facts=Facts(clusters=facts, configuration={"refine": {"sigma": 0.5}, "graph": {"enabled": True}}),
    )
    found = measures.sigma_sweep(labels, truth)
    assert found
    assert found["now"] == 0.5
    assert found["graph"]
    for step in range(0, 101, 5):
        refined = at(step / 100)
        assert found["curves"]["relabelled"][step] == pytest.approx((refined.rule != 0).mean(), abs=1e-5)
        assert found["curves"]["agreement"][step] == pytest.approx((refined.label_index == opinion).mean(), abs=1e-5)
        right = (refined.label_index == truth)[truth >= 0].mean()
        assert found["curves"]["accuracy"][step] == pytest.approx(right, abs=1e-5)


def test_confusion_is_scikit_learns(rng: np.random.Generator) -> None:
    mine, other = rng.integers(0, 5, 500), rng.integers(-1, 5, 500)
    found = measures.confusion(mine, other, 5)
    assert found["table"] == confusion_matrix(mine[other >= 0], other[other >= 0], labels=range(5)).tolist()
    many = measures.confusion(mine, other, 41)["pairs"]
    table = np.array(found["table"])
    assert [table[row, column] for row, column, _ in many] == [n for *_, n in many]
    assert sum(n for *_, n in many) == table.sum() - np.trace(table)


def test_warnings_say_what_is_odd(rng: np.random.Generator) -> None:
    assert measures.cluster_warnings(ClusterFacts(size=0)) == ["no image lies in it"]
    assert measures.cluster_warnings(ClusterFacts(size=5, matched=1, votes={0: 3}, n_top=3)) == [
        "nobody voted for its name"
    ]
    lost = ClusterFacts(size=5, matched=1, votes={0: 3, 1: 2}, n_top=5, branch="top bad")
    assert measures.cluster_warnings(lost) == [
        "more of its votes are for another class",
        "doubtful: the refinement looked at it",
    ]
    assert measures.cluster_warnings(ClusterFacts(size=50, matched=1, votes={1: 9, 0: 1}, n_top=10)) == []
    assert measures.cluster_warnings(ClusterFacts(size=5, votes={0: 3}, n_top=3)) == ["it is named after no class"]
    facts = Facts(clusters=[ClusterFacts(size=9, matched=0)] * 4)
    labels = make_labels(rng, 4, ["a", "b"], label_index=[0, 0, 0, -1], facts=facts)
    split, empty = measures.class_warnings(labels, np.array([3, 0]))
    assert split == ["split over 4 clusters, where 2 are usual"]
    assert empty == ["no image has this label", "no cluster is named after it"]


def test_hostile_names_stay_text(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 60, HOSTILE)
    ids = [f"{row}{HOSTILE[row % 4]}" for row in range(60)]
    hostile = Labels(labels.table.set_column(0, "id", pa.array(ids, pa.large_string())), HOSTILE, labels.facts)
    path = hostile.report(tmp_path / "report.html", title=HOSTILE[0])
    text = path.read_text()
    assert f"<title>{html.escape(HOSTILE[0])}" in text
    assert [one["name"] for one in data_of(path)["classes"]] == HOSTILE
    assert sorted(data_of(path)["images"]["id"]) == sorted(ids)
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "onerror=alert" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)


def test_the_page_may_run_its_own_scripts_and_load_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    text = make_labels(rng, 20, ["a", "b"]).report(tmp_path / "report.html").read_text()
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert found
    policy = dict(one.split(" ", 1) for one in found[1].split("; "))
    for name, tag in (("script-src", "<script>"), ("style-src", "<style>")):
        inside = text.split(tag)[1].split(tag.replace("<", "</"))[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert not re.findall(r"(?:src|href)=[\"']?(?!#|data:)\w", text)
    code = "".join(path.read_text() for path in PAGE.glob("*.js"))
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttp"):
        assert forbidden not in code


def test_a_report_shows_some_thousand_images_however_many_there_are(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 200_000, [f"class {at}" for at in range(300)], clusters=900)
    assert len(choose(labels).rows) < 10_000
    path = labels.report(tmp_path / "report.html")
    assert path.stat().st_size < 10e6
    told = data_of(path)
    assert told["head"]["images"] == 200_000
    assert sum(one["images"] for one in told["classes"]) + told["head"]["abstained"] == 200_000


@pytest.mark.parametrize(("classes", "clusters"), [(2, 3), (150, 450), (300, 900), (1200, 3600), (5000, 5000)])
def test_strips_of_any_number_of_classes_are_bounded(rng: np.random.Generator, classes: int, clusters: int) -> None:
    labels = make_labels(rng, 40_000, [f"class {at}" for at in range(classes)], clusters=clusters)
    chosen = choose(labels)
    strips = [chosen.surest, chosen.least, chosen.relabelled, chosen.top, chosen.bottom]
    assert sum(len(rows) for strip in strips for rows in strip) <= STRIPS
    pictured = np.array([len(rows) > 0 for rows in chosen.surest])
    assert pictured.sum() == min(classes, STRIPS // 3)
    sizes = np.bincount(labels.label_index[labels.label_index >= 0], minlength=classes)
    assert sizes[pictured].min() >= max(sizes[~pictured], default=0)


def test_other_names_or_labels_are_another_review(tmp_path: Path) -> None:
    def key(seed: int, names: list[str]) -> str:
        labels = make_labels(np.random.default_rng(seed), 30, names)
        return str(data_of(labels.report(tmp_path / "report.html"))["head"]["key"])

    assert key(0, ["a", "b"]) == key(0, ["a", "b"])
    assert len({key(0, ["a", "b"]), key(0, ["a", "c"]), key(1, ["a", "b"])}) == 3


def test_what_could_not_be_read_is_said_with_its_reason(rng: np.random.Generator, tmp_path: Path) -> None:
    unread = pa.table({"id": ["x", "y", "z"], "reason": ["empty", "a bomb", "empty"]})
    labels = replace(make_labels(rng, 5, ["a", "b"]), quarantine=unread)
    assert data_of(labels.report(tmp_path / "report.html"))["head"]["quarantined"] == {"empty": 2, "a bomb": 1}
    many = pa.table({"id": list(map(str, range(99))), "reason": [f"ends at byte {at}" for at in range(98)] + ["empty"]})
    told = data_of(replace(labels, quarantine=many).report(tmp_path / "report.html"))["head"]["quarantined"]
    assert (len(told), sum(told.values())) == (51, 99)


def test_the_same_labels_give_the_same_bytes(rng: np.random.Generator, tmp_path: Path) -> None:
    labels, features = make_labels(rng, 90, ["a", "b"]), rng.standard_normal((90, 7))
    first, again = (labels.report(tmp_path / name, features=features).read_bytes() for name in ("1.html", "2.html"))
    assert first == again


def test_labels_without_clusters_pictures_or_images_have_a_report(rng: np.random.Generator, tmp_path: Path) -> None:
    bare = make_labels(rng, 5, ["a"], cluster=[-1] * 5, facts=Facts())
    assert data_of(bare.report(tmp_path / "bare.html"))["sweep"] is None
    empty = make_labels(rng, 0, ["a", "b"], facts=Facts())
    assert data_of(empty.report(tmp_path / "empty.html"))["review"] == []


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def test_pictures_come_from_folders_and_arrays_small_and_square(rng: np.random.Generator, tmp_path: Path) -> None:
    pixels = rng.integers(0, 256, (3, 50, 200, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    wanted = {"a.png": 96, "broken.png": 96, "missing.png": 96, "../secret.png": 96, str(tmp_path / "secret.png"): 96}
    found = thumbnails(tmp_path / "in", wanted)
    assert list(found) == ["a.png"]
    assert opened(found["a.png"]).size == (50, 50)
    assert opened(thumbnails(tmp_path / "in", {"a.png": 120})["a.png"]).size == (120, 30)
    of_array = thumbnails(pixels, {"y": 96}, ["x", "y", "z"])
    assert list(of_array) == ["y"]
    tiny = thumbnails(np.full((1, 8, 8), 77, np.uint8), {"0": 96})["0"]
    assert opened(tiny).size == (8, 8)
    assert np.asarray(opened(tiny)).tolist() == np.full((8, 8, 3), 77).tolist()


def test_names_that_are_no_utf8_are_found(rng: np.random.Generator, tmp_path: Path) -> None:
    picture = encoded(rng.integers(0, 256, (9, 9, 3), np.uint8))
    for name in (b"\xff.png", b"\\xfe.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(picture)
    assert list(thumbnails(tmp_path, {"\\xff.png": 96, "\\xfe.png": 96, "\\xfd.png": 96})) == [
        "\\xfe.png",
        "\\xff.png",
    ]


def test_missing_pictures_are_counted_with_the_place(
    rng: np.random.Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "00001.png").write_bytes(encoded(rng.integers(0, 256, (9, 9, 3), np.uint8)))
    labels = make_labels(rng, 5, ["a", "b"])
    head = data_of(labels.report(tmp_path / "report.html", images=tmp_path))["head"]
    assert (head["missing"], head["sought"]) == (4, str(tmp_path))
    assert caplog.messages == [f"4 of 5 pictures were not found in {tmp_path}"]
    assert data_of(labels.report(tmp_path / "report.html"))["head"]["missing"] == 0
    assert len(caplog.messages) == 1


def test_what_no_page_can_hold_is_unknown_or_written_out(rng: np.random.Generator, tmp_path: Path) -> None:
    clusters = [ClusterFacts(size=3, matched=0, margin=float("inf"))] * 3
    labels = make_labels(rng, 5, ["a", "b"], facts=Facts(clusters=clusters, accuracy=float("nan")))
    told = data_of(labels.report(tmp_path / "report.html", title=os.fsdecode(b"\xff")))
    assert told["head"]["title"] == "\\xff"
    assert told["head"]["accuracy"] is None
    assert [one["margin"] for one in told["clusters"]] == [None] * 3


def test_of_what_each_stage_changed_a_share_is_told(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 5, ["a", "b"], facts=Facts(changed={"match": 0.5, "graph": 0.25}))
    told = data_of(labels.report(tmp_path / "report.html"))["head"]["changed"]
    assert told == ["match changed 50.0% of the opinion's first choices", "graph changed 25.0% of the labels before it"]
    assert all(line in labels.summary().splitlines() for line in told)


def test_where_nothing_has_a_label_no_accuracy_is_told(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 5, ["a", "b"], label_index=[-1] * 5)
    assert data_of(labels.report(tmp_path / "report.html"))["head"]["accuracy"] is None
    assert "accuracy" not in labels.summary()


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_archive_is_read_once_until_nothing_is_wanting(
    rng: np.random.Generator, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pictures are asked for, no more of them wait in memory than the threads can use."""
    files = [encoded(rng.integers(0, 256, (30, 30, 3), np.uint8)) for _ in range(60)]
    for shard in range(3):
        part = files[20 * shard : 20 * shard + 20]
        if kind == "tar":
            with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as tar:
                for at, file in enumerate(part):
                    member = tarfile.TarInfo(f"{at}.png")
                    member.size = len(file)
                    tar.addfile(member, io.BytesIO(file))
        else:
            pq.write_table(pa.table({"image": pa.array(part, pa.binary())}), tmp_path / f"s-{shard}.parquet")
    reads, waiting, most = list[str](), 0, 0

    def watched(source: Any, **kind: Any) -> Source:
        found = open_source(source, **kind)
        return replace(found, shards=[replace(shard, read=partial(noted, shard)) for shard in found.shards])

    def noted(shard: Shard) -> Iterator[Item]:
        nonlocal waiting, most
        for item in shard.read():
            reads.append(item[0])
            waiting += 1
            most = max(most, waiting)
            yield item

    def slow(raw: Any, size: int) -> Image.Image:
        nonlocal waiting
        time.sleep(0.002)
        image = decoded(raw, size)
        waiting -= 1
        return image

    decoded = pictures._opened
    monkeypatch.setattr(pictures, "open_source", watched)
    monkeypatch.setattr(pictures, "_opened", slow)
    monkeypatch.setenv("GDUI_THREADS", "1")
    wanted = {f"s-0/{at}": 96 for at in range(20)} | {"s-1/9": 96}
    found = thumbnails(f"{tmp_path}/s-{{0..2}}.{kind}", wanted)
    assert list(found) == list(wanted)
    picked = opened(found["s-1/9"]).convert("RGB")
    assert np.array_equal(np.asarray(picked), np.asarray(opened(files[29])))
    assert reads == [f"s-{at // 20}/{at % 20}" for at in range(30)]
    assert most <= pictures.AHEAD + 11, "the ten unwanted before the last, and those in work"


def pictured(rng: np.random.Generator, n: int) -> tuple[Labels, np.ndarray[Any, Any]]:
    return make_labels(rng, n, ["a", "b"]), rng.integers(0, 256, (n, 20, 20, 3), np.uint8)


def addresses(page: Path) -> list[str]:
    return list(data_of(page)["images"]["picture"])


def test_many_pictures_lie_beside_the_page(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, pixels = pictured(rng, 40)
    monkeypatch.setattr(placed, "INLINED", 1000)
    page = labels.report(tmp_path / "my report?.html", images=pixels)
    folder = tmp_path / "my report?_pictures"
    assert "img-src 'self' data:;" in page.read_text()
    assert "base64" not in page.read_text()
    files = [tmp_path / unquote(one) for one in addresses(page)]
    assert [np.array_equal(opened(file.read_bytes()), pixels[at]) for at, file in enumerate(files)] == [True] * 40
    assert sorted(folder.iterdir()) == sorted(files)

    (folder / "mine.txt").write_text("not the report's")
    (folder / f".part-{files[0].name}").write_bytes(b"left by a killed process")
    labels.take(np.arange(10)).report(page, images=pixels[:10])
    assert sorted(folder.iterdir()) == sorted([*files[:10], folder / "mine.txt"])
    (folder / "mine.txt").unlink()
    monkeypatch.setattr(placed, "INLINED", 10**9)
    labels.report(page, images=pixels)
    assert not folder.exists()
    assert addresses(page)[0].startswith("data:image/webp;base64,")


def test_a_page_keeps_its_pictures_when_the_next_one_fails(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, pixels = pictured(rng, 12)
    monkeypatch.setattr(placed, "INLINED", 1000)
    page = labels.report(tmp_path / "report.html", images=pixels)
    before = page.read_bytes()

    def full(*_: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(write, "page", full)
    with pytest.raises(OSError, match="no space left"):
        labels.report(page, images=pixels[::-1].copy())
    assert page.read_bytes() == before
    assert all((tmp_path / one).is_file() for one in addresses(page))
    assert not list(tmp_path.glob(".part-*"))


def test_the_map_keeps_neighbours_together(rng: np.random.Generator) -> None:
    group = np.repeat(np.arange(5), 60)
    features = (rng.standard_normal((5, 40))[group] * 2 + rng.standard_normal((300, 40))).astype(np.float32)
    places, method = project(features)
    assert places.shape == (300, 2)
    assert (places.min(), places.max()) == (0, 1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(1)] == group).mean() > 0.95
    assert np.array_equal(project(features)[0], places)
    assert method != "PCA"
    assert project(features[:9])[1] == "PCA"
    assert np.isfinite(project(np.ones((60, 1), np.float32))[0]).all()


def test_umap_draws_the_map_where_it_is_installed(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, metric: str, random_state: int) -> None:
            assert (metric, random_state) == ("cosine", 7)

        def fit_transform(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return 10 * features[:, :2] - 3

    module = ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    features = rng.random((60, 5)).astype(np.float32)
    places, method = project(features, seed=7)
    assert method == "UMAP"
    expected = features[:, :2] - features[:, :2].min(0)
    np.testing.assert_allclose(places, expected / expected.max(0), atol=1e-5)


def test_pins_are_read_and_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "pins.csv"
    path.write_text('\ufefflabel,note,id\ncat,,"a,\n""1"".png"\n,,b.png\ndog,,b.png\n', encoding="utf-8")
    assert read_pins(path) == {'a,\n"1".png': "cat", "b.png": "dog"}
    path.write_text("id;label\n1;2\n")
    with pytest.raises(ValueError, match="must begin with a line that names the columns id and label"):
        read_pins(path)
    path.write_text("id,label\na.png,cat\nb.png\n")
    with pytest.raises(ValueError, match="line 3, has too few columns"):
        read_pins(path)
    path.write_bytes(b"id,label\n\xff,2\n")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        read_pins(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"truth": {"00001.png": "bird"}}, "truth names 'bird', which is none of the classes"),
        ({"truth": {"00001.png": "A"}}, "truth names 'A', which is none of the classes; did you mean 'a'"),
        ({"truth": {"1": "a"}}, "truth knows none of the images: its ids look like '1'"),
        ({"features": np.zeros((3, 2))}, "features must be as many as the labels, 5, not 3"),
        ({"features": np.diag([1, 1, 1, np.inf, np.nan])}, "features must be finite numbers, but row 3 holds"),
    ],
)
def test_mistakes_are_named(rng: np.random.Generator, tmp_path: Path, arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_labels(rng, 5, ["a", "b"]).report(tmp_path / "report.html", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_reports_a_run(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, scores = rng.standard_normal((80, 6)).astype(np.float32), rng.random((80, 2))
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "scores.npy", scores)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    run, arguments = tmp_path / "run", ["--classes", str(tmp_path / "names.txt"), "--opinions", "scores.npy"]
    monkeypatch.chdir(tmp_path)
    assert main(["label", "features.npy", "--features", "--out", str(run), *arguments]) == 0
    (tmp_path / "truth.csv").write_text("id,label\n3,cat\n4,dog\n")
    assert main(["report", str(run), "--truth", "truth.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"report": str(run / "report.html")}
    told = data_of(run / "report.html")
    assert told["head"]["ledger"][-1][0] == "write"
    assert told["map"]["image"] == list(range(80))
    assert told["confusion"]["truth"]["images"] == 2
    assert main(["report", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("GPU", "Triton", "FAISS", "CuPy", "Ray", "encoder ViT-B-32", "InceptionV3"))

    monkeypatch.setattr("gdui.doctor._tried", lambda name: (None, "not installed"))
    found = {one.name: one for one in examine()}
    assert not found["FAISS"].usable
    assert found["FAISS"].advice == "pip install faiss-cpu"
    assert found["Ray"].advice == "pip install 'gdui[ray]'"


@pytest.mark.parametrize("failure", ["OSError('libgomp')", "RuntimeError()", "ModuleNotFoundError('x', name='numba')"])
def test_a_broken_package_ends_neither_doctor_nor_report(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    for name in ("umap", "pandas"):
        (tmp_path / f"{name}.py").write_text(f"raise {failure}")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found = {one.name: one for one in examine()}
    assert not found["UMAP"].usable
    assert "broken: " in found["UMAP"].what
    assert not found["pandas"].usable
    assert "nearest neighbours" in project(rng.standard_normal((600, 5)).astype(np.float32))[1]


def test_weights_are_at_hand_once_they_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usable() -> bool:
        return next(one.usable for one in examine() if one.name == "encoder ViT-B-32")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / doctor.CLIP / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / doctor.CLIP / "blobs").mkdir()
    (tmp_path / doctor.CLIP / "blobs" / "123.incomplete").touch()
    (snapshot / "open_clip_config.json").touch()
    assert not usable()
    (snapshot / "open_clip_model.safetensors").touch()
    assert usable()
