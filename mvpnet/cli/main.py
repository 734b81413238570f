"""The verbs: `mvpnet VERB …`. Jobs themselves are no verb; see `launch`."""

from __future__ import annotations

import os

import click

from mvpnet import __version__
from mvpnet.cli.completion import complete
from mvpnet.cli.lazy import LazyCommand, LazyGroup
from mvpnet.cli.outcome import report_error
from mvpnet.errors import ConfigError, HostError, InterruptedJobError, MpiError, MvpnetError
from mvpnet.mpi.launch import Launch
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals


def lead(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Run a verb that all ranks run, on rank 0; send its exit code to the others and return it."""
    try:
        if argv[0] != "doctor":  # which tells it in its own way
            world.refuse_mixed_versions()
        code = run(argv, Launch(world, signals))
    except MvpnetError as error:
        code = report_error(error)
    world.broadcast(code)
    return code


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
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not error.filename:
            raise
        raise HostError(f"{os.fsdecode(error.filename)}: {error.strerror}") from error
    except click.UsageError as error:
        usage = error.ctx.get_usage() if error.ctx else ""
        raise ConfigError(error.format_message(), hint=usage or None) from None
    return result if isinstance(result, int) else 0


_VERBS = {
    "bench": LazyCommand(
        "mvpnet.cli.bench",
        "bench",
        "Measure the network between the ranks of a launch, without qemu: mpirun -n RANKS mvpnet bench",
    ),
    "completion": LazyCommand(
        "mvpnet.cli.completion", "completion", "Print what makes a shell complete verbs, options, jobs and ranks."
    ),
    "console": LazyCommand("mvpnet.cli.control", "console", "Attach to a guest's serial console."),
    "diff": LazyCommand(
        "mvpnet.cli.records",
        "diff",
        "Print what two runs, or archives of runs, differ in: spec, inputs, hosts, versions, verdict, metrics.",
    ),
    "doctor": LazyCommand(
        "mvpnet.cli.doctor",
        "doctor",
        "Look whether the hosts can do what a job with these OVERRIDES needs; boot and fetch nothing.",
    ),
    "export": LazyCommand(
        "mvpnet.cli.records",
        "export",
        "Pack a run into one archive, without its images and keys, for mvpnet replay on another machine.",
    ),
    "image": LazyCommand("mvpnet.cli.image", "image", "The image store: fetch, pin, look at and remove disk images."),
    "logs": LazyCommand(
        "mvpnet.cli.control",
        "logs",
        "Show logs of a job that runs: of one rank, or of all, a guest's name before each line.",
    ),
    "ls": LazyCommand(
        "mvpnet.cli.control", "ls", "List your jobs on this host: name, id, phase, age, ranks, run folder."
    ),
    "monitor": LazyCommand(
        "mvpnet.cli.control",
        "monitor",
        "Run a QMP command in a guest's qemu and print what it returns, as JSON; ARGUMENTS are a JSON object.",
    ),
    "plan": LazyCommand(
        "mvpnet.cli.plan",
        "plan",
        "Print each rank's resolved spec and qemu command line; boot nothing, need no MPI.",
    ),
    "powerdown": LazyCommand("mvpnet.cli.control", "powerdown", "Press a guest's power button (ACPI)."),
    "recipes": LazyCommand(
        "mvpnet.cli.recipes",
        "recipes",
        "List the recipes: what each does, and what it was last proven to do. mpirun -n RANKS mvpnet recipe=NAME",
    ),
    "replay": LazyCommand(
        "mvpnet.cli.replay",
        "replay",
        "Run the job of a run folder, or of an exported archive, again: mpirun -n RANKS mvpnet replay RUN",
    ),
    "report": LazyCommand(
        "mvpnet.cli.report", "report", "Make one HTML page, and PNG pictures, of what a run or a sweep did."
    ),
    "reset": LazyCommand(
        "mvpnet.cli.control", "reset", "Press a guest's reset button: it boots again at once, without shutting down."
    ),
    "save": LazyCommand(
        "mvpnet.cli.snapshots",
        "save",
        "Freeze all guests of a job, save their disks and memory as NAME, and let them go on.",
    ),
    "saves": LazyCommand(
        "mvpnet.cli.snapshots",
        "saves",
        "List what was saved with `mvpnet save NAME`: name, date, ranks, size on disk, image.",
    ),
    "seed": LazyCommand(
        "mvpnet.cli.seed",
        "seed",
        "Write each rank's cloud-init seed into FOLDER/rank-NNNN, with a key pair for the job in FOLDER.",
    ),
    "ssh": LazyCommand(
        "mvpnet.cli.control",
        "ssh",
        "Log in to a guest, or run a command there; its exit code is this one's, 255 where ssh itself failed.",
    ),
    "status": LazyCommand(
        "mvpnet.cli.control",
        "status",
        "Show a job: its phase, and each rank's host, state, uptime, ssh port and traffic.",
    ),
    "stop": LazyCommand(
        "mvpnet.cli.control", "stop", "Stop a job in order, as SIGTERM to its rank 0 does: app, guests, records."
    ),
}


@click.group(cls=LazyGroup, lazy=_VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mvpnet %(version)s")
def verbs() -> None:
    """Virtual machines as one MPI job. Without a verb: mpirun -n RANKS mvpnet [GROUP=OPTION ...] [KEY=VALUE ...]"""


@verbs.command(name="help")
@click.pass_context
def show_help(context: click.Context) -> None:
    """List the verbs."""
    assert context.parent
    click.echo(context.parent.get_help())
