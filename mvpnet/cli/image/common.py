"""Options and output that several verbs of `mvpnet image` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from mvpnet.images.store.store import Store
from mvpnet.paths import cache_base

Command = TypeVar("Command", bound=Callable[..., Any])
Entry = TypeVar("Entry", bound=Mapping[str, object])


def _combined(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_json_option = click.option("--json", "as_json", is_flag=True, help="print JSON")
cache_dir_option = click.option("--cache-dir", metavar="DIR", help="as image.cache_dir; default ~/.cache/mvpnet")
of_a_job = _combined(
    click.option("--config-dir", metavar="DIR", help="more config groups, as for a job"),
    click.argument("overrides", nargs=-1),
)


def store_in(cache_dir: str | None) -> Store:
    return Store(cache_base(cache_dir) / "images")


def print_entries(entries: list[Entry], as_json: bool, line: Callable[[Entry], str]) -> None:
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(map(line, entries)), nl=as_json or bool(entries))


def say(line: str) -> None:
    click.echo(line, err=True)
