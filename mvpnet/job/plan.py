"""Plan of a job without running it: `mvpnet plan`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from mvpnet.cloudinit.seed_files import check_seed, rank_seed, seed_facts, seed_image
from mvpnet.errors import MvpnetError
from mvpnet.guest.command_line import LinkFd, LinkPath, qemu_argv
from mvpnet.guest.drives import plan_drives, with_seed
from mvpnet.guest.requirements import plan_host, socket_paths
from mvpnet.guest.wiring import qemu_wiring
from mvpnet.host.names import default_user
from mvpnet.images import boot, store
from mvpnet.images.boot import BootFiles
from mvpnet.images.first_steps import FirstStep, Work, first_step, planned_debian, planned_tiny
from mvpnet.paths import RankLogs, RunFolder, cache_base, home_folder, scratch_base
from mvpnet.spec.model import RankSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import CloudInit, ImageKind, NetSocket
from mvpnet.spec.urls import masked, masked_tree


def check_planned_seeds(specs: Sequence[RankSpec]) -> None:
    """Refuse user-data that a run would refuse.

    Ranks whose seeds differ in the rank's own values alone, which are put in as text, are checked once: the check
    starts a program.

    Raises ConfigError, ImageError or HostError, naming the first rank.
    """
    checked: list[tuple[CloudInit, str | None]] = []
    facts = seed_facts("", "", specs, home_folder(), os.environ)
    for spec in specs:
        alike = (spec.cloud_init, spec.image.user)
        if not spec.makes_seed or alike in checked:
            continue
        checked.append(alike)
        try:
            check_seed(spec, spec.image.user or default_user(), facts)
        except MvpnetError as error:
            raise error.of_rank(spec.rank) from error


class PlannedStep(TypedDict):
    """What comes before a rank's guest: an image that is not here yet."""

    work: str  # build, fetch, prepare
    image: str  # in words
    by_job: bool  # the job does so when it starts; otherwise it is refused until it is done
    command: str  # does so beforehand
    files: list[str]  # where its files will be, as far as that is known


class PlannedRank(TypedDict):
    """One rank in the output of `mvpnet plan --json`."""

    rank: int
    spec: dict[str, Any]  # in JSON's types, without secrets of URLs
    qemu: list[str]
    first: list[PlannedStep]


def planned_rank(spec: RankSpec, arguments: str) -> PlannedRank:
    """Tell what one rank would do: its number, its spec in JSON's types, qemu's argv, and what comes before.

    `arguments` are those of the plan, as a shell takes them, for the command that does the latter beforehand.
    Raises what `prepare.prepare` would, as far as that can be known without doing it.
    """
    host = plan_host(spec)
    step = first_step(spec)
    if spec.makes_seed:
        rank_seed(spec, host.user, seed_facts("", "", (), home_folder(), os.environ))
    folder = scratch_base(spec.scratch_dir) / f"{spec.job_name}.{spec.rank}.{os.getpid()}"
    seed = seed_image(folder) if spec.makes_seed else None
    wiring = qemu_wiring(
        spec,
        accel=host.accel,
        ssh_port=spec.net.ssh_port + spec.rank,
        link=_planned_link(spec),
        qmp_fd=11,
        folder=folder,
        logs=RankLogs(RunFolder(spec.run_dir).rank_folder(spec.rank, spec.logging.dir, spec.job_name)),
        boot=planned_boot(spec, folder),
        drives=with_seed(plan_drives(store.planned(spec), folder, step.files if step else ()), seed),
    )
    return {
        "rank": spec.rank,
        "spec": masked_tree(plain(spec)),
        "qemu": [masked(word) for word in qemu_argv(spec, wiring)],
        "first": [_planned_step(step, arguments)] if step else [],
    }


def _planned_step(step: FirstStep, arguments: str) -> PlannedStep:
    verb = "prepare" if step.work is Work.prepare else "fetch"
    return {
        "work": step.work.name,
        "image": step.what,
        "by_job": step.is_done_by_job,
        "command": f"mvpnet image {verb} {arguments}".rstrip(),
        "files": [str(path) for path in step.files],
    }


def _planned_link(spec: RankSpec) -> LinkFd | LinkPath:
    if spec.net.socket is not NetSocket.path:
        return LinkFd(10)
    ours, *qemus = socket_paths(spec)
    return LinkPath(ours, qemus[0] if qemus else None)


def planned_boot(spec: RankSpec, folder: Path) -> BootFiles:
    """Return the files that the guest would boot; images that are not built yet are named after their recipes.

    Raises:
        ImageError: A kernel or initrd of the user's cannot be used.
    """
    cache = cache_base(spec.image.cache_dir)
    if spec.image.kind is ImageKind.debian:
        return boot.debian_boot(spec, planned_debian(cache / "debian", spec.image.packages))
    if spec.image.kind is ImageKind.tiny:
        built = planned_tiny(cache / "tiny")
        return boot.tiny_boot(built, spec.image.kernel_args, (folder / "authorized_keys", folder / "id_ed25519"))
    files = boot.disk_boot(spec)
    boot.check_kernel(files, spec.qemu.binary)
    return files
