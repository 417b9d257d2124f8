"""What encoders go by: a mistake in a name is found before the libraries that load networks are."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from gdui import checks

__all__ = ["KINDS", "check_encoder", "split_model"]

KINDS = (
    "'MODEL/TAG', 'MODEL/FILE', 'hf-hub:...', 'local-dir:...', 'torchvision:MODEL/FILE', 'spice:MODEL/FILE' or 'digits'"
)
PREFIXES = ("hf-hub:", "local-dir:", "torchvision:", "spice:")


def check_encoder(name: str) -> None:
    """Refuses what can't be an encoder's name; whether there are weights behind one shows when they are loaded."""
    whole = name.partition("#")[0]
    if whole != "digits" and not whole.startswith(PREFIXES) and (models := _shipped_models()):
        split_model(whole, models)


def split_model(spec: str, models: Iterable[str]) -> tuple[str, str]:
    """The open_clip model among `models`, and what follows it: a tag or a file."""
    known = set(models)
    splits = [(spec[:at].replace("/", "-"), spec[at + 1 :]) for at, sign in enumerate(spec) if sign == "/"]
    name, weights = next((split for split in splits if split[0] in known), (spec, ""))
    if name not in known:
        meant = checks.did_you_mean(spec, ["digits", *known]) or checks.did_you_mean(spec.rpartition("/")[0], known)
        raise ValueError(f"encoder must be {KINDS}, not {spec!r}: open_clip has no such model{meant}")
    return name, weights


def _shipped_models() -> list[str]:
    """The models that open_clip comes with, by their files: to import it would take seconds."""
    found = find_spec("open_clip")
    folders = found.submodule_search_locations if found is not None else None
    return [file.stem for folder in folders or () for file in Path(folder, "model_configs").glob("*.json")]
