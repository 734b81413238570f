"""Preparation of each start of a rank's guest: a new link, descriptors and command line of qemu."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mvpnet.cloudinit.status import ask_argv
from mvpnet.dataplane.link import Link
from mvpnet.dataplane.switch import open_link
from mvpnet.errors import HostError
from mvpnet.guest.command_line import LinkFd, LinkPath, qemu_argv
from mvpnet.guest.drives import DrivePlan
from mvpnet.guest.requirements import HostPlan, socket_paths
from mvpnet.guest.supervisor import GuestLaunch
from mvpnet.guest.wiring import qemu_wiring
from mvpnet.images.boot import BootFiles
from mvpnet.paths import RankLogs
from mvpnet.runtime.scratch import Scratch
from mvpnet.snapshot.machine import machine_of
from mvpnet.snapshot.restore import Resumed
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import NetSocket, WaitFor
from mvpnet.ssh import SshEndpoint


class Descriptors:
    """Descriptors for monwrap and qemu, which are closed unless a process takes them over."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def hold(self, fd: int) -> int:
        self._held.append(fd)
        return fd

    def hand_over(self) -> None:
        self._held.clear()

    def close(self) -> None:
        while self._held:
            os.close(self._held.pop())


@dataclass(frozen=True)
class GuestStart:
    """Everything for one start of a guest; a `Guest` made from `launch` takes over the descriptors."""

    launch: GuestLaunch
    descriptors: Descriptors
    link: Link


@dataclass(frozen=True)
class GuestStarter:
    """Prepares starts of one guest, on the same disks and port. `stack` closes what they opened."""

    spec: RankSpec
    host: HostPlan
    endpoint: SshEndpoint
    private_key: Path  # of the job, for asking the guest for cloud-init's status
    scratch: Scratch
    logs: RankLogs
    boot: BootFiles
    drives: tuple[DrivePlan, ...]
    stack: ExitStack
    saved_cpu_model: str | None = None  # of the save that the job resumes

    def start(self, saved: Resumed | None = None) -> GuestStart:
        """Prepare a start of a guest that boots, or that resumes from `saved` memory.

        Raises:
            HostError: A socket cannot be made, or the saved memory does not fit.
            OSError: There are no descriptors left.
        """
        descriptors = Descriptors()
        self.stack.callback(descriptors.close)
        link, link_for_qemu = open_rank_link(self.spec, descriptors)
        self.stack.callback(link.close)
        our_qmp_fd, qemus_qmp_fd = (descriptors.hold(end.detach()) for end in socket.socketpair())
        memory_fd = descriptors.hold(saved.open_memory()) if saved else None
        argv = self._qemu_argv(link_for_qemu, qemus_qmp_fd, memory_fd)
        if saved:
            saved.check_machine(machine_of(argv))
        link_fd = link_for_qemu.fd if isinstance(link_for_qemu, LinkFd) else None
        passed = tuple(fd for fd in (qemus_qmp_fd, link_fd, memory_fd) if fd is not None)
        return GuestStart(self._launch(argv, our_qmp_fd, passed, loads=saved is not None), descriptors, link)

    def _qemu_argv(self, link: LinkFd | LinkPath, qmp_fd: int, memory_fd: int | None) -> tuple[str, ...]:
        wiring = qemu_wiring(
            self.spec,
            accel=self.host.accel,
            ssh_port=self.endpoint.port,
            link=link,
            qmp_fd=qmp_fd,
            folder=self.scratch.folder,
            logs=self.logs,
            boot=self.boot,
            drives=self.drives,
            memory_fd=memory_fd,
            saved_cpu_model=self.saved_cpu_model,
        )
        return tuple(qemu_argv(self.spec, wiring))

    def _launch(self, argv: tuple[str, ...], qmp_fd: int, qemu_fds: tuple[int, ...], *, loads: bool) -> GuestLaunch:
        spec, logs = self.spec, self.logs
        asks = spec.boot.wait_for is WaitFor.cloud_init and not loads
        return GuestLaunch(
            qemu_argv=argv,
            ssh_port=self.endpoint.port,
            qemu_log=logs.qemu,
            console_log=logs.console if spec.logging.console else None,
            qmp_fd=qmp_fd,
            qemu_fds=qemu_fds,
            lock_fd=self.scratch.lock_fd,
            remove=(self.scratch.folder,),
            keep_on_death=spec.vm.restart > 0,
            monwrap=spec.qemu.monwrap,
            monwrap_log=logs.monwrap if spec.logging.wrapper else None,
            powerdown_s=spec.shutdown.powerdown_s,
            term_s=spec.shutdown.term_s,
            answer_timeout_s=spec.qemu.answer_timeout_s,
            loads=loads,
            ask_setup=ask_argv(self.endpoint.port, self.host.user, self.private_key) if asks else None,
            # qemu puts the temporary overlays of snapshot=on into TMPDIR
            env={**os.environ, **child_environment(spec, self.endpoint, logs), "TMPDIR": str(self.scratch.folder)},
        )


def child_environment(spec: RankSpec, endpoint: SshEndpoint, logs: RankLogs) -> dict[str, str]:
    """Return the environment of the app, monwrap and qemu, with the C program's names."""
    return {
        "MVPNET_SSHPORT": str(endpoint.port),
        "MVPNET_SSHUSER": endpoint.user,
        "MVPNET_RANK": str(spec.rank),
        "MVPNET_WSIZE": str(spec.world_size),
        "MVPNET_JOBNAME": spec.job_name,
        "MVPNET_LOGDIR": str(logs.folder.parent),
        "MVPNET_RUNDIR": str(spec.run_dir),
    }


def open_rank_link(spec: RankSpec, descriptors: Descriptors) -> tuple[Link, LinkFd | LinkPath]:
    """Open this rank's end of the link; return it with what qemu needs for its own end.

    Raises:
        HostError: A socket cannot be made.
    """
    if spec.net.socket is NetSocket.fd:
        link = open_link(spec.rank, spec.world_size, spec.net)
        assert link.qemu_fd is not None
        qemu_fd = descriptors.hold(os.dup(link.qemu_fd))
        link.detach_qemu_end()
        return link, LinkFd(qemu_fd)
    ours, qemus = [*socket_paths(spec), None][:2]
    assert ours
    try:
        link = open_link(spec.rank, spec.world_size, spec.net, path=ours, qemu_path=qemus)
    except OSError as error:
        raise HostError(f"net.socket_dir: cannot make the socket {ours}: {error.strerror}") from error
    return link, LinkPath(ours, qemus)
