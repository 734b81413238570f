"""What this host has: programs, KVM, free ports, search domains, and what the qemu on it can do."""

from __future__ import annotations

import difflib
import errno
import functools
import getpass
import grp
import os
import platform
import pwd
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError, HostError
from mvpnet.spec.schema import Accel, NetKind

_DOMAIN = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")  # useradd(8), with the capitals and dots of site directories
_LAST_PORT = 65535
# No obsolete system calls, no other user or group, no programs, no priorities (qemu's invocation, -sandbox).
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ASK_TIMEOUT_S = 30  # for a program that is asked about itself


def choose_accel(wanted: Accel, cpuinfo: str, kvm_trouble: str | None, host: str, guest: str) -> tuple[Accel, str]:
    """KVM or TCG, and why. Looks at nothing: `cpuinfo` is the text of /proc/cpuinfo, `kvm_trouble` says why /dev/kvm
    does not open (None: it does), `host` and `guest` are the architectures of this host and of the machine.

    KVM that is asked for is taken whenever /dev/kvm opens, also where auto would not take it.
    Raises HostError when KVM is asked for and impossible.
    """
    if wanted is Accel.tcg:
        return Accel.tcg, "vm.accel asks"
    flags_missing = lacks_virtualization(cpuinfo, host)
    trouble = kvm_trouble
    if host != guest and (host, guest) != ("x86_64", "i386"):
        trouble = f"this host is {host} and the machine {guest}"
    if wanted is Accel.kvm:
        if trouble:
            raise HostError(f"vm.accel: kvm cannot be used: {trouble}", hint="vm.accel=auto or vm.accel=tcg")
        return Accel.kvm, "vm.accel asks" + (", though the CPU shows neither vmx nor svm" if flags_missing else "")
    if trouble:
        return Accel.tcg, trouble
    if flags_missing:
        return Accel.tcg, "the CPU shows neither vmx nor svm (a virtual machine without nested virtualization?)"
    return Accel.kvm, "/dev/kvm opens"


def lacks_virtualization(cpuinfo: str, host: str) -> bool:
    """Whether the CPU of a host of this architecture says by its flags that KVM cannot work; only those of x86 do."""
    return host in ("x86_64", "i686") and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo, re.MULTILINE)


def resolve_accel(wanted: Accel, binary: str = "qemu-system-x86_64") -> tuple[Accel, str]:
    """`choose_accel` for this host and this qemu."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    return choose_accel(wanted, cpuinfo, look_at_kvm().trouble, platform.machine(), architecture(binary))


def architecture(qemu_binary: str) -> str:
    """Of the machine that this qemu makes, by its name: x86_64 of qemu-system-x86_64; this host's for another name."""
    match = re.fullmatch(r"qemu-system-(\w+)", Path(qemu_binary).name)
    return match[1] if match else platform.machine()


@dataclass(frozen=True)
class KvmDevice:
    """/dev/kvm: whether it opens and, where it is and does not, who may open it."""

    error: int | None = None  # errno; None: it opens
    mode: str = ""  # as ls -l has it
    owner: str = ""
    group: str = ""
    in_group: bool = False  # whether this process is

    @property
    def trouble(self) -> str | None:
        """Why it cannot be used, in words."""
        if self.error is None:
            return None
        if self.error == errno.ENOENT:
            return "there is no /dev/kvm"
        if self.error == errno.EPERM:
            return "/dev/kvm may not be opened here: a control group forbids it (a container's, a batch system's)"
        if self.error == errno.EACCES and self.mode:
            member = "is" if self.in_group else "is not"
            return (
                f"/dev/kvm may not be opened by this user: it is {self.mode} {self.owner} {self.group}, and this user "
                f"{member} in the group {self.group}"
            )
        return f"/dev/kvm does not open for reading and writing: {os.strerror(self.error)}"


def look_at_kvm(device: Path = Path("/dev/kvm")) -> KvmDevice:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        code = error.errno or errno.EIO
    else:
        return KvmDevice()
    try:
        found = device.stat()
    except OSError:
        return KvmDevice(code)
    return KvmDevice(
        code,
        stat.filemode(found.st_mode),
        _name_of(lambda: pwd.getpwuid(found.st_uid).pw_name, found.st_uid),
        _name_of(lambda: grp.getgrgid(found.st_gid).gr_name, found.st_gid),
        found.st_gid in {os.getegid(), *os.getgroups()},
    )


def _name_of(look_up: Callable[[], str], number: int) -> str:
    try:
        return look_up()
    except KeyError:
        return str(number)


def find_program(name: str, key: str) -> Path:
    """The program's full path, by PATH unless `name` has a slash. Raises HostError, naming `key`."""
    if found := shutil.which(name):
        return Path(found).absolute()
    if "/" in name:
        path = Path(name)
        if path.is_dir():
            raise HostError(f"{key}: {name} is a folder")
        if path.exists():
            raise HostError(f"{key}: {name} may not be executed by this user")
        raise HostError(f"{key}: there is no {name}", hint=_near_programs(path.name, [str(path.parent)]))
    raise HostError(f"{key}: there is no program {name!r} on PATH", hint=_near_programs(name, os.get_exec_path()))


def find_qemu_img(qemu_binary: str) -> Path:
    """qemu-img beside this qemu, else on PATH: a qemu with a prefix of its own comes with its own. Raises HostError."""
    qemu = shutil.which(qemu_binary)
    if qemu and (beside := shutil.which(str(Path(qemu).resolve().parent / "qemu-img"))):
        return Path(beside)
    if found := shutil.which("qemu-img"):
        return Path(found).absolute()
    raise HostError(
        "there is no qemu-img beside qemu.binary or on PATH",
        hint="it is in the package qemu-utils or qemu-img; or avoid it: image.use=snapshot",
    )


