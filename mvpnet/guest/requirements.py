"""Requirements of a rank on its host, checked before anything is made for its guest; errors name the key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError, HostError, ImageError
from mvpnet.host import kvm, names, programs
from mvpnet.paths import UNIX_PATH_MAX, scratch_base
from mvpnet.qemu import binary
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel, ImageKind, NetKind, NetSocket, WaitFor
from mvpnet.ssh import identity_line, nameable

_BUILT, _BUILT_FOR = (ImageKind.tiny, ImageKind.debian), "x86_64"
_UNIX_SOCKETS = Path("/proc/net/unix")
_SSH_HINT = "job.scratch_dir=DIR, or TMPDIR: a folder without quotes, backslashes, control characters, braces and $"


@dataclass(frozen=True)
class HostPlan:
    """Choices for a rank's guest on this host: the accelerator, with the reason, and the user's name."""

    accel: Accel
    accel_why: str
    user: str


def plan_host(spec: RankSpec) -> HostPlan:
    """Check that this host can run the rank's guest, and choose its accelerator and user.

    Raises:
        HostError: A program, folder or accelerator is missing, or a socket's path is too long.
        ImageError: The image is of another architecture than qemu's.
        ConfigError: The name of a user or domain is invalid.
    """
    check_host(spec)
    accel, accel_why = kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    return HostPlan(accel, accel_why, spec.image.user or names.default_user())


def check_host(spec: RankSpec) -> None:
    """Refuse a rank whose programs, folders or names cannot be used.

    Raises:
        HostError, ImageError, ConfigError: With the key that names the cause.
    """
    check_qemu(spec)
    check_ssh(spec)
    check_settings(spec)
    check_login_paths(spec)
    for key, path in unix_socket_paths(spec):
        check_socket_path(path, key)


def check_qemu(spec: RankSpec) -> None:
    """Check qemu.

    Raises:
        HostError: qemu is missing, or lacks the netdev or the user network.
    """
    programs.find_program(spec.qemu.binary, "qemu.binary")
    binary.check_netdev(spec.qemu.binary, spec.net.kind)


def check_ssh(spec: RankSpec) -> None:
    """Check the ssh client.

    Raises:
        HostError: The job has to reach the guest by ssh, and ssh is missing.
    """
    if spec.boot.wait_for is WaitFor.cloud_init:
        programs.find_program("ssh", "boot.wait_for")


def check_settings(spec: RankSpec) -> None:
    """Check names, folders, and the architecture of a built image.

    Raises:
        ConfigError: A name is invalid.
        HostError: A folder is missing, or the user's name cannot be determined.
        ImageError: The image is of another architecture than qemu's.
    """
    check_built_image(spec)
    names.check_domains(spec.net.domains or [])
    if not spec.image.user:
        names.default_user()
    if spec.net.tftp_dir:
        programs.check_folder(Path(spec.net.tftp_dir), "net.tftp_dir")
    if spec.net.socket is NetSocket.path:
        programs.check_folder(Path(spec.net.socket_dir), "net.socket_dir", write=True)


def check_login_paths(spec: RankSpec) -> None:
    """Check that ssh's configuration can name the job's private key.

    Raises:
        ConfigError: It cannot name the folder that the key is in; names the folder's key.
    """
    scratch = scratch_base(spec.scratch_dir)
    if spec.boot.wait_for is WaitFor.cloud_init and identity_line(scratch) is None:
        raise ConfigError(f"job.scratch_dir: {str(scratch)!r} is no path that ssh takes a key from", hint=_SSH_HINT)
    if spec.rank == 0 and not nameable(spec.run_dir) and not nameable(scratch):
        raise ConfigError(
            f"hydra.run.dir: neither {str(spec.run_dir)!r} nor the scratch folder {str(scratch)!r} is a path that "
            "ssh takes a key from",
            hint=_SSH_HINT,
        )


def check_built_image(spec: RankSpec) -> None:
    """Check that qemu runs the architecture of the image that mvpnet builds.

    Raises:
        ImageError: It does not.
    """
    kind, architecture = spec.image.kind, programs.architecture(spec.qemu.binary)
    if kind in _BUILT and architecture != _BUILT_FOR:
        raise ImageError(
            f"image.kind: {kind.name} is built for {_BUILT_FOR}, and {spec.qemu.binary} is of {architecture}",
            hint=f"an image for {architecture}, as in image=file image.path=disk.qcow2; or another qemu.binary",
        )


def unix_socket_paths(spec: RankSpec) -> list[tuple[str, Path]]:
    """Return the paths of the guest's unix sockets, each with the key that sets its folder."""
    links = socket_paths(spec) if spec.net.socket is NetSocket.path else []
    console = console_socket(scratch_base(spec.scratch_dir) / f"{spec.job_name}.{spec.rank}.9999999")
    return [*(("net.socket_dir", path) for path in links), ("job.scratch_dir", console)]


def check_socket_path(path: Path, key: str) -> None:
    """Check the length of a unix socket's path.

    Raises:
        HostError: It exceeds Linux's 107 bytes (unix(7)).
    """
    length = len(os.fsencode(path))
    if length > UNIX_PATH_MAX:
        raise HostError(
            f"{key}: the socket path {path} has {length} bytes and may have {UNIX_PATH_MAX}",
            hint=f"set {key} to a folder with a shorter path, such as /tmp",
        )


def check_unused(path: Path, job_name: str) -> None:
    """Check that no process uses a unix socket's path (proc(5), /proc/net/unix).

    Raises:
        HostError: A living process has a socket of this path.
    """
    if str(path) in {line.split()[-1] for line in _UNIX_SOCKETS.read_text(errors="replace").splitlines()}:
        raise HostError(
            f"net.socket_dir: the socket {path} is in use, by another job of the name {job_name}",
            hint="set job.name or net.socket_dir to another, or leave out net.socket=path",
        )


def console_socket(scratch: Path) -> Path:
    return scratch / "console.sock"


def socket_paths(spec: RankSpec) -> list[Path]:
    """Return the paths of the link's sockets with net.socket=path, mvpnet's first, named as by the C program."""
    stem = f"mvp.{spec.job_name}.{spec.rank}"
    names = [f"{stem}.sock"] if spec.net.kind is NetKind.stream else [f"{stem}.qo-rsock", f"{stem}.qi-lsock"]
    return [Path(spec.net.socket_dir) / name for name in names]
