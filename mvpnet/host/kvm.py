"""Find out whether this host has KVM, and select the accelerator of a guest."""

from __future__ import annotations

import errno
import grp
import os
import platform
import pwd
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import HostError
from mvpnet.host.programs import architecture
from mvpnet.spec.schema import Accel


def choose_accel(wanted: Accel, cpuinfo: str, kvm_trouble: str | None, host: str, guest: str) -> tuple[Accel, str]:
    """Select KVM or TCG. This function is pure.

    A request for KVM is granted whenever /dev/kvm opens, even where `auto` would not select it.

    Args:
        wanted: The accelerator of the configuration.
        cpuinfo: Text of /proc/cpuinfo.
        kvm_trouble: Reason why /dev/kvm does not open; None if it opens.
        host: Architecture of this host.
        guest: Architecture of the guest.

    Returns:
        The accelerator, and the reason.

    Raises:
        HostError: KVM is requested and not possible.
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
    """Return whether the CPU's flags rule out KVM. Only x86 has such flags."""
    return host in ("x86_64", "i686") and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo, re.MULTILINE)


def resolve_accel(wanted: Accel, binary: str = "qemu-system-x86_64") -> tuple[Accel, str]:
    """Select the accelerator, as `choose_accel`, for this host and this qemu."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    return choose_accel(wanted, cpuinfo, look_at_kvm().trouble, platform.machine(), architecture(binary))


@dataclass(frozen=True)
class KvmDevice:
    """State of /dev/kvm: whether it opens and, where it exists and does not open, who may open it."""

    error: int | None = None  # errno; None if it opens
    mode: str = ""  # in the format of ls -l
    owner: str = ""
    group: str = ""
    in_group: bool = False  # whether this process is in the group

    @property
    def trouble(self) -> str | None:
        """Return the reason why it cannot be used, as text for people."""
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
