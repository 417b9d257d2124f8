"""What a machine can use: what is there, what is missing, and what is broken."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gdui import doctor
from gdui.cli import main
from gdui.doctor import examine
from gdui.report.projection import project


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
