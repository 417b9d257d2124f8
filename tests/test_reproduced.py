"""The words and numbers about the paper's tables are the rows', and rows that were made unlike are refused."""

import io
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import harness, judge, measured, mobilenet, plots, report, reproduce, reproduced
from benchmarks.measured import DEFAULT, LMR, METHODS, PLG, PLM, TRUTH, UNCONDITIONAL, ZERO_SHOT, Measured
from benchmarks.subjects import Subject, digits, stl10
from gdui.training.history import History

STEPS, CURVE = 300, (75, 150, 225)


def row(method: str, seed: int = 0, fid: float = 10.0) -> Measured:
    right = float("nan") if method == UNCONDITIONAL else 0.9
    return Measured(
        method, seed, STEPS, 1790, 1797, fid, fid - 1, fid / 2, 6.0, 0.5, 0.6, 0.001, right, right, 0.99, 60.0, "{}",
        "2026-01-01",
    )  # fmt: skip


def test_rows_are_kept_as_they_were(tmp_path: Path) -> None:
    rows = [row(UNCONDITIONAL), row(PLG, 1, fid=12.25)]
    for one in rows:
        measured.append(one, tmp_path / "digits.csv")
    found = measured.read_measured(tmp_path / "digits.csv")
    assert found[1] == rows[1]
    assert [one.key for one in found] == [one.key for one in rows]


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    rows = [row(PLG, seed, fid) for seed, fid in enumerate((9.0, 10.0, 11.0))] + [row(UNCONDITIONAL)]
    table = reproduced.scores_table(rows)
    assert "| PLG (3) | 10.00 ± 1.00 | 9.00 ± 1.00 |" in table
    assert "| unconditional (1) | 10.00 |" in table
    assert "nan" not in table


def test_rows_of_unequal_size_make_no_table() -> None:
    words = "same samples, but PLG, seed 0, 300 steps has 1790, unconditional, seed 0, 300 steps has 100"
    with pytest.raises(ValueError, match=words):
        reproduced.scores_table([row(PLG), replace(row(UNCONDITIONAL), samples=100)])


def test_rows_of_unequal_size_make_no_curve_and_no_points() -> None:
    fewer = [replace(one, references=100) for one in in_training(TRUTH)]
    with pytest.raises(ValueError, match="same references, but preset default, seed 0, 75 steps has 1797, ground"):
        reproduced.curves([*in_training(DEFAULT), *fewer])
    with pytest.raises(ValueError, match=r"same samples, but sigma 0\.25, seed 0, 300 steps has 1790, sigma 1,"):
        reproduced.points([row("sigma 0.25"), replace(row("sigma 1"), samples=100)])


