"""Paths of files that are copied between host and guest: the home, wildcards, and what only a shell would read."""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from mvpnet.errors import ConfigError
from mvpnet.spec.schema import App

_WILD = re.compile(r"[*?\[]")
_SHELL = re.compile(r"\$[A-Za-z_{(]|`|^~[^/]|\{[^{}]*(,|\.\.)[^{}]*\}")
_HOME = re.compile(r"^(\$HOME|\$\{HOME\})(?=/|$)")


def is_pattern(path: str) -> bool:
    """Return whether a path has wildcards."""
    return _WILD.search(path) is not None


def split_pattern(path: str) -> tuple[str, str]:
    """Split a path of a guest: the folder, and the name or pattern by which what is in there is kept on the host.

    That is the last name, or all from the first wildcard on: the files of /tmp/*/out are kept as A/out, B/out. The
    folder is "." for the home and "" for the root.
    """
    parts = PurePosixPath(path).parts
    wild = next((index for index, part in enumerate(parts) if is_pattern(part)), len(parts) - 1)
    folder, rest = parts[:wild], "/".join(parts[wild:])
    if parts[0] == "/":
        return "/".join(["", *folder[1:]]), rest
    return "/".join([".", *folder]), rest


def path_in_guest(key: str, path: str) -> str:
    """Return a path of the guest without ~/ in front: relative paths count from the home.

    Raises:
        ConfigError: It has what only a shell would read; names `key` and the form that works.
    """
    if _SHELL.search(path):
        works = f"write {_HOME.sub('~', path)!r}" if _HOME.match(path) else "~/ is the user's home"
        raise ConfigError(
            f"{key}: {path!r} is for a shell, and none reads it",
            hint=f"{works}; relative paths are in the home, and * ? [ ] match names, as a ? does for any one sign",
        )
    return path.removeprefix("~/") if path.startswith("~/") else "" if path == "~" else path


def collected(key: str, paths: list[str]) -> tuple[str, ...]:
    """Return the paths to fetch from a guest.

    Raises:
        ConfigError: A path has no last name, or two would be kept under the same one.
    """
    found: list[str] = []
    for written in paths:
        path = path_in_guest(key, written)
        name = PurePosixPath(path).name
        if not name or ".." in PurePosixPath(path).parts:
            raise ConfigError(
                f"{key}: {written!r} leads outside, or names no file", hint="name a file or folder, no .."
            )
        if "**" in path:
            raise ConfigError(f"{key}: {written!r}: ** is as * here", hint="name the folder to have all that is in it")
        for other in found:
            if _may_meet(split_pattern(path), split_pattern(other)):
                raise ConfigError(f"{key}: {other!r} and {written!r} would both be kept as {split_pattern(other)[1]!r}")
        found.append(path)
    return tuple(found)


def _may_meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether files of two places may be kept under the same name, as far as that is seen without the files."""
    if one == other:
        return True
    (folder, name), (other_folder, other_name) = one, other
    return folder != other_folder and (fnmatchcase(name, other_name) or fnmatchcase(other_name, name))


def target_in_guest(key: str, path: str, source: Path) -> str:
    """Return where a pushed file goes in the guest; `DIR/` means into that folder, and `~/` into the home.

    Raises:
        ConfigError: No file can be there.
    """
    place = path_in_guest(key, path)
    if path.endswith("/") or path == "~":
        place += source.name
    if not place.strip("/") or ".." in PurePosixPath(place).parts:
        raise ConfigError(f"{key}: {path!r} is no path that a file in the guest can have")
    if "*" in place or "?" in place:
        raise ConfigError(
            f"{key}: {path!r}: wildcards have no meaning where files go to", hint="DIR/ is into that folder"
        )
    return place


def with_pushed_files(app: App) -> App:
    """Return the app with wildcards in the sources of push replaced by the files that they match now.

    Raises:
        ConfigError: Nothing matches, or more than one file would go to the same place.
    """
    steps = {
        name: {**step, "push": _pushed(f"app.steps.{name}.push", step["push"])} if step.get("push") else step
        for name, step in app.steps.items()
    }
    return dataclasses.replace(app, push=_pushed("app.push", app.push), steps=steps)


def _pushed(key: str, sources: Mapping[str, Any]) -> dict[str, Any]:
    pushed: dict[str, Any] = {}
    for target, source in sources.items():
        if not is_pattern(source) or Path(source).exists():
            pushed[target] = source
            continue
        if not target.endswith("/") and target != "~":
            raise ConfigError(
                f"{key}.{target}: {source!r} may match several files",
                hint=f"write {target}/ for a folder that they go into",
            )
        matches = sorted(glob.glob(source))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise ConfigError(f"{key}.{target}: no file or folder matches {source}")
        folder, _ = split_pattern(source)
        for match in matches:
            pushed[f"{target.rstrip('/')}/{Path(match).relative_to(folder or '/')}"] = match
    return pushed
