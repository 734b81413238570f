"""The verbs: `mvpnet VERB …`. Jobs themselves are no verb; see `__main__`."""

from __future__ import annotations

import json

import click

from mvpnet import __version__
from mvpnet.cli.bench import bench
from mvpnet.cli.control import HANDS, complete
from mvpnet.cli.doctor import doctor
from mvpnet.cli.image import image
from mvpnet.cli.recipes import recipes
from mvpnet.cli.records import diff, export, replay, report
from mvpnet.cli.seed import seed
from mvpnet.cli.snapshots import SNAPSHOTS
from mvpnet.errors import ConfigError, InterruptedJobError, MpiError
from mvpnet.job.plan import check_planned_seeds, planned_rank
from mvpnet.mpi.launch import Launch


def run(argv: list[str], launch: Launch | MpiError | None = None) -> int:
    """Run a verb, in a launch where it needs one, or with what kept MPI from starting; its exit code.

    Raises MvpnetError, ConfigError for a command line that click refuses.
    """
    if (completed := complete(verbs)) is not None:
        return completed
    try:
        result = verbs.main(argv, prog_name="mvpnet", standalone_mode=False, obj=launch)
    except click.Abort:  # Ctrl-C
        raise InterruptedJobError("stopped by SIGINT") from None
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        usage = error.ctx.get_usage() if error.ctx else ""
        raise ConfigError(error.format_message(), hint=usage or None) from None
    return result if isinstance(result, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mvpnet %(version)s")
def verbs() -> None:
    """Virtual machines as one MPI job. Without a verb: mpirun -n RANKS mvpnet [GROUP=OPTION ...] [KEY=VALUE ...]"""


verbs.add_command(bench)
verbs.add_command(doctor)
verbs.add_command(image)
verbs.add_command(recipes)
verbs.add_command(seed)
for record_verb in (replay, diff, export, report):
    verbs.add_command(record_verb)
for hands_verb in (*HANDS, *SNAPSHOTS):
    verbs.add_command(hands_verb)


@verbs.command(name="help")
@click.pass_context
def show_help(context: click.Context) -> None:
    """List the verbs."""
    assert context.parent
    click.echo(context.parent.get_help())


@verbs.command()
@click.option("-n", "--ranks", default=1, show_default=True, metavar="N", help="plan for a world of N ranks")
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each rank")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@click.argument("overrides", nargs=-1)
def plan(ranks: int, as_json: bool, config_dir: str | None, overrides: tuple[str, ...]) -> None:
    """Print each rank's resolved spec and qemu command line; boot nothing, need no MPI.

    Descriptors, and ports that turn out to be taken, may differ when the job is run.
    """
    from mvpnet.config import compose
    from mvpnet.guest.command_line import shell_text
    from mvpnet.guest.drives import check_shared_writes
    from mvpnet.images.boot import with_built_disk
    from mvpnet.images.store import planned as with_stored_image
    from mvpnet.spec.app_steps import check_steps, steps_of

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
