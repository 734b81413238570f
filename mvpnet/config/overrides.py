"""Old names among the words of a command line. Without Hydra: also `mvpnet bench` reads its words through this."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mvpnet.spec.aliases import OldNames, new_key, refuse_both, renamed_references

_OVERRIDE = re.compile(r"([~+]*)([^-=@~+][^=@]*)(?:(=)(.*))?", re.DOTALL)
# Of a value in Hydra's grammar: a text in quotes, an escaped character, a reference, a mark, and what is between those.
_TOKEN = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|\$\{[^}]*\}|[][{}(),:]|[^]['"\\{}(),:$]+|.""", re.DOTALL
)


def renamed_words(words: Sequence[str], met: OldNames) -> list[str]:
    """Return the words of a command line with the names of today; those that are no overrides as they are.

    Args:
        words: options and overrides, also of a sweep; values may be mappings, as `net={mtu: 9000}`.
        met: gets the old names that were found.

    Raises:
        ConfigError: a key is given by its old name and by its new one.
    """
    given: list[str] = []
    new = [_renamed_word(word, given, met) for word in words]
    refuse_both(given)
    for key in given:
        if (today := new_key(key)) != key:
            met.add(key, today)
    return new


def _renamed_word(word: str, given: list[str], met: OldNames) -> str:
    found = _OVERRIDE.fullmatch(word)
    if not found or not (found[3] or found[1]):
        return word
    sign, key, equals, value = found.groups()
    given.append(key)
    if not equals:
        return f"{sign}{new_key(key)}"
    return f"{sign}{new_key(key)}={renamed_references(''.join(_renamed_value(key, value, given)), met)}"


def _renamed_value(root: str, value: str, given: list[str]) -> Iterator[str]:
    """Yield the parts of a value, with the names of today in its mappings. `given` gets the keys of those."""
    place, awaits_key = root, False
    outside: list[tuple[str, bool]] = []  # the places around this one, and whether they are mappings
    for token in _TOKEN.findall(value):
        if awaits_key and token.strip() and token not in "{}[](),:":
            key, section = token.strip(), f"{outside[-1][0]}."
            place = section + key
            given.append(place)
            token = token.replace(key, new_key(place).removeprefix(section))
            awaits_key = False
        elif token in ("{", "[", "("):
            outside.append((place, token == "{"))
            awaits_key = token == "{"
        elif token in ("}", "]", ")") and outside:
            place, awaits_key = outside.pop()[0], False
        elif token == "," and outside:
            awaits_key = outside[-1][1]
        yield token
