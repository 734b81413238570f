"""The verbs about what runs left: `mvpnet diff`, `export`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.table import Table

from mvpnet.cli.host_path import HostPath
from mvpnet.records.archive import is_archive, pack, unpack
from mvpnet.records.diff import Difference, differences
from mvpnet.records.run import Run, open_run
from mvpnet.util.tables import PLAIN_WIDTH, table_text

_SECTIONS = ("spec", "inputs", "hosts", "versions", "verdict", "metrics")
RUN_PATH = HostPath()


@click.command()
@click.option("--only", "sections", multiple=True, type=click.Choice(_SECTIONS), help="may be given several times")
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each difference")
@click.argument("first", metavar="RUN1", type=RUN_PATH)
@click.argument("second", metavar="RUN2", type=RUN_PATH)
def diff(sections: tuple[str, ...], as_json: bool, first: Path, second: Path) -> int:
    """Print what two runs, or archives of runs, differ in: spec, inputs, hosts, versions, verdict, metrics.

    Exits with 0 where they are the same, 1 where they differ, 2 for trouble. Times are no difference.
    """
    with opened(first) as one, opened(second) as other:
        found = differences(one, other, sections or _SECTIONS)
        for run in (one, other):
            if not run.is_complete:
                click.echo(f"warning: {run.name}: {run.verdict.how}", err=True)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    elif found:
        click.echo(_table(found, first.name, second.name), nl=False)
    return 1 if found else 0


@click.command()
@click.option(
    "-o",
    "--output",
    type=RUN_PATH,
    metavar="FILE",
    help="default NAME.tar.gz, after the run folder, or SWEEP-NUMBER.tar.gz; or .tar.zst",
)
@click.argument("run", metavar="RUN", type=RUN_PATH)
def export(output: Path | None, run: Path) -> None:
    """Pack a run into one archive, without its images and keys, for mvpnet replay on another machine.

    The app's files, those for the guests and the recipe go along. Images are found by their digest.
    """
    old = open_run(run)
    target = output or Path(default_name(run.resolve()))
    for line in pack(old, target):
        click.echo(f"warning: left out: {line}", err=True)
    click.echo(target)


def default_name(run: Path) -> str:
    """The archive's name: after the run folder; a sweep's job, whose folder is but a number, after the sweep too."""
    return f"{run.parent.name}-{run.name}.tar.gz" if run.name.isdecimal() else f"{run.name}.tar.gz"


@contextmanager
def opened(path: Path) -> Iterator[Run]:
    """The run in a run folder or an archive, while inside. Raises ConfigError where there is none."""
    if not is_archive(path):
        yield open_run(path)
        return
    with tempfile.TemporaryDirectory(prefix="mvpnet-run-") as folder:
        yield open_run(unpack(path, Path(folder)))


def _table(found: list[Difference], first: str, second: str) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "key", first, second, "change"):
        table.add_column(heading, overflow="fold")
    for number, one in enumerate(found):
        same_section = number > 0 and found[number - 1].section == one.section
        cells = ("" if same_section else one.section, one.key, _cell(one.first), _cell(one.second), one.change)
        table.add_row(*cells)
    return table_text(table, width=PLAIN_WIDTH, no_color=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
