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
from mvpnet.guest.drive_files import opened_drives
from mvpnet.guest.drives import DrivePlan, plan_drives, with_seed
from mvpnet.guest.requirements import HostPlan, check_unused, plan_host, socket_paths
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
    saved = _saved(spec, order, host)
    scratch = stack.enter_context(
        scratch_folder(scratch_base(spec.scratch_dir), f"{spec.job_name}.{spec.rank}.{os.getpid()}", say)
    )
    seed = _saved_seed(spec, saved, scratch) if saved else provide_seed(spec, host.user, order.facts, scratch.folder)
    key_files = write_keys(scratch.folder, order.keys)
    spec, boot = provide_boot(spec, key_files, stack, say)
    drives = stack.enter_context(opened_drives(_drives(spec, seed, saved, scratch), say, qemu_binary=spec.qemu.binary))
    endpoint = _endpoint(spec, host, scratch, most_ranks_on_one_host, stack)
    cpu_model = saved.cpu_model if saved else None
    starter = GuestStarter(spec, host, endpoint, key_files[1], scratch, logs, boot, drives, stack, cpu_model)
    return PreparedRank(
        spec, starter.start(saved), starter.start, logs, endpoint, host, scratch.folder, drives, boot, seed
    )


def _saved(spec: RankSpec, order: JobOrder, host: HostPlan) -> Resumed | None:
    """Return this rank's part of the save that the job resumes, after checking that it fits this host."""
    saved = resumed(order.resume, spec.rank)
    if saved:
        saved.check_host(spec.qemu.binary, host.accel)
    return saved


def _saved_seed(spec: RankSpec, saved: Resumed, scratch: Scratch) -> Path | None:
    """Copy the seed that the guest was saved with, which must not change for cloud-init."""
    if not spec.makes_seed:
        return None
    saved.copy_seed(seed_image(scratch.folder))
    return seed_image(scratch.folder)


def _drives(spec: RankSpec, seed: Path | None, saved: Resumed | None, scratch: Scratch) -> tuple[DrivePlan, ...]:
    planned = with_seed(plan_drives(spec, scratch.folder), seed)
    return saved.drives(planned, scratch.folder) if saved else planned


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
