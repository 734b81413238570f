"""Commands that are imported when they are run, completed, or asked for their own help, and not before."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is found, and the first sentence of its help, which lists show in its place."""

    module: str
    attribute: str
    short_help: str

    def load(self) -> click.Command:
        """Import the module and return the command."""
        command = getattr(importlib.import_module(self.module), self.attribute)
        assert isinstance(command, click.Command), f"{self.module}.{self.attribute} is no command"
        return command


class LazyGroup(click.Group):
    """A group whose commands are placeholders with a name and a line of help until one of them is resolved."""

    def __init__(self, *args: Any, lazy: dict[str, LazyCommand], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy
        for name, found in lazy.items():
            self.add_command(click.Command(name, help=found.short_help))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is to run. Raises click.UsageError for a name that is none."""
        name, command, rest = super().resolve_command(ctx, args)
        found = self.lazy.get(name or "")
        return name, found.load() if found else command, rest
