"""The verb `plan`: what each rank of a job would do."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence

import click

from mvpnet.config import compose
from mvpnet.errors import MvpnetError
from mvpnet.guest.command_line import shell_text
from mvpnet.guest.drives import check_shared_writes
from mvpnet.images.boot import with_built_disk
from mvpnet.images.store import planned as with_stored_image
from mvpnet.job.plan import PlannedRank, PlannedStep, check_planned_seeds, planned_rank
from mvpnet.spec.app_steps import check_steps, steps_of
from mvpnet.spec.model import RankSpec
from mvpnet.spec.rank_set import ranks_text
from mvpnet.spec.urls import masked


@click.command()
@click.option("-n", "--ranks", default=1, show_default=True, metavar="N", help="plan for a world of N ranks")
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each rank")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@click.argument("overrides", nargs=-1)
def plan(ranks: int, as_json: bool, config_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Print each rank's resolved spec and qemu command line; boot nothing, need no MPI.

    What a job would build, fetch or need prepared first is named before; a plan does none of it. Descriptors, and ports
    that turn out to be taken, may differ when the job is run.
    """
    job = compose.compose(list(overrides), ranks, config_dir)
    check_steps(steps_of(job.config.app), job.world_size)
    specs = [with_built_disk(job.for_rank(rank)) for rank in range(job.world_size)]
    check_shared_writes([with_stored_image(spec) for spec in specs])
    check_planned_seeds(specs)
    arguments = masked(shlex.join([*(["--config-dir", config_dir] if config_dir else []), *overrides]))
    planned = [_planned(spec, arguments) for spec in specs]
    for warning in job.warnings():
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(planned, indent=1))
        return
    click.echo(_first(planned), nl=False)
    for rank in planned:
        click.echo(f"# rank {rank['rank']}")
        for section, keys in rank["spec"].items():
            click.echo(f"#   {section}: {json.dumps(keys)}")
        click.echo(shell_text(rank["qemu"]) + "\n")


def _planned(spec: RankSpec, arguments: str) -> PlannedRank:
    try:
        return planned_rank(spec, arguments)
    except MvpnetError as error:
        if spec.world_size == 1:
            raise
        raise error.of_rank(spec.rank) from error


def _first(planned: Sequence[PlannedRank]) -> str:
    """Return the lines about what comes before the guests; empty if all is here."""
    ranks_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    steps: dict[tuple[str, str], PlannedStep] = {}
    for rank in planned:
        for step in rank["first"]:
            steps[step["work"], step["image"]] = step
            ranks_of[step["work"], step["image"]].append(rank["rank"])
    lines = ["# first"] if steps else []
    for key, step in steps.items():
        who = "a job does so when it starts" if step["by_job"] else "a job is refused until that is done"
        lines.append(f"#   {step['work']} {step['image']} (ranks {ranks_text(ranks_of[key])}): {who}; beforehand:")
        lines.append(f"#     {step['command']}")
        lines += [f"#     gives {path}" for path in step["files"]]
    return "".join(f"{line}\n" for line in [*lines, *([""] if lines else [])])
