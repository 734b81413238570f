"""Map the architectures that vendors write into names to those of qemu's programs, qemu-system-NAME."""

from __future__ import annotations

import platform
import re
from pathlib import Path

# Each key is the end of a program's name, qemu-system-KEY. The values are what vendors, distributions and uname write.
_OF_QEMU = {
    "x86_64": ("x86_64", "x86-64", "amd64", "x64", "em64t", "intel64"),
    "i386": ("i386", "i486", "i586", "i686", "ia32", "x86"),
    "aarch64": ("aarch64", "arm64", "armv8"),
    "arm": ("arm", "armhf", "armel", "armv6l", "armv7", "armv7l", "armv7hl", "armhfp"),
    "ppc64": ("ppc64", "ppc64le", "ppc64el", "powerpc64", "powerpc64le"),
    "ppc": ("ppc", "powerpc"),
    "s390x": ("s390x",),
    "riscv64": ("riscv64", "riscv64gc", "rv64"),
    "riscv32": ("riscv32", "rv32"),
    "loongarch64": ("loongarch64", "loong64"),
    "mips64el": ("mips64el", "mips64le", "mips64r6el"),
    "mips64": ("mips64",),
    "mipsel": ("mipsel", "mipsle"),
    "mips": ("mips",),
    "sparc64": ("sparc64",),
    "sparc": ("sparc",),
    "hppa": ("hppa", "parisc"),
    "alpha": ("alpha",),
    "m68k": ("m68k",),
    "sh4": ("sh4",),
    "xtensa": ("xtensa",),
    "microblaze": ("microblaze",),
    "or1k": ("or1k", "openrisc"),
}
#: name → qemu's
ARCHITECTURES = {name: qemu for qemu, names in _OF_QEMU.items() for name in names}
# What a program runs beside its own: its machines and CPUs include those of the smaller one.
_ALSO_RUNS = {"x86_64": ("i386",), "aarch64": ("arm",), "ppc64": ("ppc",), "mips64": ("mips",), "mips64el": ("mipsel",)}
# Words that are no architecture as often as they are one, in the name of a file.
_NOT_IN_NAMES = ("arm", "x86", "alpha", "mips", "sparc", "ppc")
_IN_NAME = "|".join(sorted((re.escape(name) for name in ARCHITECTURES if name not in _NOT_IN_NAMES), key=len)[::-1])
_WORD = re.compile(rf"(?<![A-Za-z0-9])({_IN_NAME})(?![A-Za-z0-9])", re.IGNORECASE)


def of_program(qemu_binary: str) -> str | None:
    """Return the architecture that a qemu program emulates, by its name; None for a name that does not tell."""
    match = re.fullmatch(r"qemu-system-(\w+)|(qemu-kvm|kvm)", Path(qemu_binary).name)
    if match is None:
        return None
    return ARCHITECTURES.get((match[1] or platform.machine()).lower())


def in_file_name(file_name: str) -> str | None:
    """Return the architecture in a file's name, as most vendors put it there; None without one, or with several."""
    found = {ARCHITECTURES[match.lower()] for match in _WORD.findall(file_name)}
    return found.pop() if len(found) == 1 else None


def runs(of_qemu: str, of_image: str) -> bool:
    """Return whether qemu-system-`of_qemu` runs what is made for the architecture `of_image`."""
    return of_image == of_qemu or of_image in _ALSO_RUNS.get(of_qemu, ())
