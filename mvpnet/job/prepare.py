"""What one rank makes ready on its host before its guest starts: keys, image, drives, link, and qemu's command line.

Everything is refused here that can be, before any guest of the job runs. What is made goes with the ExitStack.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed_files import made_seed_drive, rank_seed, write_image
from mvpnet.cloudinit.status import ask_argv
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.dataplane.link import Link
from mvpnet.errors import ConfigError, HostError
from mvpnet.guest.command_line import LinkFd, LinkPath, Wiring, qemu_argv
from mvpnet.guest.drive_files import prepare_drives, remove_leftovers
from mvpnet.guest.drives import DrivePlan, expand, plan_drives
from mvpnet.guest.supervisor import Launch
from mvpnet.host import programs
from mvpnet.images import debian, store, tiny
from mvpnet.images.store.prepared import is_asked
from mvpnet.job.inventory import Door
from mvpnet.paths import UNIX_PATH_MAX, RankLogs, cache_base, scratch_base
from mvpnet.runtime.scratch import scratch_folder
from mvpnet.snapshot.machine import machine_of
from mvpnet.snapshot.restore import Resume, Resumed, resumed
from mvpnet.spec.model import RankSpec, changed
from mvpnet.spec.option_string import escaped
from mvpnet.spec.schema import Accel, ImageKind, NetKind, NetSocket, WaitFor

Say = Callable[[str], None]

_UNIX_SOCKETS = Path("/proc/net/unix")
_RESOLV_CONF = Path("/etc/resolv.conf")


@dataclass(frozen=True)
class Keys:
    """The job's own ssh key pair, as ssh-keygen wrote it."""

    public: str
    private: str = field(repr=False)


@dataclass(frozen=True)
class Boot:
    """What a guest boots by -kernel, and the files that it reads from fw_cfg; empty for a guest that boots a disk."""

    kernel: Path | None = None
    initrd: Path | None = None
    kernel_args: str | None = None
    fw_cfg: tuple[str, ...] = ()
    emulated_kernel_args: str | None = None  # before the others, under TCG


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
class Start:
    """What one start of a guest takes: a `Guest` made of `launch` takes the descriptors over."""

    launch: Launch
    descriptors: Descriptors
    link: Link


@dataclass(frozen=True)
class Prepared:
    """A guest that can be started."""

    spec: RankSpec
    first: Start
    again: Callable[[], Start]  # for a guest that died, on the same disks and port. Raises HostError or OSError
    logs: RankLogs
    door: Door
    accel: Accel
    accel_why: str
    folder: Path  # its scratch folder
    drives: tuple[DrivePlan, ...]
    boot: Boot


