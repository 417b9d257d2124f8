"""The Labels table: what goes in comes out, in memory and on disk; strangers' files are refused; texts say why."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdui.labels import RULES, ClusterFacts, Facts, Labels
from gdui.labels.pins import read_pins

CLASSES = ["cat", "dog", "bird"]
FACTS = Facts(
    encoder="digits",
    encoder_hash="ab12",
    configuration={"seed": 3, "refine": {"sigma": 0.5}},
    clusters=[
        ClusterFacts(2, 0, {0: 9, 2: 1}, 10, 0.8, 2, 0.85, 0.9, 0.8, 0.95, "both good"),
        ClusterFacts(1, 1, {1: 5}, 5, 1.0),
        ClusterFacts(1),
    ],
    accuracy=0.91,
    accuracy_how="agreement of two witnesses",
    changed={"refine": 0.25, "graph": 0.125},
    ledger={"match": (0.5, 4)},
)


def make(n: int = 4, classes: list[str] | None = None, facts: Facts = FACTS, **changes: Any) -> Labels:
    """`n` labels, every fourth image abstained on."""
    rows = np.arange(n)
    arrays: dict[str, Any] = {
        "label_index": np.where(rows % 4 == 3, -1, rows % 3),
        "confidence": 1 / (1 + rows),
        "matched_index": rows % 3 - (rows % 4 == 3),
        "cluster": rows % 3,
        "cluster_confidence": np.full(n, 0.5),
        "consistency": np.where(rows % 2, np.nan, 0.75),
        "clip_index": (rows + 1) % 3,
        "clip_confidence": np.full(n, 0.25),
        "clip_second_index": (rows + 2) % 3,
        "rule": np.array(["cluster", "opinion", "graph", "rejected"])[rows % 4],
    }
    ids = changes.pop("ids", [f"photos/{i}.jpg" for i in range(n)])
    return Labels.from_arrays(ids, classes or CLASSES, **(arrays | changes), facts=facts)


def test_rows_say_what_the_arrays_said() -> None:
    labels = make()
    assert len(labels) == 4
    assert labels.label_index.tolist() == [0, 1, 2, -1]
    assert labels.table["label"].to_pylist() == ["cat", "dog", "bird", None]
    assert labels.indices("clip_label").tolist() == [1, 2, 0, 1]
    assert labels.indices("matched_label").tolist() == [0, 1, 2, -1]
    assert [list(RULES)[code] for code in labels.indices("rule")] == ["cluster", "opinion", "graph", "rejected"]
    assert labels.numbers("confidence") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert np.isnan(labels.numbers("consistency")).tolist() == [False, True, False, True]
    assert labels.row("photos/1.jpg")["clip_second"] == "cat"


def test_rules_may_come_as_positions() -> None:
    assert make(2, rule=[3, 0]).table["rule"].to_pylist() == ["graph", "cluster"]


@given(
    ids=st.lists(st.text(), min_size=0, max_size=20, unique=True),
    classes=st.lists(st.text(max_size=300), min_size=1, max_size=5, unique=True),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_disk_gives_back_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], classes: list[str], data: st.DataObject
) -> None:
    n = len(ids)
    index = st.lists(st.integers(-1, len(classes) - 1), min_size=n, max_size=n)
    number = st.lists(st.floats(0, 1, width=32) | st.just(float("nan")), min_size=n, max_size=n)
    labels = Labels.from_arrays(
        ids,
        classes,
        label_index=data.draw(index),
        confidence=data.draw(number),
        matched_index=data.draw(index),
        cluster=data.draw(st.lists(st.integers(-1, 2**31 - 1), min_size=n, max_size=n)),
        cluster_confidence=data.draw(number),
        consistency=data.draw(number),
        clip_index=data.draw(index),
        clip_confidence=data.draw(number),
        clip_second_index=data.draw(index),
        rule=data.draw(st.lists(st.sampled_from(list(RULES)), min_size=n, max_size=n)),
        facts=FACTS,
    )
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    labels.to_parquet(path)
    again = Labels.from_parquet(path)
    assert again.table.equals(labels.table)
    assert again.classes == classes
    assert again.facts == dataclasses.replace(FACTS, ledger={})
    first = path.read_bytes()
    assert list(again.facts.changed) == ["refine", "graph"]
    again.to_parquet(path)
    assert path.read_bytes() == first


def test_bytes_depend_on_the_labels_alone(tmp_path: Path) -> None:
    ids = [f"{i}" for i in range(1000)]
    pieces = pa.chunked_array([ids[:1], ids[1:700], ids[700:]], pa.string())
    make(1000, ids=ids).to_parquet(tmp_path / "a")
    make(1000, ids=pieces, facts=dataclasses.replace(FACTS, ledger={"match": (9.0, 1)})).to_parquet(tmp_path / "b")
    make(1000, ids=np.array(ids)).to_parquet(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_long_names_are_kept_once(tmp_path: Path) -> None:
    names = [letter * 100_000 for letter in "abcdefghijklmnopqrst"]
    labels = make(50_000, names)
    labels.to_parquet(tmp_path / "labels.parquet")
    assert (tmp_path / "labels.parquet").stat().st_size < 6_000_000
    assert Labels.from_parquet(tmp_path / "labels.parquet").table.equals(labels.table)


def test_a_million_rows_stay_small() -> None:
    labels = make(1_000_000, ids=[f"{i:07d}" for i in range(1_000_000)])
    assert labels.table.nbytes < 70_000_000


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    make(facts=dataclasses.replace(FACTS, accuracy=np.float32(0.5))).to_parquet(tmp_path / "labels.parquet")
    about = json.loads(pq.read_schema(tmp_path / "labels.parquet").metadata[b"gdui"])
    assert about["schema"] == 1
    assert about["classes"] == CLASSES
    assert about["facts"]["accuracy"] == 0.5
    assert about["facts"]["clusters"][0]["votes"] == {"0": 9, "2": 1}
    assert "ledger" not in about["facts"]


def rewritten(tmp_path: Path, **changes: Any) -> Path:
    """A labels file whose metadata has these entries changed."""
    path = tmp_path / "labels.parquet"
    make().to_parquet(path)
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"gdui"]) | changes
    pq.write_table(table.replace_schema_metadata({b"gdui": json.dumps(about)}), path)
    return path


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written by gdui 9\.0 with schema 2 .* please upgrade"):
        Labels.from_parquet(rewritten(tmp_path, schema=2, gdui="9.0"))


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": {}},
        {"facts": None},
        {"classes": None},
        {"classes": ["cat"]},
        {"schema": "x"},
        {"facts": {"clusters": [{}]}},
    ],
)
def test_damaged_metadata_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="labels"):
        Labels.from_parquet(rewritten(tmp_path, **changes))


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"gdui": b"\xff{"}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a Parquet file of gdui, but not of labels"):
        Labels.from_parquet(tmp_path / "a.parquet")


def test_labels_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    make().to_parquet(path)
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "label_index", pa.array([0, 1, 99, -1], pa.int32())), path)
    with pytest.raises(ValueError, match="label and label_index say different things"):
        Labels.from_parquet(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet is a Parquet file, but not of labels"):
        Labels.from_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.parquet can't be read as labels"):
        Labels.from_parquet(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError):
        Labels.from_parquet(tmp_path / "none.parquet")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    make().to_parquet(path)
    pq.write_table(pq.read_table(path).drop_columns(["cluster"]), path)
    with pytest.raises(ValueError, match="no column 'cluster'"):
        Labels.from_parquet(path)


def test_flipped_bits_never_pass_unseen(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    labels = make(500)
    labels.to_parquet(path)
    whole = path.read_bytes()
    for at in range(4, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            again = Labels.from_parquet(path)
        except ValueError:
            continue
        assert again.table.equals(labels.table)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    make(500).to_parquet(path)
    whole = path.read_bytes()
    for at in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match="can't be read as labels"):
            Labels.from_parquet(path)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"ids": ["a", "a", "b", "c"]}, ValueError, "4 images have only 3 ids"),
        ({"ids": [1, 2, 3, 4]}, TypeError, "ids must be texts"),
        ({"ids": ["a", None, "b", "c"]}, TypeError, "with gaps"),
        ({"ids": ["a"]}, ValueError, "id has 1, label has 4"),
        ({"label_index": [0, 1, 2, 3]}, ValueError, "label_index must be below 3, but holds 3"),
        ({"clip_index": [0, 1, 2, -2]}, ValueError, "clip_index must be at least -1"),
        ({"label_index": [0.5, 1, 1, 1]}, TypeError, "label_index must be integers"),
        ({"confidence": ["a", "b", "c", "d"]}, TypeError, "confidence must be real numbers"),
        ({"rule": ["cluster", "cluster", "cluster", "whim"]}, ValueError, "rule must be one of 'cluster'.* not 'whim'"),
        ({"classes": ["a", "b", "a"]}, ValueError, "'a' stands there more than once"),
        ({"classes": [1, 2, 3]}, TypeError, "list of names"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(**changes)


def test_why_names_every_witness() -> None:
    text = make().why("photos/0.jpg")
    for part in (
        "cluster 0, of 2 images, with probability 0.50, as do 75% of its nearest neighbours.",
        "named cat: 9 of its 10 surest images vote for it, 1 for bird",
        "gives that name to 90% of its surest and 80% of its least sure images, 85% on the whole (delta). ",
        "The least sure lie in the cluster with a mean probability of 0.95 (r), so the name is not in doubt.",
        "puts dog first (0.25) and bird second",
    ):
        assert part in text
    assert text.startswith("photos/0.jpg: cat (confidence 1.00), because that is the name of its cluster. ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("branch", "r", "words"),
    [
        (
            "top bad",
            0.4,
            "in doubt; as that is below 0.5 (sigma), images below 0.5 follow the opinion.",
        ),
        (
            "bottom bad",
            0.5,
            "in doubt; but as that is not below 0.5 (sigma), all its images keep the name.",
        ),
        ("both good", 0.4, "so the name is not in doubt."),
        ("no vote", 0.4, "so the name is without a vote."),
    ],
)
def test_why_says_what_became_of_the_name_in_words(branch: str, r: float, words: str) -> None:
    cluster = ClusterFacts(size=1, matched=0, n_top=1, runner_up=1, delta=0.5, r_btm=r, branch=branch)
    facts = Facts(clusters=[cluster] * 3, configuration={"refine": {"sigma": 0.5}})
    text = make(facts=facts).why("photos/0.jpg")
    assert text.endswith(words)
    assert "of 1 image," in text
    assert "its surest image does not vote for it but for dog." in text
    assert branch not in text or branch == "no vote"


def test_why_does_without_what_is_unknown() -> None:
    assert "no label" in make().why("photos/3.jpg")
    assert "matched to no class" in make().why("photos/2.jpg")
    bare = make(1, facts=Facts(), clip_index=[-1], confidence=[np.nan]).why("photos/0.jpg")
    assert bare == "photos/0.jpg: cat, because that is the name of its cluster."
    with pytest.raises(ValueError, match=r"no image has the id 'x'; they look like 'photos/0\.jpg'"):
        make().why("x")


def test_an_image_is_found_by_its_path_or_the_end_of_its_id() -> None:
    labels = make(ids=["7.png", "deep/7.png", "deep/8.png", "other/deep/8.png"])
    labels = dataclasses.replace(labels, quarantine=pa.table({"id": ["deep/9.png"], "reason": ["empty"]}))
    assert labels.find("7.png") == "7.png"
    assert labels.find("/home/me/photos/7.png") == "7.png"
    assert labels.find("/home/me/photos/deep/7.png") == "deep/7.png"
    assert labels.find("other/deep/8.png") == "other/deep/8.png"
    assert labels.find("9.png") == "deep/9.png"
    for unknown in ("x.png", "17.png", "", "eep/9.png"):
        assert labels.find(unknown) == unknown
    with pytest.raises(ValueError, match=r"'8\.png' may be deep/8\.png, other/deep/8\.png: give more of the id"):
        labels.find("8.png")


def test_texts_hold_no_control_characters() -> None:
    labels = make(classes=["\x1b[31mred\nline", "x" * 100_000, "<b>"], ids=["\x07a", "b\n", "c", "d"])
    for text in (labels.why("\x07a"), *labels.summary().splitlines(), *str(make().diff(labels)).splitlines()):
        assert text.isprintable()
        assert len(text) < 1000


def test_summary_counts() -> None:
    text = make(400).summary()
    assert "400 images, 3 classes, 100 abstained (25.0%)" in text
    assert "estimated accuracy 91.0% (agreement of two witnesses)" in text
    assert "refine relabelled 25.0% of the images against the name of their cluster" in text
    assert "no cluster is named bird" in text
    assert "100" in next(line for line in text.splitlines() if line.strip().startswith("cat"))
    assert "and 10 classes more" in make(classes=[f"c{i}" for i in range(50)]).summary()
    assert make(0).summary().startswith("0 images")
    assert make(1).summary().startswith("1 image, ")


def test_a_class_of_no_image_has_no_confidence() -> None:
    lines = make(2, label_index=[0, 0]).summary().splitlines()
    assert next(line for line in lines if line.strip().startswith("cat")).endswith("confidence 0.75")
    assert next(line.split() for line in lines if line.strip().startswith("dog")) == ["dog", "0"]


def test_diff_finds_changes_whatever_the_order() -> None:
    old, new = make(), make(ids=[f"photos/{i}.jpg" for i in (0, 2, 1, 9)], label_index=[0, 2, 0, 1])
    found = old.diff(new)
    assert found.changed.to_pylist() == [
        {"id": "photos/1.jpg", "before": "dog", "after": "cat", "rule_before": "opinion", "rule_after": "graph"}
    ]
    assert (found.kept, found.added, found.removed) == (2, 1, 1)
    assert "1 of 3 labels changed (33.3%)" in str(found)
    assert "dog -> cat  (by graph)" in str(found)


def test_diff_compares_names_and_not_positions() -> None:
    assert make().diff(make(classes=["dog", "cat", "bird"])).changed.num_rows == 2
    assert make().diff(make()).changed.num_rows == 0
    assert make().diff(make(label_index=[0, 1, 2, 0])).changed["before"].to_pylist() == [None]


def test_take_and_decided() -> None:
    labels = make(8)
    assert labels.take([7, 0]).ids.to_pylist() == ["photos/7.jpg", "photos/0.jpg"]
    assert (labels.decided().label_index >= 0).all()
    assert len(labels.decided()) == 6
    with pytest.raises(ValueError, match="rows must be below 8"):
        labels.take([8])


def test_csv_guards_formulas_and_is_read_without_the_guard(tmp_path: Path) -> None:
    ids = ["=1+1", "-2", "@x", "+3", "\t=1", "'=1", 'a"b,c\nd', "plain"]
    make(8, ["=cmd", "dog", "bird"], ids=ids).to_csv(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["'" + one for one in ids[:6]] + ids[6:]
    assert rows[0]["label"] == "'=cmd"
    assert rows[3]["label"] == ""
    assert float(rows[1]["confidence"]) == 0.5
    assert rows[1]["consistency"] == ""
    said = read_pins(tmp_path / "labels.csv")
    assert list(said) == ids
    assert set(said.values()) == {"=cmd", "dog", "bird", ""}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.parquet"
    make().to_parquet(path)
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 2
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        make(5).to_parquet(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
