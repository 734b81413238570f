"""Hydra's options that print something and run no job."""

from __future__ import annotations

from collections.abc import Iterable

_INSPECTING = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")


def is_inspecting(argv: Iterable[str]) -> bool:
    """Return whether one of these options is in a command line. Hydra refuses -m beside them."""
    return any(word.partition("=")[0] in _INSPECTING for word in argv)
