"""Map old names of keys and options to their current names.

The tables are in this module alone. Command lines, config files, saved specs and digests are read through them. Old
names go on working; a job that was given any reports them in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mvpnet.errors import ConfigError

Names = Mapping[str, str]

#: old key → key
RENAMED_KEYS: Names = {
    "app.ssh_at_once": "app.max_parallel_ssh",
    "job.silence_s": "job.heartbeat_timeout_s",
    "logging.digest_s": "logging.digest_timeout_s",
    "net.gather_us": "net.coalesce_us",
    "net.nap_ms": "net.max_sleep_ms",
    "net.patience_ms": "net.drop_timeout_ms",
    "net.sample_s": "net.sample_interval_s",
    "net.spin_us": "net.busy_poll_us",
}
#: the reverse of RENAMED_KEYS
OLD_KEYS: Names = {new: old for old, new in RENAMED_KEYS.items()}

#: config group → old option → option
RENAMED_OPTIONS: Mapping[str, Names] = {"cloud_init": {"default": "always"}}

# Keys below these prefixes are named as without them: those of rank overrides, and of Hydra's sweeper.
_PREFIXED = re.compile(r"(ranks\.[^.]+\.|hydra\.sweeper\.params\.)(.+)")
_OF_A_STEP = re.compile(r"(app\.steps\.[^.]+\.)([^.]+)")
_REFERENCE = re.compile(rf"(?<=\$\{{)({'|'.join(map(re.escape, RENAMED_KEYS))})(?=\}})")


class OldNames:
    """The old names that one job was given."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._told: set[str] = set()

    def add(self, old: str, new: str) -> None:
        self._found[old] = new

    def warning(self) -> str | None:
        """Return one line about all names that no earlier line mentioned; None if there are none."""
        untold = {old: new for old, new in self._found.items() if old not in self._told}
        self._told |= untold.keys()
        if not untold:
            return None
        return f"warning: old names: {', '.join(f'{old} is {new} now' for old, new in untold.items())}"


def new_key(key: str, names: Names = RENAMED_KEYS) -> str:
    """Return a dotted key with its current name, also below `ranks.NAME` and `app.steps.NAME`."""
    if found := _PREFIXED.fullmatch(key):
        return found[1] + new_key(found[2], names)
    if found := _OF_A_STEP.fullmatch(key):
        return found[1] + names.get(f"app.{found[2]}", key).rpartition(".")[2]
    return names.get(key, key)


def refuse_both(given: Iterable[str], where: str = "") -> None:
    """Refuse a key that is given by both its old and its new name.

    Raises:
        ConfigError: Names both, and the place given by `where`.
    """
    keys = set(given)
    for old in sorted(keys):
        if (new := new_key(old)) != old and new in keys:
            raise _both(old, new, where)


def _both(old: str, new: str, where: str) -> ConfigError:
    place = f"{where}: " if where else ""
    return ConfigError(f"{place}{old}: is the old name of {new}, which is given too", hint="give one of them")


def keys_of(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a tree of mappings."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")


def renamed(tree: Mapping[Any, Any], prefix: str = "", names: Names = RENAMED_KEYS, where: str = "") -> dict[Any, Any]:
    """Return a copy of a tree of mappings with the current names.

    Args:
        tree: Nested mappings; all other values stay unchanged.
        prefix: Place of the tree in the config, with a dot at the end.
        names: New names by old names.
        where: File of the tree, for messages.

    Raises:
        ConfigError: The tree has a key by both its old and its new name.
    """
    new: dict[Any, Any] = {}
    for key, value in tree.items():
        place = f"{prefix}{key}"
        today = new_key(place, names)
        name = key if today == place else today.removeprefix(prefix)
        if name != key and name in tree:
            raise _both(place, today, where)
        new[name] = renamed(value, f"{today}.", names, where) if isinstance(value, Mapping) else value
    return new


def renamed_spec(plain: Mapping[str, Any], names: Names = RENAMED_KEYS, where: str = "") -> dict[str, Any]:
    """Return a job's spec, in the form of `plain`, with the current names. Anything but a spec stays unchanged.

    Raises:
        ConfigError: As `renamed`.
    """
    spec = dict(plain)
    if isinstance(config := spec.get("config"), Mapping):
        spec["config"] = renamed(config, names=names, where=where)
    if isinstance(overrides := spec.get("overrides"), (list, tuple)):
        spec["overrides"] = [_renamed_override(entry, names, where) for entry in overrides]
    return spec


def _renamed_override(entry: Any, names: Names, where: str) -> Any:
    if isinstance(entry, Mapping) and isinstance(changes := entry.get("changes"), Mapping):
        return {**entry, "changes": renamed(changes, f"ranks.{entry.get('name')}.", names, where)}
    return entry


def renamed_references(text: str, met: OldNames) -> str:
    """Return a text with references to keys, such as `${net.mtu}`, with the current names."""

    def today(found: re.Match[str]) -> str:
        met.add(found[0], RENAMED_KEYS[found[0]])
        return RENAMED_KEYS[found[0]]

    return _REFERENCE.sub(today, text)