def prepare(
    spec: RankSpec,
    keys: Keys,
    facts: SeedFacts,
    logs: RankLogs,
    most_ranks_on_one_host: int,
    stack: ExitStack,
    say: Say,
    resume: Resume | None = None,
) -> Prepared:
    """Check this host and make everything that the guest needs, from an image or from a save.

    Raises HostError, ConfigError or ImageError naming the key.
    """
    check_host(spec)
    accel, accel_why = programs.resolve_accel(spec.vm.accel, spec.qemu.binary)
    if saved := resumed(resume, spec.rank):
        saved.check_host(spec.qemu.binary, accel)
    saved_cpu_model = saved.cpu_model if saved else None
    user = spec.image.user or programs.default_user()
    scratch = stack.enter_context(
        scratch_folder(scratch_base(spec.scratch_dir), f"{spec.job_name}.{spec.rank}.{os.getpid()}", say)
    )
    if spec.makes_seed and saved:
        saved.copy_seed(seed_image(scratch.folder))
    elif spec.makes_seed:
        write_seed(spec, user, facts, seed_image(scratch.folder))
    public_key, private_key = write_keys(scratch.folder, keys)
    boot = boot_files(spec, (public_key, private_key), say)
    spec = store.provided(with_built_disk(spec), stack, say)
    drives = with_made_seed(spec, plan_drives(spec, scratch.folder), scratch.folder)
    if saved:
        drives = saved.drives(drives, scratch.folder)
    prepare_drives(drives, say, qemu_binary=spec.qemu.binary)
    stack.callback(remove_leftovers, drives, say)
    if spec.net.socket is NetSocket.path:
        for path in socket_paths(spec):
            check_unused(path, spec.job_name)
            scratch.own_socket(path)
    port, reserved = programs.reserve_ssh_port(spec.rank, spec.net.ssh_port, most_ranks_on_one_host)
    stack.callback(reserved.close)
    door = Door(spec.rank, socket.gethostname(), port, user)

    def start(saved: Resumed | None = None) -> Start:
        descriptors = Descriptors()
        stack.callback(descriptors.close)
        link, link_for_qemu = open_rank_link(spec, descriptors)
        stack.callback(link.close)
        our_qmp_fd, qemus_qmp_fd = (descriptors.hold(end.detach()) for end in socket.socketpair())
        memory_fd = descriptors.hold(saved.open_memory()) if saved else None
        wiring = wire(
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
        launch = Launch(
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
        return Start(launch, descriptors, link)

    return Prepared(spec, start(saved), start, logs, door, accel, accel_why, scratch.folder, drives, boot)


def child_environment(spec: RankSpec, door: Door, logs: RankLogs) -> dict[str, str]:
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


def check_host(spec: RankSpec) -> None:
    """Refuse a rank whose programs, folders or names cannot do. Raises HostError or ConfigError, naming the key."""
    check_qemu(spec)
    check_ssh(spec)
    check_settings(spec)
    for key, path in unix_socket_paths(spec):
        check_socket_path(path, key)


def check_qemu(spec: RankSpec) -> None:
    """Raises HostError for a qemu that is not there, or without the netdev."""
    programs.find_program(spec.qemu.binary, "qemu.binary")
    programs.check_netdev(spec.qemu.binary, spec.net.kind)


def check_ssh(spec: RankSpec) -> None:
    """Raises HostError where the guest is to be asked something by ssh, and there is none."""
    if spec.boot.wait_for is WaitFor.cloud_init:
        programs.find_program("ssh", "boot.wait_for")


def check_settings(spec: RankSpec) -> None:
    """Raises ConfigError for names that are none, HostError for folders and a user's name that are not there."""
    programs.check_domains(spec.net.domains or [])
    if spec.image.user:
        programs.check_user(spec.image.user)
    else:
        programs.default_user()
    if spec.net.tftp_dir:
        programs.check_folder(Path(spec.net.tftp_dir), "net.tftp_dir")
    if spec.net.socket is NetSocket.path:
        programs.check_folder(Path(spec.net.socket_dir), "net.socket_dir", write=True)


def unix_socket_paths(spec: RankSpec) -> list[tuple[str, Path]]:
    """The paths of sockets that are made for the guest, each with the key that its folder is from."""
    links = socket_paths(spec) if spec.net.socket is NetSocket.path else []
    console = console_socket(scratch_base(spec.scratch_dir) / f"{spec.job_name}.{spec.rank}.9999999")
    return [*(("net.socket_dir", path) for path in links), ("job.scratch_dir", console)]


def check_socket_path(path: Path, key: str) -> None:
    """Raises HostError when a unix socket cannot have this path: Linux takes 107 bytes (unix(7))."""
    length = len(os.fsencode(path))
    if length > UNIX_PATH_MAX:
        raise HostError(
            f"{key}: the socket path {path} has {length} bytes and may have {UNIX_PATH_MAX}",
            hint=f"set {key} to a folder with a shorter path, such as /tmp",
        )


def check_unused(path: Path, job_name: str) -> None:
    """Raises HostError where a living process has a unix socket of this path (proc(5), /proc/net/unix)."""
    if str(path) in {line.split()[-1] for line in _UNIX_SOCKETS.read_text(errors="replace").splitlines()}:
        raise HostError(
            f"net.socket_dir: the socket {path} is in use, by another job of the name {job_name}",
            hint="set job.name or net.socket_dir to another, or leave out net.socket=path",
        )


def console_socket(scratch: Path) -> Path:
    return scratch / "console.sock"


def socket_paths(spec: RankSpec) -> list[Path]:
    """The link's sockets with net.socket=path, ours first, under the C program's names."""
    stem = f"mvp.{spec.job_name}.{spec.rank}"
    names = [f"{stem}.sock"] if spec.net.kind is NetKind.stream else [f"{stem}.qo-rsock", f"{stem}.qi-lsock"]
    return [Path(spec.net.socket_dir) / name for name in names]


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


def write_keys(folder: Path, keys: Keys) -> tuple[Path, Path]:
    """The key pair as files of this rank's own, 0600: public (as authorized_keys) and private."""
    public, private = folder / "authorized_keys", folder / "id_ed25519"
    for path, text in ((public, keys.public), (private, keys.private)):
        path.touch(0o600, exist_ok=False)
        path.write_text(text)
    return public, private


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


def boot_files(spec: RankSpec, key_files: tuple[Path, Path], say: Say) -> Boot:
    """What the guest boots from outside its disk; images that mvpnet builds are built here if they are not yet.

    Raises ImageError when it cannot be built, ConfigError for a kernel or initrd that is not there.
    """
    image = spec.image
    cache = cache_base(image.cache_dir)
    if image.kind is ImageKind.tiny:
        return tiny_boot(tiny.ensure(cache / "tiny", say), image.kernel_args, key_files)
    if image.kind is ImageKind.debian:
        return debian_boot(spec, debian.ensure(cache / "debian", image.packages, say))
    boot = disk_boot(spec)
    check_kernel(boot)
    return boot


def check_kernel(boot: Boot) -> None:
    """Raises ConfigError for a kernel or initrd of the user's that is not there."""
    for key, path in (("image.kernel", boot.kernel), ("image.initrd", boot.initrd)):
        if path and not path.is_file():
            raise ConfigError(f"{key}: there is no file {path}")


def with_built_disk(spec: RankSpec) -> RankSpec:
    """The spec with the disk that mvpnet builds as its boot disk, where it does, built or not.

    A prepared one is in the store.
    """
    if spec.image.kind is not ImageKind.debian or is_asked(spec.image):
        return spec
    folder = cache_base(spec.image.cache_dir) / "debian" / debian.image_digest(spec.image.packages)
    return changed(spec, {"image": {"path": escaped(debian.image_in(folder).disk), "format": "qcow2"}})


def debian_boot(spec: RankSpec, built: debian.DebianImage) -> Boot:
    arguments = " ".join(filter(None, [debian.KERNEL_COMMAND_LINE, spec.image.kernel_args]))
    return Boot(built.kernel, built.initrd, arguments, emulated_kernel_args=debian.EMULATED_KERNEL_ARGS)


def tiny_boot(built: tiny.TinyImage, more_args: str | None, key_files: tuple[Path, Path]) -> Boot:
    public, private = key_files
    return Boot(
        built.kernel,
        built.initrd,
        " ".join(filter(None, [tiny.KERNEL_COMMAND_LINE, more_args])),
        tuple(tiny.fw_cfg(public, private)),
    )


def disk_boot(spec: RankSpec) -> Boot:
    image = spec.image
    return Boot(
        Path(expand(image.kernel, spec, "image.kernel")) if image.kernel else None,
        Path(expand(image.initrd, spec, "image.initrd")) if image.initrd else None,
        image.kernel_args,
    )


def wire(
    spec: RankSpec,
    *,
    accel: Accel,
    ssh_port: int,
    link: LinkFd | LinkPath,
    qmp_fd: int,
    folder: Path,
    logs: RankLogs,
    boot: Boot,
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
        sandbox=spec.qemu.sandbox and programs.supports_sandbox(spec.qemu.binary),
        panic_device=programs.panic_device(spec.qemu.binary),
        memory_fd=memory_fd,
        saved_cpu_model=saved_cpu_model,
    )


def kernel_arguments(boot: Boot, accel: Accel) -> str | None:
    """The user's own come last, and win."""
    emulated = boot.emulated_kernel_args if accel is Accel.tcg else None
    return " ".join(filter(None, [emulated, boot.kernel_args])) or None


def search_domains(spec: RankSpec) -> list[str]:
    """net.domains, else this host's own from /etc/resolv.conf."""
    if spec.net.domains is not None:
        return spec.net.domains
    return programs.search_domains(_RESOLV_CONF.read_text(errors="replace")) if _RESOLV_CONF.is_file() else []
