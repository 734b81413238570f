"""Reads YAML so that texts stay as they are written: what key a scalar stands at says what it may become.

Config files are read by it, and a user's own file of user-data.

YAML 1.1 reads 0644 as 420, 12:30:00 as 45000, 1.10 as 1.1 and on as true (yaml.org/spec/1.1, "Tag repository"). A file
mode, a time, a version or a switch of another program is none of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mvpnet.errors import ConfigError
from mvpnet.spec.kinds import Free, Kind, ListOf, Text, part_of
from mvpnet.spec.number_text import reads_back

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}
_NEVER = {f"{_TAG}timestamp", f"{_TAG}value"}  # dates, and the sign =
_ESCAPE_HINT = r"in double quotes a backslash is written twice: \\${…}; or use single quotes or a block (|)"


def read_yaml(path: Path, kind: Kind | None, place: str) -> Any:
    """Return the content of a file as mappings, lists and scalars.

    Args:
        path: the file, in UTF-8.
        kind: what stands at its root.
        place: the file, as a message names it.

    Raises:
        ConfigError: the file cannot be read, or is no YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), kind, place)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: is no text in UTF-8: {error.reason}", hint="save it as UTF-8") from error


def parse_yaml(text: str, kind: Kind | None, place: str) -> Any:
    """Return what a YAML text holds, as `read_yaml` does. Raises ConfigError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_texts(node, kind, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: !!int x
        hint = _ESCAPE_HINT if "unknown escape character '$'" in str(error) else None
        raise ConfigError(f"{place}: is no YAML: {_told(error)}", hint=hint) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _keep_texts(node: yaml.Node, kind: Kind | None, inside: set[int]) -> None:
    """Make texts of the scalars that are to stay as they are written."""
    if id(node) in inside:
        raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and _is_text(node, kind):
            node.tag = f"{_TAG}str"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_texts(item, part_of(kind, ""), {*inside, id(node)})
    elif isinstance(node, yaml.MappingNode):
        _keep_texts_of_mapping(node, kind, {*inside, id(node)})


def _keep_texts_of_mapping(node: yaml.MappingNode, kind: Kind | None, inside: set[int]) -> None:
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                _keep_texts(part, kind, inside)
            continue
        if isinstance(key, yaml.ScalarNode):
            key.tag = f"{_TAG}str"  # on, 1 and 1.10 are names here
        _keep_texts(value, part_of(kind, str(key.value)), inside)


def _is_text(node: yaml.ScalarNode, kind: Kind | None) -> bool:
    if isinstance(kind, ListOf) and kind.or_one:
        kind = kind.or_one
    if node.tag in _NEVER:
        return True
    if node.tag == f"{_TAG}null":
        return isinstance(kind, Text) and not kind.may_be_null and node.value != ""
    if isinstance(kind, Free):
        return not kind.numbers or (node.tag in _NUMBERS and not reads_back(node.value))
    return isinstance(kind, Text)


def _told(error: Exception) -> str:
    """Return YAML's complaint on one line, with line and column counted from 1."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return str(error).splitlines()[0] if str(error) else "is nested too deep"
