"""The verbs of saves: `mvpnet save`, `mvpnet saves`. A save is resumed as a job: mpirun -n RANKS mvpnet resume=NAME"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import click
from rich import box
from rich.table import Table

from mvpnet.cli.completion import Words
from mvpnet.control.client import Connection
from mvpnet.control.registry import JobHandle
from mvpnet.control.select import choose_job
from mvpnet.errors import ConfigError, HostError
from mvpnet.logs import say
from mvpnet.snapshot.layout import Kept, list_snapshots, remove, save_folder, saves_base
from mvpnet.util.tables import PLAIN_WIDTH, table_text
from mvpnet.util.text import megabytes

_NO_ANSWER_S = 90.0  # more than rank 0 waits for a rank


@click.command()
@click.argument("words", metavar="[JOB] NAME", nargs=-1, type=Words(takes_rank=False))
def save(words: tuple[str, ...]) -> None:
    """Freeze all guests of a job, save their disks and memory as NAME, and let them go on.

    NAME is a name in the folder of saves, or an absolute path. The job goes on from there, as often as you like:
    mpirun -n RANKS mvpnet resume=NAME
    """
    if not 1 <= len(words) <= 2:
        raise ConfigError("the name of the save is missing" if not words else "one job and one name are expected")
    folder = save_folder(words[-1])
    job = choose_job(words[0] if len(words) == 2 else None)
    make_base(folder)
    done = _saved(job, folder)
    size = f"{job.entry.world_size} guests, {megabytes(done['size_bytes'])}"
    say(f"saved job {job.entry.title} in {folder}: {size}; the guests stood still for {done['seconds']:.1f} s")
    say(f"to go on from there: mpirun -n {job.entry.world_size} mvpnet resume={words[-1]}")


def make_base(folder: Path) -> None:
    """The folder of saves, 0700, where the save goes there. Raises HostError, ConfigError for one that is not there."""
    if folder.parent == saves_base():
        try:
            folder.parent.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{folder.parent}: cannot be made: {error.strerror}", hint="set MVPNET_SAVES") from error
    elif not folder.parent.is_dir():
        raise ConfigError(f"{folder}: there is no folder {folder.parent}")


class SaveAnswer(TypedDict):
    """What a job answers when it has saved itself."""

    size_bytes: int
    seconds: float  # how long the guests stood still


def _saved(job: JobHandle, folder: Path) -> SaveAnswer:
    """Have it saved, and tell how far it is. Raises JobError, or GuestError when there is no save."""
    with Connection(job) as connection:
        done: SaveAnswer = connection.ask({"do": "save", "folder": str(folder)}, within_s=_NO_ANSWER_S, on_progress=say)
    return done


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each")
@click.pass_context
def saves(context: click.Context, as_json: bool) -> None:
    """List what was saved with `mvpnet save NAME`: name, date, ranks, size on disk, image."""
    if context.invoked_subcommand:
        return
    found = list_snapshots()
    if as_json:
        click.echo(json.dumps([_facts(one) for one in found], indent=1))
    elif found:
        click.echo(_table(found), nl=False)
    else:
        say(f"there are no saves in {saves_base()}")


@saves.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> None:
    """Remove saves, or what one that was cut short left."""
    for name in names:
        say(f"removed {remove(name)}")


def _facts(one: Kept) -> dict[str, object]:
    said = {key: value for key, value in asdict(one.save).items() if key != "spec"} if one.save else {}
    return {"name": one.name, "folder": str(one.folder.root), "trouble": one.trouble, **said}


def _table(found: list[Kept]) -> str:
    table = Table("name", "saved", "ranks", "size", "image", box=box.SIMPLE_HEAD)
    for one in found:
        if one.save:
            saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.save.saved_s))
            size = megabytes(one.save.size_bytes)
            table.add_row(one.name, saved, str(one.save.world_size), size, one.save.image)
        else:
            table.add_row(one.name, one.trouble or "", "", "", "")
    return table_text(table, width=PLAIN_WIDTH, no_color=True)
