"""Preparation of one rank on its host before its guest starts, in stages, each of which gets the spec once.

All checks happen here, before any guest of the job runs. The ExitStack removes everything that is made.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mvpnet.cloudinit.seed_files import provide_seed, seed_image
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.guest.drive_files import opened_drives
from mvpnet.guest.drives import DrivePlan, firmware_warnings, plan_drives, with_seed
from mvpnet.guest.requirements import HostPlan, check_unused, plan_host, socket_paths
from mvpnet.guest.seed_folder import pack_seed_folder
from mvpnet.host import ports
from mvpnet.images.boot import BootFiles, provide_boot
from mvpnet.job.guest_starter import GuestStart, GuestStarter
from mvpnet.job.messages import JobOrder
from mvpnet.paths import RankLogs, scratch_base
from mvpnet.runtime.scratch import Scratch, scratch_folder
from mvpnet.snapshot.restore import Resumed, resumed
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import NetSocket
from mvpnet.ssh import SshEndpoint, write_keys
from mvpnet.util.text import Say


@dataclass(frozen=True)
class PreparedRank:
    """A guest that can be started."""

    spec: RankSpec
    first: GuestStart
    again: Callable[[], GuestStart]  # for a guest that died, on the same disks and port. Raises HostError or OSError
    logs: RankLogs
    endpoint: SshEndpoint
    host: HostPlan
    folder: Path  # its scratch folder
    drives: tuple[DrivePlan, ...]
    boot: BootFiles
    seed: Path | None  # that mvpnet made


def prepare(
    spec: RankSpec, order: JobOrder, logs: RankLogs, most_ranks_on_one_host: int, stack: ExitStack, say: Say
) -> PreparedRank:
    """Check this host and make everything that the guest needs, from an image or from a save.

    Raises:
        HostError, ConfigError, ImageError: With the key that names the cause.
    """
    host = plan_host(spec)
    place = _place(spec, host, order, most_ranks_on_one_host, stack, say)
    seed = _seed(spec, place, order.facts)
    spec, boot = provide_boot(spec, place.key_files, stack, say)
    drives = _drives(spec, place, seed, stack, say)
    starter = GuestStarter(
        spec,
        host,
        place.endpoint,
        place.key_files[1],
        place.scratch,
        logs,
        boot,
        drives,
        stack,
        saved_cpu_model=place.saved.cpu_model if place.saved else None,
    )
    first = starter.start(place.saved)
    return PreparedRank(
        spec, first, starter.start, logs, place.endpoint, host, place.scratch.folder, drives, boot, seed
    )


@dataclass(frozen=True)
class _Place:
    """What the guest has on this host before anything is made for it."""

    scratch: Scratch
    key_files: tuple[Path, Path]  # public and private
    endpoint: SshEndpoint
    saved: Resumed | None  # this rank's part of the save that the job resumes


def _place(
    spec: RankSpec, host: HostPlan, order: JobOrder, most_ranks_on_one_host: int, stack: ExitStack, say: Say
) -> _Place:
    """Make the rank's scratch folder with its keys, reserve its port, and find what it was saved as."""
    saved = resumed(order.resume, spec.rank)
    if saved:
        saved.check_host(spec.qemu.binary, host.accel)
    name = f"{spec.job_name}.{spec.rank}.{os.getpid()}"
    scratch = stack.enter_context(scratch_folder(scratch_base(spec.scratch_dir), name, say))
    endpoint = _endpoint(spec, host, scratch, most_ranks_on_one_host, stack)
    return _Place(scratch, write_keys(scratch.folder, order.keys), endpoint, saved)


def _seed(spec: RankSpec, place: _Place, facts: SeedFacts) -> Path | None:
    """Make the rank's seed, or copy the one that it was saved with, which must not change for cloud-init."""
    if place.saved and spec.makes_seed:
        place.saved.copy_seed(seed_image(place.scratch.folder))
        return seed_image(place.scratch.folder)
    return provide_seed(spec, place.endpoint.user, facts, place.scratch.folder)


def _drives(spec: RankSpec, place: _Place, seed: Path | None, stack: ExitStack, say: Say) -> tuple[DrivePlan, ...]:
    """Have all that the drives need there; those that were saved on their saved disks."""
    planned = with_seed(plan_drives(spec, place.scratch.folder), seed)
    pack_seed_folder(planned)
    for warning in firmware_warnings(planned):
        say(f"warning: {warning}")
    wanted = place.saved.drives(planned, place.scratch.folder) if place.saved else planned
    return stack.enter_context(opened_drives(wanted, say, qemu_binary=spec.qemu.binary))


def _endpoint(
    spec: RankSpec, host: HostPlan, scratch: Scratch, most_ranks_on_one_host: int, stack: ExitStack
) -> SshEndpoint:
    """Reserve the port of the guest's ssh server, and check that the link's sockets are free."""
    if spec.net.socket is NetSocket.path:
        for path in socket_paths(spec):
            check_unused(path, spec.job_name)
            scratch.own_socket(path)
    port, reserved = ports.reserve_ssh_port(spec.rank, spec.net.ssh_port, most_ranks_on_one_host)
    stack.callback(reserved.close)
    return SshEndpoint(spec.rank, socket.gethostname(), port, host.user)
