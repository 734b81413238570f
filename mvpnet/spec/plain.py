"""Convert frozen data to JSON's types, digest it, and copy it with changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from mvpnet.spec.aliases import OLD_KEYS, renamed_spec
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.urls import with_addresses

T = TypeVar("T")


def digest_of(plain_spec: Mapping[str, Any]) -> str:
    """Return `JobSpec.digest` of a spec in the form of `plain`, even one without all of today's keys."""
    # The original names of keys are digested, as a renamed key makes no other experiment. So specs of versions before
    # and after a renaming have the same digest if they set the same keys to the same values. An old run's spec keeps
    # the digest recorded with it, and a sweep of an older version can be resumed.
    plain_spec = with_addresses(renamed_spec(plain_spec, OLD_KEYS))  # a new signature makes no other experiment
    asked = {key: value for key, value in plain_spec.items() if key not in ("run_dir", "typed", "recipe", "repeat")}
    config = {key: value for key, value in asked["config"].items() if key not in ("sweep", "recipe")}
    # job.ranks has the same value
    config["job"] = {key: value for key, value in config["job"].items() if key not in ("name", "ranks")}
    return hashlib.sha256(json.dumps({**asked, "config": config}, sort_keys=True).encode()).hexdigest()


def changed(section: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a dataclass with some fields replaced; nested dataclasses and dicts are merged."""
    new: dict[str, Any] = {}
    for key, value in changes.items():
        old = getattr(section, key)
        if dataclasses.is_dataclass(old) and isinstance(value, Mapping):
            new[key] = changed(old, value)
        elif isinstance(old, dict) and isinstance(value, Mapping):
            new[key] = {**old, **value}
        else:
            new[key] = value
    return dataclasses.replace(section, **new)  # type: ignore[type-var]


def plain(value: Any) -> Any:
    """Return the value in JSON's types: dataclasses as dicts, enums by name, paths and rank sets as written."""
    if isinstance(value, RankSet):
        return value.text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
