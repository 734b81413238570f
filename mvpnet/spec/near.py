"""Suggest known words that are similar to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str], place: str = "") -> str:
    """Return ` (did you mean …?)`, empty if no known word is similar.

    Args:
        word: The unknown word, possibly dotted.
        known: The known words.
        place: Put before each of those, with a dot between.
    """
    names = list(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if not close and "." in word:
        section, leaf = word.rsplit(".", 1)
        close = [name for name in names if name.rsplit(".", 1)[-1] == leaf or name.startswith(section + ".")][:3]
    prefix = f"{place}." if place else ""
    return f" (did you mean {' or '.join(prefix + match for match in close)}?)" if close else ""
