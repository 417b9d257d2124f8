"""What is trained, and how: the sizes of both networks, the schedule, and a recipe for each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from gdui import checks
from gdui.diffusion.classifier import ClassifierConfig
from gdui.diffusion.recipe import Recipe
from gdui.diffusion.schedule import Schedule
from gdui.diffusion.spice import SpiceConfig
from gdui.diffusion.unet import PRESETS, UNetConfig, preset

__all__ = ["Plan"]

Parts = TypeVar("Parts", UNetConfig, ClassifierConfig, SpiceConfig, Recipe)

# The paper's rates and averages; how long is for the data to say, so steps are a beginning.
LARGE = Recipe(steps=200_000, batch=128, rate=1e-4, warmup=1_000, ema=(0.999, 0.9999), forget=0.1, save_every=5_000)
RECIPES = {
    "tiny": Recipe(
        steps=1_500,
        batch=128,
        rate=1e-3,
        warmup=100,
        ema=(0.99, 0.995, 0.998),
        forget=0.1,
        mixed=False,
        save_every=500,
        keep=1,
    ),
    "small": replace(LARGE, steps=50_000, rate=2e-4),
}
# The classifier is about half as wide as the UNet and needs fewer steps.
SHORTER = 3
CLASSIFIERS = ("adm", "spice")
PLAIN = ("schedule", "timesteps", "picture_size")


@dataclass(frozen=True)
class Plan:
    """A preset with its changes; `gdui.train` keeps it with the run."""

    network: UNetConfig
    classifier: ClassifierConfig | SpiceConfig
    recipe: Recipe
    classifier_recipe: Recipe
    schedule: str = "cosine"
    timesteps: int = 500
    picture_size: int = 0

    def __post_init__(self) -> None:
        Schedule.from_name(self.schedule, self.timesteps)

    @classmethod
    def named(
        cls,
        name: str,
        classes: int,
        *,
        conditional: bool = True,
        classifier: str = "adm",
        seed: int = 0,
        changes: Mapping[str, Any] | None = None,
    ) -> "Plan":
        """The preset `name` for so many classes, with changes by dotted name, as in {"recipe.steps": 500, "size": 16}.

        "size", "channels" change both networks, "schedule" and "timesteps" the schedule; "picture_size" is the edge of
        the pictures where the networks see latents (0 for the same). The rest begins with "network.", "classifier.",
        "recipe." or "classifier_recipe.".
        """
        checks.one_of("preset", name, list(PRESETS))
        checks.one_of("classifier", classifier, CLASSIFIERS)
        asked = dict(changes or {})
        common = {"image_size": asked.pop("size", PRESETS[name].image_size), "channels": asked.pop("channels", 3)}
        base = preset(name, **common, classes=classes if conditional else None)
        recipe = replace(RECIPES.get(name, LARGE), seed=seed)
        shorter = max(1, recipe.steps // SHORTER)
        plan = cls(
            base,
            _classifier(classifier, base, max(2, classes)),
            recipe if conditional else replace(recipe, forget=0.0),
            replace(recipe, steps=shorter, rate=max(recipe.rate, 3e-4), weight_decay=0.05, forget=0.0),
        )
        return plan._changed(asked)

    def _changed(self, asked: Mapping[str, Any]) -> "Plan":
        """With all changes made at once: what doesn't fit one by one may fit together."""
        plain: dict[str, Any] = {}
        within: dict[str, dict[str, Any]] = {}
        known = ["size", "channels", *self.names()]
        for name, value in asked.items():
            if name not in known:
                instead = checks.setting_instead(name, known, "gdui.diffusion.plan (docs/reference/generator.md)")
                raise ValueError(f"no setting is named {name!r}{instead}")
            part, _, inner = name.partition(".")
            if inner:
                within.setdefault(part, {})[inner] = value
            else:
                plain[name] = checks.typed(Plan, name, name, value)
        return replace(self, **plain, **{part: _with(getattr(self, part), part, own) for part, own in within.items()})

    def names(self) -> list[str]:
        """The dotted name of every setting."""
        return [name if inner is None else f"{name}.{inner}" for name, inner in self._fields()]

    def _fields(self) -> list[tuple[str, str | None]]:
        parts = ("network", "classifier", "recipe", "classifier_recipe")
        return [(part, one.name) for part in parts for one in fields(getattr(self, part))] + [
            (name, None) for name in PLAIN
        ]

    def settings(self) -> dict[str, Any]:
        """Plain values nested one level deep; how many steps are taken may change later and is not among them."""
        nested = asdict(self)
        for part in ("recipe", "classifier_recipe"):
            del nested[part]["steps"]
        return {name: _plain(value) if isinstance(value, dict) else value for name, value in nested.items()}


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists, and no None."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in part.items() if v is not None}


def _classifier(kind: str, network: UNetConfig, classes: int) -> ClassifierConfig | SpiceConfig:
    if kind == "spice":
        return SpiceConfig(network.image_size, classes, network.channels)
    kept = {one.name: getattr(network, one.name) for one in fields(UNetConfig)}
    head = network.head_width or 32
    half = -(-network.width // (2 * head)) * head  # rounded up to whole heads
    own = {"classes": classes, "width": half, "learned_variance": False, "dropout": 0.0}
    return ClassifierConfig(**kept | own)


def _with(part: Parts, name: str, changes: Mapping[str, Any]) -> Parts:
    typed = {inner: checks.typed(type(part), inner, f"{name}.{inner}", value) for inner, value in changes.items()}
    return replace(part, **typed)
