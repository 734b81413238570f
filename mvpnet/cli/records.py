"""The verbs about what runs left: `mvpnet replay`, `diff`, `export`, `report`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvpnet.errors import ConfigError
from mvpnet.logs import say
from mvpnet.mpi.launch import Launch
from mvpnet.util.tables import PLAIN_WIDTH, table_text

if TYPE_CHECKING:
    from mvpnet.records.diff import Difference
    from mvpnet.records.run import Run

_SECTIONS = ("spec", "inputs", "hosts", "versions", "verdict", "metrics")
_RUN = click.Path(path_type=Path)


@click.command()
@click.option(
    "--changed",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="when an image, the app or another file is not what it was",
)
@click.option("--run-dir", metavar="DIR", help="the new run folder; default runs/DATE/TIME-JOB")
@click.argument("run", metavar="RUN", type=_RUN)
@click.pass_obj
def replay(launch: Launch | None, changed: str, run_dir: str | None, run: Path) -> int:
    """Run the job of a run folder, or of an exported archive, again: mpirun -n RANKS mvpnet replay RUN

    It runs the very spec that was resolved then, in a new run folder, with as many ranks; nothing can be changed. Its
    manifest names the run that it repeats. Exits as a job does.
    """
    if launch is None:
        raise ConfigError("replay runs a job", hint="mpirun -n RANKS mvpnet replay RUN")
    from mvpnet.job import lifecycle, messages
    from mvpnet.records.replay import replay_spec

    with opened(run) as old:
        spec, link = replay_spec(
            old, str(run.resolve()), launch.world.size, run_dir, refuse=changed == "refuse", say=say
        )
    return lifecycle.lead(launch.world, launch.signals, spec, messages.Provenance(replays=link))


@click.command()
@click.option("--only", "sections", multiple=True, type=click.Choice(_SECTIONS), help="may be given several times")
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each difference")
@click.argument("first", metavar="RUN1", type=_RUN)
@click.argument("second", metavar="RUN2", type=_RUN)
def diff(sections: tuple[str, ...], as_json: bool, first: Path, second: Path) -> int:
    """Print what two runs, or archives of runs, differ in: spec, inputs, hosts, versions, verdict, metrics.

    Exits with 0 where they are the same, 1 where they differ, 2 for trouble. Times are no difference.
    """
    from mvpnet.records.diff import differences

    with opened(first) as one, opened(second) as other:
        found = differences(one, other, sections or _SECTIONS)
        for run in (one, other):
            if not run.is_complete:
                click.echo(f"warning: {run.name}: {run.verdict['how']}", err=True)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    elif found:
        click.echo(_table(found, first.name, second.name), nl=False)
    return 1 if found else 0


@click.command()
@click.option(
    "-o",
    "--output",
    type=_RUN,
    metavar="FILE",
    help="default NAME.tar.gz, after the run folder, or SWEEP-NUMBER.tar.gz; or .tar.zst",
)
@click.argument("run", metavar="RUN", type=_RUN)
def export(output: Path | None, run: Path) -> None:
    """Pack a run into one archive, without its images and keys, for mvpnet replay on another machine.

    The app's files, those for the guests and the recipe go along. Images are found by their digest.
    """
    from mvpnet.records.archive import pack
    from mvpnet.records.run import open_run

    old = open_run(run)
    target = output or Path(default_name(run.resolve()))
    for line in pack(old, target):
        click.echo(f"warning: left out: {line}", err=True)
    click.echo(target)


def default_name(run: Path) -> str:
    """The archive's name: after the run folder; a sweep's job, whose folder is but a number, after the sweep too."""
    return f"{run.parent.name}-{run.name}.tar.gz" if run.name.isdecimal() else f"{run.name}.tar.gz"


@click.command()
@click.option(
    "-o", "--output", type=_RUN, metavar="DIR", help="folder for the page and its pictures; default RUN/report"
)
@click.argument("run", metavar="RUN|SWEEP", type=_RUN)
def report(output: Path | None, run: Path) -> None:
    """Make one HTML page, and PNG pictures, of what a run or a sweep did. It needs matplotlib: mvpnet[report]

    The page refers to nothing outside of itself, and can be sent on as it is.
    """
    from mvpnet.paths import RunFolder, jobs_of_sweep
    from mvpnet.records.archive import is_archive
    from mvpnet.report import of_run, of_sweep
    from mvpnet.report import page as pages

    folder = RunFolder(run)
    if is_archive(run) and output is None:
        raise ConfigError(f"{run}: a report of an archive needs a place", hint="-o DIR")
    if not folder.job_json.exists() and not is_archive(run) and jobs_of_sweep(run):
        page = of_sweep.of_sweep(run)
    else:
        with opened(run) as one:
            page = of_run.of_run(one)
    click.echo(pages.write(page, output or folder.report))


@contextmanager
def opened(path: Path) -> Iterator[Run]:
    """The run in a run folder or an archive, while inside. Raises ConfigError where there is none."""
    from mvpnet.records.archive import is_archive, unpack
    from mvpnet.records.run import open_run

    if not is_archive(path):
        yield open_run(path)
        return
    with tempfile.TemporaryDirectory(prefix="mvpnet-run-") as folder:
        yield open_run(unpack(path, Path(folder)))


def _table(found: list[Difference], first: str, second: str) -> str:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "key", first, second, "change"):
        table.add_column(heading, overflow="fold")
    for number, one in enumerate(found):
        same_section = number > 0 and found[number - 1].section == one.section
        cells = ("" if same_section else one.section, one.key, _cell(one.first), _cell(one.second), one.change)
        table.add_row(*cells)
    return table_text(table, width=PLAIN_WIDTH, no_color=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
