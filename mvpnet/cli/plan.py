"""The verb `plan`: what each rank of a job would do."""

from __future__ import annotations

import json

import click

from mvpnet.config import compose
from mvpnet.guest.command_line import shell_text
from mvpnet.guest.drives import check_shared_writes
from mvpnet.images.boot import with_built_disk
from mvpnet.images.store import planned as with_stored_image
from mvpnet.job.plan import check_planned_seeds, planned_rank
from mvpnet.spec.app_steps import check_steps, steps_of


@click.command()
@click.option("-n", "--ranks", default=1, show_default=True, metavar="N", help="plan for a world of N ranks")
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each rank")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@click.argument("overrides", nargs=-1)
def plan(ranks: int, as_json: bool, config_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Print each rank's resolved spec and qemu command line; boot nothing, need no MPI.

    Descriptors, and ports that turn out to be taken, may differ when the job is run.
    """
    job = compose.compose(list(overrides), ranks, config_dir)
    check_steps(steps_of(job.config.app), job.world_size)
    specs = [with_built_disk(job.for_rank(rank)) for rank in range(job.world_size)]
    check_shared_writes([with_stored_image(spec) for spec in specs])
    check_planned_seeds(specs)
    planned = [planned_rank(spec) for spec in specs]
    for warning in job.warnings():
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(planned, indent=1))
        return
    for rank in planned:
        click.echo(f"# rank {rank['rank']}")
        for section, keys in rank["spec"].items():
            click.echo(f"#   {section}: {json.dumps(keys)}")
        click.echo(shell_text(rank["qemu"]) + "\n")
