"""Encode dataclasses as JSON, with the name of their type under the key "is", and decode them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

_TAG = "is"


class TaggedJson:
    """Codec for dataclasses of the given types.

    Args:
        types: The dataclasses. Values of their fields are JSON's types, except for those in `nested`.
        nested: Names of fields whose values are such dataclasses.
    """

    def __init__(self, types: Iterable[type], nested: Iterable[str] = ()) -> None:
        self._types = {kind.__name__: kind for kind in types}
        self._nested = frozenset(nested)

    def encode(self, value: Any) -> bytes:
        """Return a dataclass as JSON text."""
        return json.dumps(self._plain(value)).encode()

    def decode(self, text: bytes) -> Any:
        """Return the dataclass that `encode` wrote. Raises KeyError for any other type."""
        return self._typed(json.loads(text))

    def _plain(self, value: Any) -> dict[str, Any]:
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        plain = {name: self._plain(field) if name in self._nested else field for name, field in fields.items()}
        return {_TAG: type(value).__name__, **plain}

    def _typed(self, plain: dict[str, Any]) -> Any:
        kind = self._types[plain.pop(_TAG)]
        return kind(**{name: self._typed(field) if name in self._nested else field for name, field in plain.items()})
