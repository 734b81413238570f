r"""Checks the `${…}` of a config: what is meant for a shell is not replaced by something else, silently or not at all.

Hydra and a shell write references alike. One that Hydra can resolve gives a scalar here; in the middle of a text, a
whole section (`${image}`), a list or nothing is taken for a mistake. `\${…}` is left to the shell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NoReturn

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, flag_override
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from mvpnet.config.kinds import root
from mvpnet.config.nodes import all_keys, children, is_null, raw_text, referred, set_raw_text
from mvpnet.errors import ConfigError
from mvpnet.spec.kinds import WORD, Free, Keys, Kind, ListOf, Text, part_of
from mvpnet.spec.near import near
from mvpnet.spec.number_text import IS_TYPED, reads_back

_RANK_VALUES = ("rank", "world_size", "host_name", "address")
_KEY = re.compile(r"[a-z_][\w.]*")
_ENVIRONMENT = re.compile(r"(\$\{oc\.env:[^,{}]+,)([^{},'\"]*)\}")


def texts_with_references(tree: Any) -> Iterator[str]:
    """Yield the texts of a tree of mappings and lists that hold a `${…}`."""
    for _, text in _texts(tree, ""):
        if next(references_in(text), None):
            yield text


def references_in(text: str) -> Iterator[str]:
    r"""Yield each outermost `${…}` of a text; not what is escaped, as `\${…}`. One without an end goes to the end."""
    start = 0
    while (start := text.find("${", start)) >= 0:
        backslashes = start - len(text[:start].rstrip("\\"))
        if backslashes % 2:
            start += 2
            continue
        end = _end(text, start)
        yield text[start:end]
        start = end


def _end(text: str, start: int) -> int:
    """Return the place behind the brace that closes the `${` at `start`."""
    depth = 0
    for place in range(start, len(text)):
        if text.startswith("${", place):
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place + 1
    return len(text)


def check_syntax(tree: Any, prefix: str, place: str) -> None:
    """Refuse the first text with a `${…}` that is not in OmegaConf's grammar.

    Args:
        tree: mappings, lists and scalars.
        prefix: the key of the tree, with a dot at its end.
        place: the file, or the command line, as a message names it.

    Raises:
        ConfigError: names key, place and reference.
    """
    for key, text in _texts(tree, prefix):
        if "${" not in text:
            continue
        try:
            OmegaConf.create([text])
        except GrammarParseError:
            wrong = next((one for one in references_in(text) if not _is_grammatical(one)), text)
            _refuse(key, wrong, "is no reference to a key", place)


def _is_grammatical(reference: str) -> bool:
    try:
        OmegaConf.create([reference])
    except GrammarParseError:
        return False
    return True


def _texts(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _texts(value, f"{key.rstrip('.')}.{name}".lstrip("."))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _texts(value, f"{key}[{i}]")
    elif isinstance(tree, str):
        yield key, tree


def check_references(config: DictConfig, origins: Mapping[str, str]) -> None:
    """Refuse references that nothing answers, and in the middle of a text those that give no scalar.

    Enums and switches are put in by the words that a config takes for them: `stream`, `true`.

    Args:
        config: as composed, nothing in it resolved. Changed.
        origins: of texts with references, the config files that they stand in; the others are of the command line.

    Raises:
        ConfigError: names key, place and reference, and how a reference for a shell is written.
    """
    with flag_override(config, "readonly", False):
        _check_within(config, "", root(), origins)


def check_references_at(config: DictConfig, key: str) -> None:
    """Do the same for one key of Hydra's, whose part of the config is not looked at else. Raises ConfigError.

    Args:
        config: the whole config, with Hydra's part.
        key: the dotted key.
    """
    section, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, section)
    text = raw_text(children(parent)[name])
    for reference in references_in(text or ""):
        _checked(parent, key, WORD, text or "", reference, "the command line, or a config file")


def _check_within(
    parent: DictConfig | ListConfig, prefix: str, parent_kind: Kind | None, origins: Mapping[str, str]
) -> None:
    for name, child in children(parent).items():
        kind = part_of(parent_kind, str(name))
        key = f"{prefix}[{name}]" if isinstance(parent, ListConfig) else f"{prefix}.{name}".lstrip(".")
        if (text := raw_text(child)) is None:
            _refuse_shape(child, key, kind)
            if isinstance(child, (DictConfig, ListConfig)):
                _check_within(child, key, kind, origins)
            continue
        if "\0" in text:
            raise ConfigError(f"{key}: holds a zero byte, which no program or file takes")
        if isinstance(child, (DictConfig, ListConfig)) and not next(references_in(text), None):
            _refuse(
                key, text, "is a text, where a mapping or a list is asked for", origins.get(text, "the command line")
            )
        text_there, text = text, _with_quoted_default(text, kind)
        checked = text
        for reference in references_in(text):
            if not _is_rank_value(reference, key):
                place = origins.get(text_there, "the command line")
                checked = checked.replace(reference, _checked(parent, key, kind, text, reference, place))
        if checked != text_there:
            set_raw_text(child, checked)


def _refuse_shape(node: Node, key: str, kind: Kind | None) -> None:
    """Refuse a list or mapping where a text, or the other of them, is asked for. Raises ConfigError."""
    if is_null(node):
        return
    if isinstance(node, ListConfig):
        found, fits = "a list", isinstance(kind, (ListOf, Free)) or kind is None
    elif isinstance(node, DictConfig):
        found, fits = "a mapping", isinstance(kind, (Keys, Free)) or kind is None
    else:
        return
    if not fits:
        wanted = "a list" if isinstance(kind, ListOf) else "a mapping" if isinstance(kind, Keys) else "one value"
        raise ConfigError(f"{key}: is {found}, and takes {wanted}")


def _with_quoted_default(text: str, kind: Kind | None) -> str:
    """Put quotes around the default of `${oc.env:NAME,1.10}` where OmegaConf would read it as another text."""

    def as_text(found: re.Match[str]) -> str:
        default = found[2].strip()
        if type(kind) is Kind or not IS_TYPED.fullmatch(default) or reads_back(default):
            return found[0]
        return f"{found[1]}'{default}'}}"

    return _ENVIRONMENT.sub(as_text, text)


def _fits(value: DictConfig | ListConfig | Mapping[Any, Any] | list[Any], kind: Kind | None) -> bool:
    """Tell whether a list or mapping may stand where this kind is asked for. A section stands for itself alone."""
    if isinstance(value, (ListConfig, list)):
        return isinstance(kind, (ListOf, Free))
    is_section = isinstance(value, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(value))
    return isinstance(kind, (Keys, Free)) and not is_section


def _checked(
    parent: DictConfig | ListConfig, key: str, kind: Kind | None, text: str, reference: str, place: str
) -> str:
    """Return the reference, or what is to stand in its place. Raises ConfigError."""
    try:
        value = referred(parent, reference)
    except (OmegaConfBaseException, ValueError, TypeError) as error:  # resolvers raise what they like
        _refuse(key, reference, _told(reference, error), place)
    if isinstance(value, Enum):
        return value.name
    whole = text == reference
    if isinstance(value, (DictConfig, ListConfig, Mapping, list)) and not (whole and _fits(value, kind)):
        what = "a list" if isinstance(value, (ListConfig, list)) else "a whole section"
        _refuse(key, reference, f"is {what}, and no text", place)
    if isinstance(value, bool) and (not whole or isinstance(kind, Text)):
        return str(value).lower()
    if value is None and not (whole and kind != WORD):
        _refuse(key, reference, "is null, and no text", place)
    return reference


def _told(reference: str, error: Exception) -> str:
    inner = reference.removeprefix("${").removesuffix("}")
    if _KEY.fullmatch(inner):
        return f"there is no key {inner!r}{near(inner, all_keys())}"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "there is no such key" if first.startswith(("Interpolation key", "Unsupported interpolation")) else first


def _is_rank_value(reference: str, key: str) -> bool:
    inner = reference.removeprefix("${").removesuffix("}")
    return inner in _RANK_VALUES and "cloud_init" in key.split(".")[:3]


def _refuse(key: str, reference: str, what: str, place: str) -> NoReturn:
    known = "; a rank's rank, world_size, host_name and address are known here" if "cloud_init" in key else ""
    raise ConfigError(
        f"{key}: {reference}: {what}\n  in: {place}",
        hint=f"what is for a shell is written \\${{…}}; ${{oc.env:NAME}} is of the launch's own environment{known}",
    )
