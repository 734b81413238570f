"""What kind of value each key takes, as far as reading it asks for: a text, words of a command, a number, anything.

The schema's types say it, but for the keys that OmegaConf has no type for; those are named here.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Union

from mvpnet.spec import schema


@dataclass(frozen=True)
class Kind:
    """A value that YAML and Hydra may read as they do: a number, a switch."""


@dataclass(frozen=True)
class Text(Kind):
    """A text, which stays as it is written."""

    may_be_null: bool = True  # `null` is no value; in a list of words it is a word


@dataclass(frozen=True)
class Free(Kind):
    """A value of any shape. A number in it that would be written in another way than it is (0644, 1.10) is a text."""

    numbers: bool = True  # else all but null is text


@dataclass(frozen=True)
class ListOf(Kind):
    """A list. Where one text may stand in its place, that is of the kind `or_one`."""

    items: Kind
    or_one: Kind | None = None


@dataclass(frozen=True)
class Keys(Kind):
    """A mapping: its known keys, and the kind of all others."""

    known: Mapping[str, Kind] = field(default_factory=dict)
    others: Kind | None = None

    def __hash__(self) -> int:
        return id(self)


WORD = Text(may_be_null=False)
_WORDS = ListOf(WORD, or_one=Text())
_LIST_OF_WORDS = ListOf(_WORDS)
_PACKAGES = Free(numbers=False)  # names, [name, version], or either by the package manager's name
_FILES = ListOf(Keys({"append": Kind(), "defer": Kind(), "source": Free()}, others=Text()))  # cc_write_files
CLOUD_CONFIG = Keys(
    {"runcmd": _LIST_OF_WORDS, "bootcmd": _LIST_OF_WORDS, "packages": _PACKAGES, "write_files": _FILES}, others=Free()
)

#: the keys whose type in the schema is Any, by section and name
_UNTYPED: dict[tuple[type, str], Kind] = {
    (schema.Prepare, "packages"): _PACKAGES,
    (schema.Prepare, "runcmd"): _LIST_OF_WORDS,
    (schema.Prepare, "user_data"): CLOUD_CONFIG,
    (schema.CloudInit, "packages"): _PACKAGES,
    (schema.CloudInit, "runcmd"): _LIST_OF_WORDS,
    (schema.CloudInit, "write_files"): _FILES,
    (schema.CloudInit, "user_data"): CLOUD_CONFIG,
    (schema.Step, "command"): _WORDS,
    (schema.Step, "script"): _WORDS,
    (schema.App, "command"): _WORDS,
    (schema.App, "script"): _WORDS,
}


def part_of(kind: Kind | None, name: str) -> Kind | None:
    """Return the kind of what is at this key of a mapping, or at this place in a list; None if there is none."""
    if isinstance(kind, Keys):
        return kind.known.get(name, kind.others)
    if isinstance(kind, ListOf):
        return kind.items
    return kind if isinstance(kind, Free) else None


def of_section(section: type) -> Keys:
    """Return the kind of a section of the configuration, from its dataclass."""
    hints = typing.get_type_hints(section)
    known = {}
    for one in dataclasses.fields(section):
        untyped = _UNTYPED.get((section, one.name))
        known[one.name] = untyped if untyped is not None else _of_type(hints[one.name], in_key=True)
    if issubclass(section, schema.App):
        known["steps"] = Keys(others=of_section(schema.Step))
    return Keys(known)


def _of_type(hint: Any, in_key: bool) -> Kind:
    """Return the kind of a type of the schema. `in_key`: it is a key's own, not that of what a list holds."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, Union):
        return _of_type(next(one for one in given if one is not type(None)), in_key)
    if origin is list:
        return ListOf(_of_type(given[0], in_key=False))
    if origin is dict:
        return Keys(others=_of_type(given[1], in_key=False))
    if hint is Any:
        return Free()
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return of_section(hint)
    return Text(may_be_null=in_key) if issubclass(hint, (str, Enum)) else Kind()
