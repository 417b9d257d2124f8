"""The configuration: presets, overrides by dotted name, plain values and back."""

import dataclasses

import pytest

from gdui.config import Config


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_plain_values_and_back(preset: str) -> None:
    config = Config.named(preset, k=7, **{"refine.sigma": 0.25, "graph.scales": [2.0, 4.0]})
    assert Config.from_dict(config.to_dict()) == config


def test_the_paper_has_no_graph_and_keeps_unvoted_names() -> None:
    paper = Config.named("paper")
    assert (paper.clusterer, paper.graph.enabled, paper.refine.unvoted) == ("heads", False, "keep")


def test_overrides_leave_the_rest_alone() -> None:
    changed = Config().override({"graph.neighbors": 9})
    assert changed.graph.neighbors == 9
    assert dataclasses.replace(changed, graph=Config().graph) == Config()


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ({"refine.sigma": 1.5}, ValueError, r"refine\.sigma must be between 0 and 1, not 1\.5"),
        ({"refine.sigmas": 0.5}, ValueError, "no setting is named 'refine.sigmas'; did you mean 'refine.sigma'"),
        ({"refine.colour": 0.5}, ValueError, "no setting is named 'refine.colour'; refine has lambda_delta, .*sigma"),
        ({"refin.sigma": 0.5}, ValueError, "no setting is named 'refin.sigma'; did you mean 'refine.sigma'"),
        ({"refine": 0.5}, ValueError, "no setting is named 'refine'; refine has lambda_delta, .*sigma"),
        ({"batch": 5}, ValueError, "no setting is named 'batch'; there is encode.batch and .*cluster.batch"),
        ({"seed.x": 5}, ValueError, "no setting is named 'seed.x'"),
        ({"colour": 1}, ValueError, "no setting is named 'colour'; gdui.config .* has the list$"),
        ({"sigm": 1}, ValueError, r"no setting is named 'sigm'; there is refine\.sigma$"),
        ({"device": 1}, ValueError, "no setting is named 'device'; gdui.config .* has the list$"),
        ({"neighbors.method": "exakt"}, ValueError, r"not 'exakt'; did you mean 'exact'\?"),
        ({"refine.sigma": "half"}, TypeError, r"refine\.sigma must be a number, not 'half'"),
        ({"k": "many"}, ValueError, "k must be one of 'auto', not 'many'"),
        ({"neighbors.method": "guess"}, ValueError, "neighbors.method must be one of 'auto'"),
        ({"preset": "paper"}, ValueError, "preset can't be changed afterwards"),
        ({"clusterer": "magic"}, ValueError, "clusterer must be one of"),
        ({"graph.scales": []}, ValueError, "at least one number of clusters"),
        ({"encode.templates": ["a photo"]}, ValueError, "where the class name goes"),
    ],
)
def test_mistakes_are_named(override: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Config().override(override)
