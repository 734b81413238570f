"""Plan of a job without running it: `mvpnet plan`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from mvpnet.cloudinit.seed_files import check_seed, rank_seed, seed_facts, seed_image
from mvpnet.errors import ImageError, MvpnetError
from mvpnet.guest.command_line import LinkFd, LinkPath, qemu_argv
from mvpnet.guest.drives import plan_drives, with_seed
from mvpnet.guest.requirements import plan_host, socket_paths
from mvpnet.guest.wiring import qemu_wiring
from mvpnet.host.names import default_user
from mvpnet.images import boot, build_cache, debian, store, tiny
from mvpnet.images.boot import BootFiles
from mvpnet.paths import RankLogs, RunFolder, cache_base, home_folder, scratch_base
from mvpnet.spec.model import RankSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import CloudInit, ImageKind, NetSocket


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


class PlannedRank(TypedDict):
    """One rank in the output of `mvpnet plan --json`."""

    rank: int
    spec: dict[str, Any]  # in JSON's types
    qemu: list[str]


def planned_rank(spec: RankSpec) -> PlannedRank:
    """Tell what one rank would do: its number, its spec in JSON's types, and qemu's argv.

    Raises what `prepare.prepare` would, as far as that can be known without doing it.
    """
    host = plan_host(spec)
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
        drives=with_seed(plan_drives(store.planned(spec), folder), seed),
    )
    return {"rank": spec.rank, "spec": plain(spec), "qemu": qemu_argv(spec, wiring)}


def _planned_link(spec: RankSpec) -> LinkFd | LinkPath:
    if spec.net.socket is not NetSocket.path:
        return LinkFd(10)
    ours, *qemus = socket_paths(spec)
    return LinkPath(ours, qemus[0] if qemus else None)


def planned_boot(spec: RankSpec, folder: Path) -> BootFiles:
    """Return the files that the guest would boot; a tiny image that is not built yet is named after its recipe.

    Raises:
        ImageError: A Debian image is not built yet; its disk would have to be read.
    """

    cache = cache_base(spec.image.cache_dir)
    if spec.image.kind is ImageKind.debian:
        found = build_cache.find(cache / "debian", debian.image_digest(spec.image.packages))
        if found is None:
            raise ImageError("image=debian12-built: is not built yet", hint="mvpnet image fetch image=debian12-built")
        return boot.debian_boot(spec, debian.image_in(found))
    if spec.image.kind is not ImageKind.tiny:
        return boot.disk_boot(spec)
    recipe = tiny.recipe_digest()
    named = cache / "tiny" / recipe
    built = tiny.newest(cache / "tiny", recipe) or tiny.TinyImage(named / "vmlinuz", named / "initrd", recipe)
    return boot.tiny_boot(built, spec.image.kernel_args, (folder / "authorized_keys", folder / "id_ed25519"))
