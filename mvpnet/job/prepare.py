"""What one rank makes ready on its host before its guest starts: keys, image, drives, link, and qemu's command line.

Everything is refused here that can be, before any guest of the job runs. What is made goes with the ExitStack.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed_files import rank_seed, write_image
from mvpnet.cloudinit.status import ask_argv
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.dataplane.link import Link
from mvpnet.errors import HostError
from mvpnet.guest.command_line import LinkFd, LinkPath, Wiring, qemu_argv
from mvpnet.guest.drive_files import prepare_drives, remove_leftovers
from mvpnet.guest.drives import DrivePlan, made_seed_drive, plan_drives
from mvpnet.guest.requirements import check_host, check_unused, console_socket, socket_paths
from mvpnet.guest.supervisor import GuestLaunch
from mvpnet.host import kvm, names, ports, programs
from mvpnet.images import store
from mvpnet.images.boot import BootFiles, boot_files, with_built_disk
from mvpnet.paths import RankLogs, scratch_base
from mvpnet.qemu import binary
from mvpnet.runtime.scratch import scratch_folder
from mvpnet.snapshot.machine import machine_of
from mvpnet.snapshot.restore import Resume, Resumed, resumed
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel, NetSocket, WaitFor
from mvpnet.ssh import KeyPair, SshEndpoint, write_keys
from mvpnet.util.text import Say

_RESOLV_CONF = Path("/etc/resolv.conf")


class Descriptors:
    """Descriptors on their way to monwrap and qemu; closed when nobody took them over."""

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
    """What one start of a guest takes: a `Guest` made of `launch` takes the descriptors over."""

    launch: GuestLaunch
    descriptors: Descriptors
    link: Link


@dataclass(frozen=True)
class PreparedRank:
    """A guest that can be started."""

    spec: RankSpec
    first: GuestStart
    again: Callable[[], GuestStart]  # for a guest that died, on the same disks and port. Raises HostError or OSError
    logs: RankLogs
    door: SshEndpoint
    accel: Accel
    accel_why: str
    folder: Path  # its scratch folder
    drives: tuple[DrivePlan, ...]
    boot: BootFiles


def prepare(
    spec: RankSpec,
    keys: KeyPair,
    facts: SeedFacts,
    logs: RankLogs,
    most_ranks_on_one_host: int,
    stack: ExitStack,
    say: Say,
    resume: Resume | None = None,
) -> PreparedRank:
    """Check this host and make everything that the guest needs, from an image or from a save.

    Raises HostError, ConfigError or ImageError naming the key.
    """
    check_host(spec)
    accel, accel_why = kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    if saved := resumed(resume, spec.rank):
        saved.check_host(spec.qemu.binary, accel)
    saved_cpu_model = saved.cpu_model if saved else None
    user = spec.image.user or names.default_user()
    scratch = stack.enter_context(
        scratch_folder(scratch_base(spec.scratch_dir), f"{spec.job_name}.{spec.rank}.{os.getpid()}", say)
    )
    if spec.makes_seed and saved:
        saved.copy_seed(seed_image(scratch.folder))
    elif spec.makes_seed:
        write_seed(spec, user, facts, seed_image(scratch.folder))
    public_key, private_key = write_keys(scratch.folder, keys)
    boot = boot_files(spec, (public_key, private_key), say)
    spec = store.provide_image(with_built_disk(spec), stack, say)
    drives = with_made_seed(spec, plan_drives(spec, scratch.folder), scratch.folder)
    if saved:
        drives = saved.drives(drives, scratch.folder)
    prepare_drives(drives, say, qemu_binary=spec.qemu.binary)
    stack.callback(remove_leftovers, drives, say)
    if spec.net.socket is NetSocket.path:
        for path in socket_paths(spec):
            check_unused(path, spec.job_name)
            scratch.own_socket(path)
    port, reserved = ports.reserve_ssh_port(spec.rank, spec.net.ssh_port, most_ranks_on_one_host)
    stack.callback(reserved.close)
    door = SshEndpoint(spec.rank, socket.gethostname(), port, user)

    def start(saved: Resumed | None = None) -> GuestStart:
        descriptors = Descriptors()
        stack.callback(descriptors.close)
        link, link_for_qemu = open_rank_link(spec, descriptors)
        stack.callback(link.close)
        our_qmp_fd, qemus_qmp_fd = (descriptors.hold(end.detach()) for end in socket.socketpair())
        memory_fd = descriptors.hold(saved.open_memory()) if saved else None
        wiring = qemu_wiring(
            spec,
            accel=accel,
            ssh_port=port,
            link=link_for_qemu,
            qmp_fd=qemus_qmp_fd,
            folder=scratch.folder,
            logs=logs,
            boot=boot,
            drives=drives,
            memory_fd=memory_fd,
            saved_cpu_model=saved_cpu_model,
        )
        argv = tuple(qemu_argv(spec, wiring))
        if saved:
            saved.check_machine(machine_of(argv))
        link_fd = link_for_qemu.fd if isinstance(link_for_qemu, LinkFd) else None
        launch = GuestLaunch(
            qemu_argv=argv,
            ssh_port=port,
            qemu_log=logs.qemu,
            console_log=wiring.console_log,
            qmp_fd=our_qmp_fd,
            qemu_fds=tuple(fd for fd in (qemus_qmp_fd, link_fd, memory_fd) if fd is not None),
            lock_fd=scratch.lock_fd,
            remove=(scratch.folder,),
            keep_on_death=spec.vm.restart > 0,
            monwrap=spec.qemu.monwrap,
            monwrap_log=logs.monwrap if spec.logging.wrapper else None,
            powerdown_s=spec.shutdown.powerdown_s,
            term_s=spec.shutdown.term_s,
            answer_timeout_s=spec.qemu.answer_timeout_s,
            loads=saved is not None,
            ask_setup=ask_argv(port, user, private_key)
            if spec.boot.wait_for is WaitFor.cloud_init and not saved
            else None,
            # qemu puts the temporary overlays of snapshot=on into TMPDIR
            env={**os.environ, **child_environment(spec, door, logs), "TMPDIR": str(scratch.folder)},
        )
        return GuestStart(launch, descriptors, link)

    return PreparedRank(spec, start(saved), start, logs, door, accel, accel_why, scratch.folder, drives, boot)


def child_environment(spec: RankSpec, door: SshEndpoint, logs: RankLogs) -> dict[str, str]:
    """What the app, monwrap and qemu find in their environment, under the C program's names."""
    return {
        "MVPNET_SSHPORT": str(door.port),
        "MVPNET_SSHUSER": door.user,
        "MVPNET_RANK": str(spec.rank),
        "MVPNET_WSIZE": str(spec.world_size),
        "MVPNET_JOBNAME": spec.job_name,
        "MVPNET_LOGDIR": str(logs.folder.parent),
        "MVPNET_RUNDIR": str(spec.run_dir),
    }


