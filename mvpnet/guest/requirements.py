"""What a rank needs of its host before anything is made for its guest; refused here, naming the key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import HostError
from mvpnet.host import kvm, names, programs
from mvpnet.paths import UNIX_PATH_MAX, scratch_base
from mvpnet.qemu import binary
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel, NetKind, NetSocket, WaitFor

_UNIX_SOCKETS = Path("/proc/net/unix")


@dataclass(frozen=True)
class HostPlan:
    """What this host gives a rank's guest: its accelerator, with the reason, and the name of its user."""

    accel: Accel
    accel_why: str
    user: str


def plan_host(spec: RankSpec) -> HostPlan:
    """Check that this host can run the rank's guest, and choose what it gives.

    Raises:
        HostError: a program, folder or accelerator is not there, or a socket's path is too long.
        ConfigError: a name of a user or domain is none.
    """
    check_host(spec)
    accel, accel_why = kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    return HostPlan(accel, accel_why, spec.image.user or names.default_user())


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
    binary.check_netdev(spec.qemu.binary, spec.net.kind)


def check_ssh(spec: RankSpec) -> None:
    """Raises HostError where the guest is to be asked something by ssh, and there is none."""
    if spec.boot.wait_for is WaitFor.cloud_init:
        programs.find_program("ssh", "boot.wait_for")


def check_settings(spec: RankSpec) -> None:
    """Raises ConfigError for names that are none, HostError for folders and a user's name that are not there."""
    names.check_domains(spec.net.domains or [])
    if spec.image.user:
        names.check_user(spec.image.user)
    else:
        names.default_user()
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