def test_rows_in_the_midst_of_training_stay_out_of_the_table() -> None:
    assert reproduced.final([replace(row(PLG), steps=STEPS // 2), row(PLG)]) == {PLG: [row(PLG)]}


def test_the_sentences_follow_the_rows() -> None:
    rows = [row(method, fid=20.0 if method == UNCONDITIONAL else 10.0 + at) for at, method in enumerate(METHODS)]
    said = reproduced.claims(rows)
    ours = 10.0 + METHODS.index(DEFAULT)
    assert f"FID {ours:.2f} with our labels" in said
    assert f"a share of {ours / 20:.2f}" in said
    assert f"FID from {10.0 + METHODS.index(PLM):.2f} to {10.0 + METHODS.index(LMR):.2f}" in said
    assert reproduced.claims(rows[:2]) == ""


def in_training(method: str) -> list[Measured]:
    return [replace(row(method, fid=100.0 / steps), steps=steps) for steps in (STEPS, *CURVE)]


def test_curves_are_those_of_the_first_seed_in_the_order_of_training() -> None:
    rows = [*in_training(DEFAULT), row(DEFAULT, seed=1), row(TRUTH), *in_training(PLG)]
    found = reproduced.curves(rows)
    assert list(found) == [DEFAULT]
    assert [one.steps for one in found[DEFAULT]] == [*CURVE, STEPS]
    assert {one.seed for one in found[DEFAULT]} == {0}


def test_every_generator_of_a_sigma_is_a_point() -> None:
    rows = [row("sigma 0.25", fid=3.0), row("sigma 1"), row(PLG)]
    assert [(sigma, one.fid) for sigma, one in reproduced.points(rows)] == [(0.25, 3.0), (1.0, 10.0)]


def test_the_sweep_says_what_a_run_with_that_sigma_ends_in(tmp_path: Path) -> None:
    subject = digits()
    quick = replace(subject, label=partial(subject.label, clusterer="kmeans"))
    measured.write_sweep(reproduce.swept(quick), tmp_path / "sigma.csv")
    kept = measured.read_sweep(tmp_path / "sigma.csv")
    assert [one.sigma for one in kept] == [round(at / 100, 2) for at in range(101)]
    for sigma in (0.0, 0.9, 1.0):
        label = quick.label("paper", 0, **{"refine.sigma": sigma}).label_index
        assert kept[round(100 * sigma)].label_accuracy == pytest.approx((label == subject.truth).mean(), abs=1e-5)


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for rows in which there are none yet."""
    for module in (harness, measured, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path


def test_plots_are_made_of_the_rows_there_are(committed: Path) -> None:
    folder = committed / "figures"
    plots.draw(folder)
    assert not list(folder.iterdir())
    rows = [*in_training(UNCONDITIONAL), *in_training(DEFAULT), row("sigma 0.5")]
    for one in rows:
        measured.append(one, measured.rows_file("digits"))
    sweep = [measured.Swept(at / 100, at / 200, 0.9 + at / 2000) for at in range(101)]
    assert "svg" not in reproduced.figures("digits", [row(PLG)])
    measured.write_sweep(sweep, measured.sweep_file("digits"))
    plots.draw(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first.keys() == {"reproduction_digits_steps.svg", "reproduction_digits_sigma.svg"}
    assert all(f"figures/{name}" in reproduced.figures("digits", rows) for name in first)
    plots.draw(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_readme_has_the_scores_where_it_asks_for_them(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = committed / "README.md"
    readme.write_text("before\n<!-- table: reproduction -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(report, "README", readme)
    assert report.documents()[readme] == "before\n<!-- table: reproduction -->\n\n<!-- end -->\nafter\n"
    measured.append(row(PLG), measured.rows_file("digits"))
    assert "reproduction -->\n| 1,790 pictures each (seeds) |" in report.documents()[readme]
    assert "| PLG (1) | 10.00 |" in report.documents()[readme]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The digits, a step of training, few pictures, and a judge that hardly learned."""
    monkeypatch.setattr(judge, "STEPS", 2)
    subject = digits(steps=1)
    return replace(subject, each=2, sampler_steps=2, settings={**subject.settings, "recipe.batch": 8})


def test_a_run_makes_what_is_missing_and_no_row_twice(
    tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [(UNCONDITIONAL, 0, 1), (TRUTH, 0, 1)]
    rows, figure = tmp_path / "digits.csv", tmp_path / "figure.png"
    run = partial(reproduce.make, tiny, keys, work=tmp_path / "work", rows=rows, figure=figure)
    run(minutes=0)
    assert not rows.exists()
    run(minutes=10)
    first = rows.read_bytes()
    plain, truth = measured.read_measured(rows)
    assert (plain.method, truth.method, truth.label_accuracy) == (UNCONDITIONAL, TRUTH, 1.0)
    assert plain.samples == truth.samples == 20
    assert math.isnan(plain.asked_accuracy)
    assert not figure.exists()  # which shows all methods, or stays what it was
    run(minutes=10)
    assert rows.read_bytes() == first
    monkeypatch.setattr(reproduce, "METHODS", (UNCONDITIONAL, TRUTH))
    reproduce.side_by_side(tiny, tmp_path / "work", figure)
    assert figure.exists()


ASKED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from benchmarks import judge, reproduce

name, where, rows = sys.argv[1:4]
judge.STEPS = 2
subject = reproduce.digits(steps=3)
subject = replace(subject, each=2, sampler_steps=2, settings={**subject.settings, "recipe.batch": 8})
reproduce.digits, reproduce.rows_file = lambda: subject, lambda _: Path(rows)
reproduce.options_file = lambda _: Path(rows).with_suffix(".json")
signal.signal(signal.SIGINT, signal.default_int_handler)

def asked(*_, **__):
    os.kill(os.getpid(), getattr(signal, name))

if where == "training":
    train = reproduce.train_network
    reproduce.train_network = lambda *given, **more: train(*given, **more, progress=asked)
else:
    reproduce.evaluate = asked
sys.argv[1:] = ["digits", *sys.argv[4:]]
reproduce.main()
"""


@pytest.mark.parametrize(("name", "where"), [("SIGINT", "training"), ("SIGTERM", "training"), ("SIGTERM", "scoring")])
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, name: str, where: str) -> None:
    folder, rows = tmp_path / "work" / "digits" / "unconditional-0", tmp_path / "rows.csv"
    command = [sys.executable, "-c", ASKED, name, where, str(rows), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130
    kept = {
        "training": f"stopped after step 1 of 3, which is kept in {folder}; run the same command again to continue",
        "scoring": "interrupted; finished rows are kept, run the same command again to continue",
    }[where]
    assert done.stderr == f"reproduce: error: {kept}\n"
    saved = History(folder).newest()
    assert saved is not None
    assert saved.step == (1 if where == "training" else 3)
    assert not rows.exists()


def test_a_row_of_fewer_steps_is_trained_anew_and_not_read_from_the_end(tiny: Subject, tmp_path: Path) -> None:
    """Curves that are asked for after the table: its last checkpoint is no earlier state."""
    run = partial(reproduce.make, figure=tmp_path / "figure.png", minutes=10)
    late, early = (UNCONDITIONAL, 0, 3), (UNCONDITIONAL, 0, 1)
    longer = replace(tiny, steps=3)
    run(longer, [early, late], work=tmp_path / "a", rows=tmp_path / "a.csv")
    run(longer, [late], work=tmp_path / "b", rows=tmp_path / "b.csv")
    run(longer, [early], work=tmp_path / "b", rows=tmp_path / "b.csv")
    straight, back = ({row.key: row for row in measured.read_measured(tmp_path / f"{name}.csv")} for name in "ab")
    assert straight[early].fid != straight[late].fid
    assert {key: row.fid for key, row in back.items()} == {key: row.fid for key, row in straight.items()}
    assert (tmp_path / "b" / "unconditional-0-to-3").is_dir()


def test_a_class_without_a_cluster_is_asked_for_in_vain(tiny: Subject) -> None:
    """The last cluster is empty: nine stand for a class each, and the tenth for none."""
    clusters = np.where(tiny.truth == 9, -1, tiny.truth)
    assert reproduce.meanings(tiny, clusters).tolist() == [*range(9), -1]
    assert reproduce.meanings(tiny, tiny.truth).tolist() == [*range(10)]


def test_rows_of_other_options_are_refused(tmp_path: Path) -> None:
    how = {"data": Path("somewhere/stl10.npz"), "encoder": "mobilenet", "each": 2}
    rows, begun = tmp_path / "new" / "rows.json", tmp_path / "work" / "begun.json"
    measured.keep_alike(how, begun)
    measured.keep_alike({**how, "data": Path("elsewhere/stl10.npz")}, begun)
    with pytest.raises(ValueError, match=r"work has rows of other options, by begun.json: encoder: mobilenet -> dig"):
        measured.keep_alike({**how, "encoder": "digits"}, rows, begun)
    assert not rows.parent.exists(), "what is refused is no row's option"


@pytest.mark.usefixtures("ears")
def test_rows_of_another_budget_are_refused(
    tiny: Subject, tmp_path: Path, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "digits", "--minutes", "0", "--work", str(tmp_path)])
    monkeypatch.setattr(reproduce, "METHODS", ())
    monkeypatch.setattr(reproduce, "digits", lambda: tiny)
    reproduce.main()
    reproduce.main()
    monkeypatch.setattr(reproduce, "digits", lambda: replace(tiny, guidance=2.0))
    with pytest.raises(
        SystemExit, match=r"reproduction has rows of other options, by digits.json: guidance: 0.25 -> 2"
    ):
        reproduce.main()


def test_the_text_says_what_the_rows_were_made_of_and_seen_through(committed: Path) -> None:
    measured.append(replace(row(UNCONDITIONAL), references=42), measured.rows_file("stl10-64"))
    measured.keep_alike({"network": "digits", "encoder": "mobilenet"}, measured.options_file("stl10-64"))
    said = reproduced.reproduction()
    assert "by the same network, digits; labels are found through mobilenet." in said
    assert "on the same 42 pictures of 64 x 64 pixels for 300 steps" in said
    assert "took\n1 minutes." in said, "nothing is known of the machine"
    assert "as a share of" not in said, "nothing to compare with"


def test_a_short_training_has_no_point_twice(pictures: Path) -> None:
    for steps, curve in ((1, ()), (2, (1,)), (4, (1, 2, 3)), (200, (50, 100, 150))):
        assert stl10(pictures, "tiny", "digits", "digits", None, steps=steps, each=2).curve == curve


def test_an_encoder_that_can_not_name_the_pictures_is_told_at_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(encoder: str) -> Subject:
        return stl10(pictures, "tiny", encoder, "digits", None, steps=1, each=2)

    monkeypatch.setattr(mobilenet, "WEIGHTS", tmp_path / "none")
    with pytest.raises(ValueError, match=r"mobilenet needs its weights in .*none: name an encoder of open_clip"):
        made("mobilenet")
    (pictures / "bird").rename(pictures / "unicorn")
    with pytest.raises(ValueError, match="no synset for unicorn"):
        made("mobilenet")
    with pytest.raises(ValueError, match="not 'ViT-B-33/x': open_clip has no such model"):
        made("ViT-B-33/x")


@pytest.mark.usefixtures("ears")
def test_the_command_says_in_a_line_what_it_lacks(
    tmp_path: Path, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    for name in ("none", "empty", "other.npz"):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "stl10", "--data", str(tmp_path / name)])
        with pytest.raises(SystemExit, match=r"reproduce: error: .*(folder for each class|not a file in)"):
            reproduce.main()
    assert not list(committed.rglob("*.json"))


@pytest.mark.usefixtures("ears")
def test_weights_for_another_network_are_told_in_a_line(
    pictures: Path, tmp_path: Path, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["stl10", "--data", str(pictures), "--encoder", "digits", "--network", "digits", "--weights", "x"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *command, "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match="reproduce: error: weights are for network 'inception' only"):
        reproduce.main()


def test_all_methods_come_first_and_curves_only_where_asked(tiny: Subject) -> None:
    plain = reproduce.wanted(tiny, curves=False, sigmas=False)
    assert [method for method, _, _ in plain[: len(METHODS)]] == list(METHODS)
    whole = reproduce.wanted(tiny, curves=True, sigmas=True)
    assert set(plain) < set(whole)
    assert len(set(whole)) == len(whole)


def test_a_label_set_is_made_once(tiny: Subject, tmp_path: Path) -> None:
    """One run of the labeller gives the clusters, their names, the repair and the opinion."""
    np.savez(tmp_path / "labels-paper-0.npz", cluster=[3, 1], named=[1, 1], opinion=[0, 2], label=[1, 2])
    unasked = replace(tiny, label=None)
    found = [reproduce.labels_of(unasked, method, 0, tmp_path).tolist() for method in (PLG, PLM, LMR, ZERO_SHOT)]
    assert found == [[3, 1], [1, 1], [1, 2], [0, 2]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of a folder for each of two classes."""
    for name, shade in (("bird", 40), ("ship", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 50, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise + np.uint8(shade)).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_a_folder_of_classes_makes_rows_as_the_digits_do(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "STEPS", 2)
    subject = stl10(pictures, "tiny", "digits", "digits", None, steps=1, each=2)
    assert subject.classes == ("bird", "ship")
    assert subject.pixels.shape == (8, 8, 8, 3)
    assert subject.truth.tolist() == [0] * 4 + [1] * 4
    small = replace(subject, sampler_steps=2, settings={**subject.settings, "recipe.batch": 4, "network.width": 32})
    rows, figure = tmp_path / "rows.csv", tmp_path / "figure.png"
    reproduce.make(small, [(LMR, 0, 1)], work=tmp_path / "work", rows=rows, figure=figure, minutes=10)
    made = measured.read_measured(rows)[0]
    assert (made.method, made.samples, made.references) == (LMR, 4, 8)
    assert 0 <= made.label_accuracy <= 1


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder for each class"):
        stl10(tmp_path / "none", "tiny", "digits", "digits", None, steps=1, each=2)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "empty.npz").touch()
    for name, words in {
        "one.npy": "is no .npz file",
        "empty.npz": "is no .npz file",
        "other.npz": "train_labels is not a file in the archive",
    }.items():
        with pytest.raises(ValueError, match=f"--data .*{name}:? {words}"):
            stl10(tmp_path / name, "tiny", "digits", "digits", None, steps=1, each=2)


def test_the_papers_own_pictures_are_read_from_a_file(tmp_path: Path) -> None:
    """Both folds, in their order, brought to the network's side."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array(["bird", "ship"])}
    for fold, labels in (("train", [1, 0]), ("test", [0])):
        files = [jpeg(100 * label + 50) for label in labels]
        arrays[f"{fold}_data"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{fold}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{fold}_labels"] = np.array(labels)
    np.savez(tmp_path / "stl.npz", **arrays)
    subject = stl10(tmp_path / "stl.npz", "tiny", "digits", "digits", None, steps=1, each=2)
    assert subject.truth.tolist() == [1, 0, 0]
    assert np.abs(subject.pixels.mean((1, 2, 3)) - [150, 50, 50]).max() < 2


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()
