"""The report's page: hostile text stays text, it loads nothing, and it says what is known and what is missing."""

import base64
import hashlib
import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reports import data_of, make_labels

import gdui.report
from gdui.cli import main
from gdui.labels import ClusterFacts, Facts, Labels

PAGE = Path(gdui.report.__file__).parent / "page"
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", 'a"b&c\u2028', "{{script}}"]


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


def test_what_no_page_can_hold_is_unknown_or_written_out(rng: np.random.Generator, tmp_path: Path) -> None:
    clusters = [ClusterFacts(size=3, matched=0, margin=float("inf"))] * 3
    labels = make_labels(rng, 5, ["a", "b"], facts=Facts(clusters=clusters, accuracy=float("nan")))
    told = data_of(labels.report(tmp_path / "report.html", title=os.fsdecode(b"\xff")))
    assert told["head"]["title"] == "\\xff"
    assert told["head"]["accuracy"] is None
    assert [one["margin"] for one in told["clusters"]] == [None] * 3


def test_of_what_each_stage_changed_a_share_is_told(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 5, ["a", "b"], facts=Facts(changed={"match": 0.5, "graph": 0.25, "vote": 0.1}))
    told = data_of(labels.report(tmp_path / "report.html"))["head"]["changed"]
    assert told == [
        "match named 50.0% of the images otherwise than the opinion's first choice",
        "graph relabelled 25.0% of the images",
        "vote changed 10.0% of the labels",
    ]
    assert all(line in labels.summary().splitlines() for line in told)


def test_where_nothing_has_a_label_no_accuracy_is_told(rng: np.random.Generator, tmp_path: Path) -> None:
    labels = make_labels(rng, 5, ["a", "b"], label_index=[-1] * 5)
    assert data_of(labels.report(tmp_path / "report.html"))["head"]["accuracy"] is None
    assert "accuracy" not in labels.summary()


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
    assert main(["report", str(run), "--images", "nowhere"]) == 1
    assert "images must say where the pictures are, and there is no 'nowhere'" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
