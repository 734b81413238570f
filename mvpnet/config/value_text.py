r"""Puts quotes into the values of a command line where Hydra would read a text as something else, or not at all.

Hydra's grammar (hydra.cc, "The Override Grammar") has few signs for a text without quotes, and reads 1e6, 1.10 and
2026_06_03 as numbers. Where a key takes a text, all of the word is that text, whatever signs it has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from mvpnet.errors import ConfigError
from mvpnet.spec.kinds import Free, Keys, Kind, ListOf, Text, part_of
from mvpnet.spec.number_text import NUMBER, reads_back
from mvpnet.util.hydra_quotes import quoted

_REFERENCE = r"\$\{[^{}]+\}"
_ESCAPED = r"(?:\\\\|\\[()\[\]{}:=, \t])"
_PLAIN = re.compile(rf"(?:[\w/\-\\+.$%*@?|]|(?<![ \t:]):(?![ \t])|(?<=\S)[ \t]+(?=\S)|{_REFERENCE})*", re.ASCII)
_QUOTED = re.compile(r""" *(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') *""", re.DOTALL)
_SWEEP = re.compile(r"\s*(choice|sort|shuffle|tag)(\s*\()(.*)\)\s*", re.DOTALL)  # of values
_NUMBERS_OR_NAMES = re.compile(r"\s*(range|interval|glob)\s*\(.*\)\s*", re.DOTALL)  # sweeps too
_EXTENSION = re.compile(r"(\s*)(extend_list)(\s*\()(.*)\)\s*", re.DOTALL)
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def as_written(key: str, value: str, kind: Kind | None, sweeping: bool) -> str:
    """Return the value of an override with the quotes that it needs.

    Args:
        key: the key, for messages.
        value: what stands behind the `=`.
        kind: what the key takes.
        sweeping: commas are between values of a sweep.

    Raises:
        ConfigError: where a text begins and ends cannot be known. Says how to quote it.
    """
    if kind is None or type(kind) is Kind:
        # what Hydra could not read is refused as what it is: an unknown key, or no number
        return (
            value
            if "(" in value or value.strip()[:1] in ("[", "{") or sweeping or _is_readable(value)
            else quoted(value)
        )
    if _NUMBERS_OR_NAMES.fullmatch(value):
        return value
    if called := _SWEEP.fullmatch(value):
        return f"{called[1]}{called[2]}{','.join(_argument(key, one, kind) for one in split(called[3]))})"
    if isinstance(kind, ListOf) and (called := _EXTENSION.fullmatch(value)):
        return f"{called[2]}{called[3]}{','.join(_item(key, one, kind.items) for one in split(called[4]))})"
    parts = list(split(value))
    if len(parts) > 1 and sweeping:
        _refuse_options(key, value, parts)
        return ",".join(_element(key, part, kind) for part in parts)
    if len(parts) > 1 and all(_is_readable(part) for part in parts):
        return value  # Hydra tells that this is a sweep, or wants quotes
    return _element(key, value, kind)


def _refuse_options(key: str, value: str, parts: list[str]) -> None:
    """Refuse what looks like one value with options, `4,sockets=2`, in a sweep. Raises ConfigError."""
    if any("=" in part and not _QUOTED.fullmatch(part) and part.strip()[:1] not in ("[", "{") for part in parts):
        raise ConfigError(
            f"{key}: cannot tell whether the commas in {value} are between values of the sweep",
            hint=f"put each value in quotes; if it is one value: {shlex.quote(f'{key}={quoted(value)}')}",
        )


def split(text: str) -> Iterator[str]:
    """Yield what is between the commas of a text, except those in quotes, brackets and braces."""
    start = 0
    for place, sign, depth in _signs(text):
        if sign == "," and not depth:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _signs(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield place and sign of what is neither escaped nor in quotes, and how many brackets are open after it.

    Quotes count where a value begins; a bracket that is never closed is an ordinary sign.
    """
    closing: list[str] = []
    place, begins = 0, True
    while place < len(text):
        sign = text[place]
        if sign == "\\":
            place, begins = place + 2, False
            continue
        if begins and (found := _QUOTED.match(text, place)):
            place, begins = found.end(), False
            continue
        if sign in _CLOSING and _CLOSING[sign] in text[place:]:
            closing.append(_CLOSING[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        yield place, sign, len(closing)
        begins = sign in "[{(,:" or (begins and sign.isspace())
        place += 1


def _argument(key: str, text: str, kind: Kind) -> str:
    """Return an argument of a function of Hydra's: named ones, as reverse=true, are its own."""
    return text if re.match(r"\s*\w+\s*=", text) else _element(key, text, kind)


def _element(key: str, text: str, kind: Kind) -> str:
    """Return one value, of no sweep any more, with the quotes that it needs."""
    if _QUOTED.fullmatch(text):
        return text
    if isinstance(kind, (ListOf, Free)) and _is_closed(text, "["):
        return _list(key, text, kind)
    if isinstance(kind, (Keys, Free)) and _is_closed(text, "{"):
        return _mapping(key, text, kind)
    if isinstance(kind, ListOf):
        if text.strip().startswith("["):
            raise ConfigError(
                f"{key}: cannot tell where the list {text} ends: its brackets do not fit together",
                hint="a word with brackets in it needs quotes of its own",
            )
        return text if kind.or_one is None else _element(key, text, kind.or_one)
    if isinstance(kind, Text) or (isinstance(kind, Free) and not kind.numbers):
        return _text(key, text, null=not isinstance(kind, Text) or kind.may_be_null)
    if isinstance(kind, Keys):  # a group's option, or a list of them
        if _is_closed(text, "["):
            return text
        return quoted(text) if NUMBER.fullmatch(text) else _text(key, text, null=True)
    return _free(key, text) if isinstance(kind, Free) else text


def _list(key: str, text: str, kind: Kind) -> str:
    inner = text.strip()[1:-1]
    if not inner.strip():
        return text
    items = part_of(kind, "") or kind
    return f"[{','.join(_item(key, part, items) for part in split(inner))}]"


def _mapping(key: str, text: str, kind: Kind) -> str:
    inner = text.strip()[1:-1]
    if not inner.strip():
        return text
    return f"{{{','.join(_entry(key, part, kind) for part in split(inner))}}}"


def _entry(key: str, text: str, kind: Kind) -> str:
    """Return `name: value` with the quotes that the value needs. Hydra takes none around a name."""
    name, colon, value = text.partition(":")
    inner = part_of(kind, name.strip())
    return text if inner is None else f"{name}{colon}{_item(f'{key}.{name.strip()}', value, inner)}"


def _item(key: str, text: str, kind: Kind) -> str:
    """Return what stands in a list or mapping. Blanks around it do not count, and quotes within it have to be whole."""
    stripped = text.strip()
    if isinstance(kind, Text) and not _QUOTED.fullmatch(stripped):
        if (found := _QUOTED.match(stripped)) and found[0].strip():
            raise ConfigError(
                f"{key}: cannot tell whether the quotes in {stripped} are its own",
                hint=f"put the whole word in quotes: {quoted(stripped)}",
            )
        unquoted = stripped.replace("\\'", "").replace('\\"', "")
        if wrong := next((mark for mark in "'\"" if unquoted.count(mark) % 2), None):
            raise ConfigError(
                f"{key}: cannot tell where {stripped} ends: it has one {wrong}",
                hint="put the whole word in quotes, as " + ("""'echo "a, b"'""" if wrong == '"' else '"it\'s"'),
            )
    return text.replace(stripped, _element(key, stripped, kind), 1) if stripped else text


def _is_closed(text: str, opening: str) -> bool:
    """Tell whether a text begins with this bracket, and ends where it is closed."""
    stripped = text.strip()
    closed = next((place for place, _, depth in _signs(stripped) if not depth), None)
    return stripped.startswith(opening) and closed == len(stripped) - 1


def _text(key: str, text: str, null: bool) -> str:
    if null and text.lower() == "null":
        return text
    if _is_text_for_hydra(text):
        return text
    if re.search(_ESCAPED, text):
        raise ConfigError(
            f"{key}: cannot tell whether the backslashes in {text} are its own or are for Hydra",
            hint=f"put it in quotes, where backslashes are its own: {quoted(text)}",
        )
    return quoted(text)


def _free(key: str, text: str) -> str:
    if NUMBER.fullmatch(text):
        return text if reads_back(text) else quoted(text)
    return text if _is_readable(text) or text[:1] in ("[", "{") else _text(key, text, null=True)


def _is_text_for_hydra(text: str) -> bool:
    """Tell whether Hydra reads this, without quotes, as the text that it is."""
    if NUMBER.fullmatch(text):
        return text.isdecimal() and reads_back(text)  # becomes a text in time, the same
    return _is_readable(text) and text.lower() not in ("true", "false", "null")


def _is_readable(text: str) -> bool:
    """Tell whether Hydra reads this without quotes as a scalar; what is escaped is meant for Hydra."""
    return bool(_QUOTED.fullmatch(text) or _PLAIN.fullmatch(re.sub(_ESCAPED, "e", text)))
