"""The verb `doctor`: `mvpnet doctor [OVERRIDES]`, and `mpirun -n RANKS mvpnet doctor [OVERRIDES]`.

As with a job, rank 0 alone reads the command line; the other ranks take part in what it announces.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import click
from rich import box
from rich.table import Table

from mvpnet.config import compose
from mvpnet.doctor import survey
from mvpnet.errors import ConfigError, HostError, ImageError, MpiError
from mvpnet.guest.drives import check_shared_writes
from mvpnet.host.finding import Finding, Level
from mvpnet.images.boot import with_built_disk
from mvpnet.images.store import planned
from mvpnet.mpi.launch import Launch
from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.rank_set import ranks_text
from mvpnet.util.tables import PLAIN_WIDTH, table_text

_NARROWEST = 100  # columns: less tears words apart


@click.command()
@click.option(
    "-n",
    "--ranks",
    type=click.IntRange(min=1),
    metavar="N",
    help="without mpirun: look whether this host can take N ranks  [default: 1]",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each line")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@click.argument("overrides", nargs=-1)
@click.pass_obj
def doctor(
    launch: Launch | MpiError, ranks: int | None, as_json: bool, config_dir: str | None, overrides: tuple[str, ...]
) -> int:
    """Look whether the hosts can do what a job with these OVERRIDES needs; boot and fetch nothing.

    mpirun -n RANKS mvpnet doctor … looks at every rank's host, without mpirun at this one. Exits with 0 when there is
    no failure, with 3 when there is one, with 2 for overrides that no job takes. docs/doctor.md lists the checks.
    """
    size = launch.world.size if isinstance(launch, Launch) else 1
    if ranks is not None and size > 1:
        raise ConfigError(
            f"-n {ranks}: is for one host without mpirun, and this launch has {size} ranks", hint="leave -n out"
        )
    size = ranks or size
    job = compose.compose(list(overrides), size, config_dir)
    _check_images(job, launch.world.hosts if isinstance(launch, Launch) and ranks is None else ["here"] * size)
    for warning in job.warnings():
        click.echo(f"warning: {warning}", err=True)
    findings = _looked(launch, job)
    click.echo(json.dumps([plain(one) for one in findings], indent=1) if as_json else text(findings), nl=as_json)
    return HostError.exit_code if any(one.level is Level.failure for one in findings) else 0


def _looked(launch: Launch | MpiError, job: JobSpec) -> list[Finding]:
    if isinstance(launch, MpiError):
        return survey.alone(job, launch)
    findings = survey.alone(job) if launch.world.size == 1 else survey.lead(launch.world, job)
    launch.signals.check()
    return findings


def _check_images(job: JobSpec, hosts: Sequence[str]) -> None:
    """Refuse what no host could do, as a job does. Raises ConfigError."""
    with suppress(ImageError):  # an image of another architecture: a line of the table
        check_shared_writes([planned(with_built_disk(job.for_rank(rank))) for rank in range(job.world_size)], hosts)


def text(findings: Sequence[Finding]) -> str:
    """The table, and a line that sums it up."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("host", "ranks", "check", "", "seen", "what to do"):
        table.add_column(heading, overflow="fold")
    for number, one in enumerate(findings):
        same_host = number > 0 and findings[number - 1].host == one.host
        host = "" if same_host else one.host
        table.add_row(host, ranks_text(one.ranks), one.check, one.level.value, one.seen, one.todo or "")
    width = max(shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns, _NARROWEST)
    return table_text(table, width=width, color_system=None) + summary(findings)


def summary(findings: Sequence[Finding]) -> str:
    count = Counter(one.level for one in findings)
    parts = [
        f"{count[level]} {level.value}{'s' * (count[level] != 1)}"
        for level in (Level.failure, Level.warning)
        if count[level]
    ]
    return f"{', '.join(parts) or 'nothing is in the way'}\n"