def open_rank_link(spec: RankSpec, descriptors: Descriptors) -> tuple[Link, LinkFd | LinkPath]:
    """Our end of the link, and how qemu is told of its own. Raises HostError when a socket cannot be made."""
    from mvpnet.dataplane.switch import open_link  # loads MPI, which `plan` and `doctor` are to do without

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


def write_seed(spec: RankSpec, user: str, facts: SeedFacts, path: Path) -> None:
    """Make the rank's cloud-init seed, and see that cloud-init takes it.

    Raises ConfigError, ImageError or HostError.
    """
    check_seed(spec, user, facts)
    write_image(rank_seed(spec, user, facts), path)


def check_seed(spec: RankSpec, user: str, facts: SeedFacts) -> None:
    """See that cloud-init takes the rank's user-data, where the host can tell.

    Raises ConfigError, ImageError or HostError.
    """
    shown = rank_seed(spec, user, facts.without_secrets())
    if trouble := check_user_data(shown.user_data, spec.cloud_init.validate):
        logger.debug("user-data was not checked: {}", trouble)


def seed_image(scratch: Path) -> Path:
    return scratch / "seed.iso"


def with_made_seed(spec: RankSpec, drives: tuple[DrivePlan, ...], scratch: Path) -> tuple[DrivePlan, ...]:
    """The drives with that of the rank's seed, where it has one, behind the boot drive."""
    seed = (made_seed_drive(seed_image(scratch)),) if spec.makes_seed else ()
    return (*drives[:1], *seed, *drives[1:])


def qemu_wiring(
    spec: RankSpec,
    *,
    accel: Accel,
    ssh_port: int,
    link: LinkFd | LinkPath,
    qmp_fd: int,
    folder: Path,
    logs: RankLogs,
    boot: BootFiles,
    drives: tuple[DrivePlan, ...],
    memory_fd: int | None = None,
    saved_cpu_model: str | None = None,
) -> Wiring:
    """The facts for qemu's command line, from what was prepared or, for a plan, from what would be."""
    return Wiring(
        accel=accel,
        architecture=programs.architecture(spec.qemu.binary),
        ssh_port=ssh_port,
        link=link,
        qmp_fd=qmp_fd,
        console_socket=console_socket(folder),
        console_log=logs.console if spec.logging.console else None,
        drives=tuple(plan.option for plan in drives),
        kernel=boot.kernel,
        initrd=boot.initrd,
        kernel_args=kernel_arguments(boot, accel),
        fw_cfg=boot.fw_cfg,
        domains=tuple(search_domains(spec)),
        sandbox=spec.qemu.sandbox and binary.supports_sandbox(spec.qemu.binary),
        panic_device=binary.panic_device(spec.qemu.binary),
        memory_fd=memory_fd,
        saved_cpu_model=saved_cpu_model,
    )


def kernel_arguments(boot: BootFiles, accel: Accel) -> str | None:
    """The user's own come last, and win."""
    emulated = boot.emulated_kernel_args if accel is Accel.tcg else None
    return " ".join(filter(None, [emulated, boot.kernel_args])) or None


def search_domains(spec: RankSpec) -> list[str]:
    """net.domains, else this host's own from /etc/resolv.conf."""
    if spec.net.domains is not None:
        return spec.net.domains
    return names.search_domains(_RESOLV_CONF.read_text(errors="replace")) if _RESOLV_CONF.is_file() else []