def _near_programs(name: str, folders: Sequence[str]) -> str | None:
    names = {entry for folder in folders if Path(folder).is_dir() for entry in _entries(folder)}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    if name.startswith("qemu") and Path("/usr/libexec/qemu-kvm").exists():
        near.append("/usr/libexec/qemu-kvm")  # where RHEL and its kin keep it, off PATH
    return f"there is {', '.join(near)}" if near else None


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names only, and PATH may hold thousands
    except OSError:
        return []


def reserve_ssh_port(rank: int, base: int, most_ranks_on_one_host: int) -> tuple[int, socket.socket]:
    """A port on 127.0.0.1 that is free: base + rank, else the next in strides that no other rank here tries.

    The stride is the most ranks on one host, rounded up to 100, as the C program has it. qemu is to bind the port
    itself, so what holds it until then against other jobs of mvpnet is a socket, for the caller to close, with an
    abstract name (unix(7)), which lives in the same network namespace. Raises HostError when none is free.
    """
    tried = list(_ssh_ports(rank, base, most_ranks_on_one_host))
    for port in tried:
        if holder := _reserved(port):
            return port, holder
    raise HostError(
        f"rank {rank}: no port for ssh is free on 127.0.0.1: {len(tried)} tried from {base + rank} up",
        hint="set net.ssh_port lower" if base + rank > _LAST_PORT else "set net.ssh_port to another range",
    )


def _ssh_ports(rank: int, base: int, most_ranks_on_one_host: int) -> Iterator[int]:
    stride = max(1, -(-most_ranks_on_one_host // 100)) * 100
    yield from range(base + rank, _LAST_PORT + 1, stride)


def _reserved(port: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0mvpnet.ssh.{port}")
    except OSError:  # by another rank
        holder.close()
        return None
    if _is_free(port):
        return holder
    holder.close()
    return None


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as qemu's user network does
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def search_domains(resolv_conf: str) -> list[str]:
    """The host's DNS search domains: those of the last search or domain line (resolv.conf(5)), without ".".

    What is no domain name is left out: it could not be put on qemu's command line.
    """
    lines = [words for line in resolv_conf.splitlines() if (words := line.split()) and words[0] in ("search", "domain")]
    return [domain for domain in lines[-1][1:] if domain != "." and _DOMAIN.fullmatch(domain)] if lines else []


def check_domains(domains: Sequence[str], key: str = "net.domains") -> None:
    """Raises ConfigError, naming `key`, for what is no domain name."""
    for domain in domains:
        if not _DOMAIN.fullmatch(domain):
            raise ConfigError(f"{key}: {domain!r} is no domain name", hint="letters, digits, dots and dashes")


def check_user(user: str, key: str = "image.user") -> None:
    """Raises ConfigError, naming `key`, for what is no user's name."""
    if not _USER.fullmatch(user):
        raise ConfigError(f"{key}: {user!r} is no user's name", hint="letters, digits, dot, dash and underscore")


def default_user() -> str:
    """The name of the user who runs this. Raises HostError when the host does not know it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise HostError("image.user: this host has no name for the user who runs this; say who logs in") from error


def check_folder(path: Path, key: str, *, write: bool = False) -> None:
    """Raises HostError, naming `key`, unless there is a folder that we may enter and read, or write too."""
    if not path.is_dir():
        raise HostError(f"{key}: {path} is {'no folder' if path.exists() else 'not there'}")
    if not os.access(path, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
        raise HostError(f"{key}: {path} may not be {'written' if write else 'read'} by this user")


def qemu_version(binary: str) -> tuple[int, ...] | None:
    """(7, 2, 22) as the program says it, None for a program that is no qemu."""
    match = re.search(r"QEMU emulator version (\d+(?:\.\d+)+)", _ask(binary, "--version"))
    return tuple(int(part) for part in match[1].split(".")) if match else None


def netdevs(binary: str) -> frozenset[str]:
    """What -netdev help lists: a heading, then a name a line. Empty for a program that gives no list."""
    _, heading, names = _ask(binary, "-netdev", "help").partition("netdev backend types:")
    return frozenset(names.split()) if heading else frozenset()


def supports_netdev(binary: str, kind: NetKind) -> bool:
    """Whether this qemu has the netdev. True of a program that gives no list at all, such as a stand-in for qemu."""
    listed = netdevs(binary)
    return not listed or kind.name in listed


def check_netdev(binary: str, kind: NetKind) -> None:
    """Raises HostError, naming net.kind, for a qemu without the netdev."""
    if not supports_netdev(binary, kind):
        version = ".".join(map(str, qemu_version(binary) or ()))
        raise HostError(
            f"net.kind: {binary} (qemu {version}) has no -netdev {kind.name}",
            hint="qemu 7.2 and later have it: set qemu.binary",
        )


def supports_sandbox(binary: str) -> bool:
    """Whether this qemu has its seccomp sandbox, with these options. It reads its options in order up to -version."""
    return "QEMU emulator version" in _ask(binary, "-sandbox", SANDBOX, "-version")


def panic_device(binary: str) -> str | None:
    """The device by which a guest's kernel tells this qemu that it panicked; None for a qemu without one.

    On x86 that on the ISA bus, which older kernels know too (docs/specs/pvpanic.rst of qemu).
    """
    devices = _ask(binary, "-device", "help")
    return next((name for name in ("pvpanic", "pvpanic-pci") if f'name "{name}"' in devices), None)


@functools.cache
def _ask(binary: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [binary, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S
        )
    except OSError as error:
        raise HostError(f"qemu.binary: {binary} does not start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"qemu.binary: {binary} {' '.join(arguments)} gave no answer in {_ASK_TIMEOUT_S} s") from error
    return done.stdout
