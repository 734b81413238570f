"""What a job would do, known without doing it: `mvpnet plan`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

from mvpnet.cloudinit.seed_files import rank_seed, seed_facts
from mvpnet.errors import ImageError, MvpnetError
from mvpnet.guest import requirements
from mvpnet.guest.command_line import LinkFd, LinkPath, qemu_argv
from mvpnet.guest.drives import plan_drives
from mvpnet.host import kvm, names
from mvpnet.images import boot, build_cache, debian, tiny
from mvpnet.images.store import planned as with_stored_image
from mvpnet.job import prepare
from mvpnet.paths import RankLogs, RunFolder, cache_base, scratch_base
from mvpnet.spec.model import RankSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import CloudInit, ImageKind, NetSocket


class PlannedRank(TypedDict):
    """What `mvpnet plan --json` says of one rank."""

    rank: int
    spec: dict[str, Any]  # in JSON's types
    qemu: list[str]


def check_planned_seeds(specs: list[RankSpec]) -> None:
    """Refuse user-data that a run would refuse. Ranks whose seeds differ in the rank's own values alone, which are put
    in as text, are checked once: the check starts a program.

    Raises ConfigError, ImageError or HostError, naming the first rank.
    """
    checked: list[tuple[CloudInit, str | None]] = []
    facts = seed_facts("", "", Path.home(), os.environ)
    for spec in specs:
        alike = (spec.cloud_init, spec.image.user)
        if not spec.makes_seed or alike in checked:
            continue
        checked.append(alike)
        try:
            prepare.check_seed(spec, spec.image.user or names.default_user(), facts)
        except MvpnetError as error:
            raise error.of_rank(spec.rank) from error


def planned_rank(spec: RankSpec) -> PlannedRank:
    """What one rank would do. Raises what `rank.prepare` would, as far as that can be known without doing it."""
    requirements.check_host(spec)
    if spec.makes_seed:
        rank_seed(spec, spec.image.user or names.default_user(), seed_facts("", "", Path.home(), os.environ))
    folder = scratch_base(spec.scratch_dir) / f"{spec.job_name}.{spec.rank}.{os.getpid()}"
    logs = RankLogs(RunFolder(spec.run_dir).rank_folder(spec.rank, spec.logging.dir, spec.job_name))
    link: LinkFd | LinkPath = LinkFd(10)
    if spec.net.socket is NetSocket.path:
        ours, *qemus = requirements.socket_paths(spec)
        link = LinkPath(ours, qemus[0] if qemus else None)
    accel, _ = kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    wiring = prepare.qemu_wiring(
        spec,
        accel=accel,
        ssh_port=spec.net.ssh_port + spec.rank,
        link=link,
        qmp_fd=11,
        folder=folder,
        logs=logs,
        boot=planned_boot(spec, folder),
        drives=prepare.with_made_seed(spec, plan_drives(with_stored_image(spec), folder), folder),
    )
    return {"rank": spec.rank, "spec": plain(spec), "qemu": qemu_argv(spec, wiring)}


def planned_boot(spec: RankSpec, folder: Path) -> boot.BootFiles:
    """What the guest would boot; a tiny image that is not built yet is named after its recipe.

    Raises ImageError for a Debian image that is not built yet: its disk has to be looked at.
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
