"""Options and output that several verbs of `mvpnet image` share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mvpnet.errors import ImageError
from mvpnet.images.store.store import Store
from mvpnet.paths import cache_base
from mvpnet.qemu.binary import find_qemu_img

Command = TypeVar("Command", bound=Callable[..., Any])


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


def disk_facts(path: Path, format_name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(qemu_img("info", "-U", "--output=json", "-f", format_name, str(path)))
    return facts


def qemu_img(*arguments: str) -> str:
    done = subprocess.run(
        [find_qemu_img("qemu-system-x86_64"), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise ImageError(done.stderr.strip().removeprefix("qemu-img: "))
    return done.stdout


def size_text(bytes_: int | None) -> str:
    if bytes_ is None:
        return "?"
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def print_entries(entries: list[dict[str, Any]], as_json: bool, line: Callable[[dict[str, Any]], str]) -> None:
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(map(line, entries)), nl=as_json or bool(entries))


def say(line: str) -> None:
    click.echo(line, err=True)
