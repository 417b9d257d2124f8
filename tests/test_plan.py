"""A preset and its changes make two networks that can be built, or are refused before anything costs."""

from typing import Any

import pytest
import torch

from gdui.diffusion.generator import classifier_of
from gdui.diffusion.plan import Plan
from gdui.diffusion.unet import PRESETS


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", ["adm", "spice"])
def test_every_preset_has_a_classifier(name: str, kind: str) -> None:
    plan = Plan.named(name, 10, classifier=kind)
    edge = plan.network.image_size
    with torch.device("meta"):
        logits = classifier_of(plan.classifier).eval()(torch.empty(2, 3, edge, edge), torch.zeros(2))
    assert logits.shape == (2, 10)


def test_changes_fit_together_in_any_order() -> None:
    changes = {"recipe.accumulate": 3, "network.width": 40, "recipe.batch": 9, "network.head_width": 8}
    for asked in (changes, dict(reversed(changes.items()))):
        plan = Plan.named("tiny", 4, changes=asked)
        assert (plan.recipe.accumulate, plan.recipe.batch) == (3, 9)
        assert (plan.network.width, plan.network.head_width) == (40, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network.width": 40}, "head_width must divide the 80 channels of its level, 32 does not"),
        ({"network.width": 40, "network.head_width": None, "network.heads": 3}, "heads must divide the 80 channels"),
        ({"network.depth": 0}, "depth must be at least 1"),
        ({"network.dropout": 2}, "dropout must be between 0 and 1"),
        ({"recipe.rate": "fast"}, "recipe.rate must be a number, not 'fast'"),
        ({"recipe.steps": 1.5}, "recipe.steps must be a whole number, not 1.5"),
        ({"recipe.mirror": 1}, "recipe.mirror must be true or false, not 1"),
        ({"recipe.weighting": 3}, "recipe.weighting must be text or None, not 3"),
        ({"recipe.weighting": "heavy"}, "weighting must be one of 'min_snr', 'p2', not 'heavy'"),
        ({"recipe.kind": "best"}, "kind must be one of 'simple'"),
        ({"recipe.rate": float("nan")}, "rate must be between 0 and inf"),
        ({"recipe.clip": -1}, "clip must be between 0 and inf"),
        ({"timesteps": "many"}, "timesteps must be a whole number, not 'many'"),
        ({"recipe": 3}, "no setting is named 'recipe'"),
        ({"recipe.stpes": 3}, r"no setting is named 'recipe.stpes'; did you mean 'recipe.steps'\?"),
        ({"step": 3}, r"no setting is named 'step'; there is recipe\.steps and classifier_recipe\.steps$"),
        ({"schedule.name": "linear"}, "no setting is named 'schedule.name'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        Plan.named("tiny", 4, changes=changes)
