"""Paths of this host on the command lines of verbs."""

from __future__ import annotations

from pathlib import Path

import click

from mvpnet.paths import host_path


class HostPath(click.Path):
    """A path as a user writes it, with `~` for the home as in the keys of a job; a relative one stays so."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path. Raises ConfigError, which names the option or argument."""
        text = str(value)
        name = param.human_readable_name if param else "path"
        absolute = host_path(text, name)
        return absolute if text.startswith("~") else Path(text)
