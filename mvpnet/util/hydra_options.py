"""Recognize Hydra's options that print something and run no job."""

from __future__ import annotations

from collections.abc import Iterable

_INSPECTING = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")


def is_inspecting(argv: Iterable[str]) -> bool:
    """Return whether a command line has one of these options. Hydra refuses -m beside them."""
    return any(word.partition("=")[0] in _INSPECTING for word in argv)
