"""Decode a job's spec from the JSON types in which its run folder keeps it, the reverse of `spec.plain`.

The dataclasses' annotations give the types. An unknown key, and a value of another type, are refused. Keys may have
their names of older versions, without a warning, as nobody would change a run folder.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError
from mvpnet.spec.aliases import renamed_spec
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import RankOverride

_MISSING_HINT = "it was written by another version of mvpnet; the manifest says by which"


def job_spec(plain: Mapping[str, Any], where: str) -> JobSpec:
    """Return the checked spec that `spec.plain` encoded as `plain`.

    Args:
        plain: A spec in the form of a run folder.
        where: Its file, for messages.

    Raises:
        ConfigError: It is no spec of this version. Names the file and the key.
    """
    hints = typing.get_type_hints(JobSpec)
    plain = renamed_spec(plain, where=where)
    own = {key: value for key, value in plain.items() if key != "overrides"}
    try:
        spec = JobSpec(
            **{key: _value(hints[key], value, f"{where}: {key}") for key, value in own.items()},
            overrides=tuple(_override(entry, where) for entry in plain["overrides"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: is no resolved spec: {type(error).__name__}: {error}") from error
    check_job(spec)
    return spec


def _override(entry: Mapping[str, Any], where: str) -> Override:
    name = entry["name"]
    sections = typing.get_type_hints(RankOverride)
    changes: dict[str, Any] = {}
    for section, values in entry["changes"].items():
        place = f"{where}: ranks.{name}.{section}"
        if section not in sections:
            raise ConfigError(f"{place}: there is no such section", hint=_MISSING_HINT)
        changes[section] = _values(sections[section], values, place, partly=True)
    return Override(name, RankSet.parse(entry["on"], f"{where}: ranks.{name}.on"), changes)


def _made(kind: Any, values: Any, place: str) -> Any:
    return kind(**_values(kind, values, place))


def _values(kind: Any, values: Any, place: str, *, partly: bool = False) -> dict[str, Any]:
    """Decode the fields of a dataclass; with `partly`, its groups stay mappings of the given keys."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place}: {values!r} is no group of keys")
    hints = typing.get_type_hints(kind)
    if unknown := next((key for key in values if key not in hints), None):
        raise ConfigError(f"{place}.{unknown}: this version has no such key", hint=_MISSING_HINT)

    def typed(key: str, value: Any) -> Any:
        if partly and dataclasses.is_dataclass(hints[key]):
            return _values(hints[key], value, f"{place}.{key}", partly=True)
        return _value(hints[key], value, f"{place}.{key}")

    return {key: typed(key, value) for key, value in values.items()}


def _value(kind: Any, value: Any, place: str) -> Any:
    """Decode a value as the type `kind`."""
    if kind is Any:
        return value
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(one for one in arguments if one is not type(None))
        return None if value is None else _value(inner, value, place)
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _made(kind, value, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in kind.__members__:
            raise ConfigError(f"{place}: {value!r} is none of {', '.join(kind.__members__)}", hint=_MISSING_HINT)
        return kind[value]
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ConfigError(f"{place}: {value!r} is not of the type {kind}", hint=_MISSING_HINT)
