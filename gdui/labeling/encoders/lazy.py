"""An encoder that is loaded when it is first asked: nobody waits for weights that nothing needs."""

from typing import Any

from gdui.labeling.encoders.encoder import Encoder
from gdui.labeling.encoders.load import load_encoder

__all__ = ["LazyEncoder"]


class LazyEncoder:
    """What a user gave as an encoder: a name, a callable, a loaded one, or nothing.

    name: what it goes by on disk; "" for a callable, which no file can keep.
    lost: the callable that was left behind when this came from disk, "" for none.
    """

    def __init__(self, given: Any, batch: int | None = None, lost: str = "") -> None:
        self._given, self._batch = given, batch
        is_function = callable(given) and not isinstance(given, Encoder)
        self.lost = str(getattr(given, "__qualname__", type(given).__qualname__)) if is_function else lost
        name = getattr(given, "name", given)
        self.name = name if isinstance(name, str) and not is_function else ""

    def load(self, needed_for: str) -> Encoder:
        """The encoder; if there is none, the error says what it was `needed_for`."""
        if self._given is None and self.lost:
            raise ValueError(f"{needed_for} needs the callable {self.lost!r} again: Labeler.load(path, encoder=...)")
        if self._given is None:
            raise ValueError(f"{needed_for} needs an encoder: name one, or hand in features and opinions")
        if not isinstance(self._given, Encoder):
            self._given = load_encoder(self._given, batch=self._batch)
        return self._given
