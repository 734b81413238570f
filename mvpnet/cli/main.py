"""The verbs: `mvpnet VERB …`. Jobs themselves are no verb; see `__main__`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from mvpnet import __version__
from mvpnet.cli.bench import Launch, bench
from mvpnet.cli.control import HANDS, complete
from mvpnet.cli.doctor import doctor
from mvpnet.cli.image import image
from mvpnet.cli.recipes import recipes
from mvpnet.cli.records import diff, export, replay, report
from mvpnet.cli.seed import seed
from mvpnet.cli.snapshots import SNAPSHOTS
from mvpnet.errors import ConfigError, ImageError, Interrupted, MpiError, MvpnetError


def run(argv: list[str], launch: Launch | MpiError | None = None) -> int:
    """Run a verb, in a launch where it needs one, or with what kept MPI from starting; its exit code.

    Raises MvpnetError, ConfigError for a command line that click refuses.
    """
    if (completed := complete(verbs)) is not None:
        return completed
    try:
        result = verbs.main(argv, prog_name="mvpnet", standalone_mode=False, obj=launch)
    except click.Abort:  # Ctrl-C
        raise Interrupted("stopped by SIGINT") from None
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
    from mvpnet.images.store import planned as with_stored_image
    from mvpnet.job.prepare import with_built_disk
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


def check_planned_seeds(specs: list[Any]) -> None:
    """Refuse user-data that a run would refuse. Ranks whose seeds differ in the rank's own values alone, which are put
    in as text, are checked once: the check starts a program.

    Raises ConfigError, ImageError or HostError, naming the first rank.
    """
    from mvpnet.cloudinit.seed_files import seed_facts
    from mvpnet.host.programs import default_user
    from mvpnet.job import prepare

    checked: list[tuple[Any, ...]] = []
    facts = seed_facts("", "", Path.home(), os.environ)
    for spec in specs:
        alike = (spec.cloud_init, spec.image.user)
        if not spec.makes_seed or alike in checked:
            continue
        checked.append(alike)
        try:
            prepare.check_seed(spec, spec.image.user or default_user(), facts)
        except MvpnetError as error:
            raise error.of_rank(spec.rank) from error


def planned_rank(spec: Any) -> dict[str, Any]:
    """What one rank would do. Raises what `rank.prepare` would, as far as that can be known without doing it."""
    from mvpnet.cloudinit.seed_files import rank_seed, seed_facts
    from mvpnet.guest.command_line import LinkFd, LinkPath, qemu_argv
    from mvpnet.guest.drives import plan_drives
    from mvpnet.host import programs
    from mvpnet.images.store import planned as with_stored_image
    from mvpnet.job import prepare
    from mvpnet.paths import RankLogs, RunFolder, scratch_base
    from mvpnet.spec.model import plain
    from mvpnet.spec.schema import NetSocket

    prepare.check_host(spec)
    if spec.makes_seed:
        rank_seed(spec, spec.image.user or programs.default_user(), seed_facts("", "", Path.home(), os.environ))
    folder = scratch_base(spec.scratch_dir) / f"{spec.job_name}.{spec.rank}.{os.getpid()}"
    logs = RankLogs(RunFolder(spec.run_dir).rank_folder(spec.rank, spec.logging.dir, spec.job_name))
    link: LinkFd | LinkPath = LinkFd(10)
    if spec.net.socket is NetSocket.path:
        ours, *qemus = prepare.socket_paths(spec)
        link = LinkPath(ours, qemus[0] if qemus else None)
    accel, _ = programs.resolve_accel(spec.vm.accel, spec.qemu.binary)
    boot = planned_boot(spec, folder)
    wiring = prepare.wire(
        spec,
        accel=accel,
        ssh_port=spec.net.ssh_port + spec.rank,
        link=link,
        qmp_fd=11,
        folder=folder,
        logs=logs,
        boot=boot,
        drives=prepare.with_made_seed(spec, plan_drives(with_stored_image(spec), folder), folder),
    )
    return {"rank": spec.rank, "spec": plain(spec), "qemu": qemu_argv(spec, wiring)}


def planned_boot(spec: Any, folder: Path) -> Any:
    """What the guest would boot; a tiny image that is not built yet is named after its recipe.

    Raises ImageError for a Debian image that is not built yet: its disk has to be looked at.
    """
    from mvpnet.images import build_cache, debian, tiny
    from mvpnet.job import prepare
    from mvpnet.paths import cache_base
    from mvpnet.spec.schema import ImageKind

    cache = cache_base(spec.image.cache_dir)
    if spec.image.kind is ImageKind.debian:
        found = build_cache.find(cache / "debian", debian.image_digest(spec.image.packages))
        if found is None:
            raise ImageError("image=debian12-built: is not built yet", hint="mvpnet image fetch image=debian12-built")
        return prepare.debian_boot(spec, debian.image_in(found))
    if spec.image.kind is not ImageKind.tiny:
        return prepare.disk_boot(spec)
    recipe = tiny.recipe_digest()
    named = cache / "tiny" / recipe
    built = tiny.newest(cache / "tiny", recipe) or tiny.TinyImage(named / "vmlinuz", named / "initrd", recipe)
    return prepare.tiny_boot(built, spec.image.kernel_args, (folder / "authorized_keys", folder / "id_ed25519"))
