"""The verb `replay`: a recorded job, run again by all ranks of a launch."""

from __future__ import annotations

from pathlib import Path

import click

from mvpnet.cli.records import RUN_PATH, opened
from mvpnet.errors import ConfigError
from mvpnet.logs import say
from mvpnet.mpi.launch import Launch
from mvpnet.records.replay import replay_spec


@click.command()
@click.option(
    "--changed",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="when an image, the app or another file is not what it was",
)
@click.option("--run-dir", metavar="DIR", help="the new run folder; default runs/DATE/TIME-JOB")
@click.argument("run", metavar="RUN", type=RUN_PATH)
@click.pass_obj
def replay(launch: Launch | None, changed: str, run_dir: str | None, run: Path) -> int:
    """Run the job of a run folder, or of an exported archive, again: mpirun -n RANKS mvpnet replay RUN

    It runs the very spec that was resolved then, in a new run folder, with as many ranks; nothing can be changed. Its
    manifest names the run that it repeats. Exits as a job does.
    """
    if launch is None:
        raise ConfigError("replay runs a job", hint="mpirun -n RANKS mvpnet replay RUN")
    from mvpnet.job import lifecycle, messages

    with opened(run) as old:
        spec, link = replay_spec(
            old, str(run.resolve()), launch.world.size, run_dir, refuse=changed == "refuse", say=say
        )
    return lifecycle.lead(launch.world, launch.signals, spec, messages.Provenance(replays=link))
