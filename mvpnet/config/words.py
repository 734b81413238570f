"""Reads the words of a command line, before Hydra does: old names, texts that stay as they are written, `${…}`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mvpnet.config.kinds import kind_at
from mvpnet.config.overrides import renamed_words
from mvpnet.config.references import check_syntax
from mvpnet.config.sources import FOLDER_SCHEME
from mvpnet.config.value_text import as_written, split
from mvpnet.errors import ConfigError
from mvpnet.spec.aliases import OldNames

_OVERRIDE = re.compile(r"(\+{0,2})([^-=@~+][^=@]*)=(.*)", re.DOTALL)
_READABLE = re.compile(r"~[^~+=]+(?:=.*)?|\+{0,2}[^-=~+][^=~+]*=.*|", re.DOTALL)
_ALONE = ("-m", "--multirun", "-r", "--run", "-h", "--help", "--hydra-help", "--resolve", "--version", "-sc")
_FOLDERS = "hydra.searchpath"
_PLACE = "the command line"


def hydra_words(words: Sequence[str], met: OldNames) -> list[str]:
    """Return the words as Hydra is to get them.

    Args:
        words: options and overrides, also of a sweep.
        met: gets the old names that were found.

    Raises:
        ConfigError: a word cannot be read, or a key is given by its old name and by its new one.
    """
    sweeping = any(word in ("-m", "--multirun") or word.upper() == "HYDRA.MODE=MULTIRUN" for word in words)
    given: list[str] = []
    before = ""
    for word in renamed_words(words, met):
        is_options = before.startswith("-") and "=" not in before and before not in _ALONE
        given.append(word if word[:1] == "-" != word or is_options else _hydra_word(word, sweeping))
        before = word
    return given


def _hydra_word(word: str, sweeping: bool) -> str:
    if not _READABLE.fullmatch(word):
        raise ConfigError(f"cannot read {word!r} on {_PLACE}", hint="write KEY=VALUE, GROUP=OPTION or ~KEY")
    found = _OVERRIDE.fullmatch(word)
    if not found:
        return word
    sign, key, value = found.groups()
    check_syntax({key: value}, "", _PLACE)
    if key == _FOLDERS:
        value = _as_user_folders(value)
    return f"{sign}{key}={as_written(key, value, kind_at(key), sweeping)}"


def _as_user_folders(value: str) -> str:
    """Let the folders of `hydra.searchpath` be read as the user's other folders are."""
    if not (value.startswith("[") and value.endswith("]")):
        return value
    folders = (one.strip().removeprefix("file://") for one in split(value[1:-1]))
    return f"[{','.join(one if '://' in one or not one else f'{FOLDER_SCHEME}://{one}' for one in folders)}]"
