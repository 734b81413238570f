"""Query a qemu program for its version, netdevs, sandbox and devices."""

from __future__ import annotations

import functools
import re
import subprocess

from mvpnet.errors import HostError
from mvpnet.spec.schema import NetKind

# No obsolete system calls, no other user or group, no programs, no priorities (qemu's invocation, -sandbox).
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ASK_TIMEOUT_S = 30  # for a program to answer a query


def qemu_version(binary: str) -> tuple[int, ...] | None:
    """Return the version that the program prints, as (7, 2, 22); None for a program other than qemu."""
    match = re.search(r"QEMU emulator version (\d+(?:\.\d+)+)", _ask(binary, "--version"))
    return tuple(int(part) for part in match[1].split(".")) if match else None


def netdevs(binary: str) -> frozenset[str]:
    """Return the names listed by -netdev help; empty for a program that prints no list."""
    _, heading, names = _ask(binary, "-netdev", "help").partition("netdev backend types:")
    return frozenset(names.split()) if heading else frozenset()


def supports_netdev(binary: str, kind: NetKind) -> bool:
    """Return whether this qemu has the netdev. True for a program that prints no list, such as a stand-in for qemu."""
    listed = netdevs(binary)
    return not listed or kind.name in listed


def check_netdev(binary: str, kind: NetKind) -> None:
    """Refuse a qemu without the netdev.

    Raises:
        HostError: Names net.kind.
    """
    if not supports_netdev(binary, kind):
        version = ".".join(map(str, qemu_version(binary) or ()))
        raise HostError(
            f"net.kind: {binary} (qemu {version}) has no -netdev {kind.name}",
            hint="qemu 7.2 and later have it: set qemu.binary",
        )


def supports_sandbox(binary: str) -> bool:
    """Return whether this qemu has its seccomp sandbox with these options. It reads options in order up to -version."""
    return "QEMU emulator version" in _ask(binary, "-sandbox", SANDBOX, "-version")


def panic_device(binary: str) -> str | None:
    """Return the device by which a guest's kernel reports a panic to this qemu; None for a qemu without one.

    On x86 it is the one on the ISA bus, which older kernels support too (docs/specs/pvpanic.rst of qemu).
    """
    devices = _ask(binary, "-device", "help")
    return next((name for name in ("pvpanic", "pvpanic-pci") if f'name "{name}"' in devices), None)


@functools.cache
def _ask(binary: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_ASK_TIMEOUT_S,
        )
    except OSError as error:
        raise HostError(f"qemu.binary: {binary} does not start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"qemu.binary: {binary} {' '.join(arguments)} gave no answer in {_ASK_TIMEOUT_S} s") from error
    return done.stdout
