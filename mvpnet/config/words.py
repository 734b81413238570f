"""Reads the words of a command line, before Hydra does: old names, texts that stay as they are written, `${…}`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from mvpnet.config.kinds import kind_at
from mvpnet.config.overrides import renamed_words
from mvpnet.config.references import check_syntax
from mvpnet.config.sources import FOLDER_SCHEME
from mvpnet.config.value_text import as_written, split
from mvpnet.errors import ConfigError
from mvpnet.paths import host_path
from mvpnet.spec.aliases import OldNames
from mvpnet.util.hydra_quotes import quoted, without_quotes

_OVERRIDE = re.compile(r"(\+{0,2})([^-=@~+][^=@]*)=(.*)", re.DOTALL)
_READABLE = re.compile(r"~[^~+=]+(?:=.*)?|\+{0,2}[^-=~+][^=~+]*=.*|", re.DOTALL)
_ALONE = ("-m", "--multirun", "-r", "--run", "-h", "--help", "--hydra-help", "--resolve", "--version", "-sc")
_PRIVATE = re.compile("PRIVATE KEY|b3BlbnNzaC1rZXkt")  # the latter: openssh-key- in base64
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
    _refuse_mistakes(word, key, value)
    check_syntax({key: value}, "", _PLACE)
    if key == _FOLDERS:
        value = _as_user_folders(value)
    return f"{sign}{key}={as_written(key, value, kind_at(key), sweeping)}"


def _refuse_mistakes(word: str, key: str, value: str) -> None:
    """Refuse a private key, without repeating it, and blanks around the `=`. Raises ConfigError."""
    if _PRIVATE.search(value):
        raise ConfigError(
            f"{key}: holds a private key, which is for nobody to see", hint="a public key is the line in a file .pub"
        )
    if key != key.strip():
        raise ConfigError(
            f"cannot read {word!r} on {_PLACE}: there are blanks before the =",
            hint=f"write {shlex.quote(f'{key.strip()}={value.strip()}')}",
        )


def _as_user_folders(value: str) -> str:
    """Let the folders of `hydra.searchpath` be read as the user's other folders are. Raises ConfigError."""
    if not (value.startswith("[") and value.endswith("]")):
        return value
    folders = (without_quotes(one.strip()) for one in split(value[1:-1]))
    return f"[{','.join(_user_folder(one) for one in folders if one)}]"


def _user_folder(folder: str) -> str:
    path = folder.removeprefix("file://")
    if "://" in path:  # another source of Hydra's
        return quoted(path)
    found = host_path(path, _FOLDERS)
    if not found.is_dir():
        raise ConfigError(f"{_FOLDERS}: there is no folder {found}")
    return quoted(f"{FOLDER_SCHEME}://{found}")
