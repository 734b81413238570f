"""Query a qemu program for its version, netdevs, sandbox, devices, machines and block drivers."""

from __future__ import annotations

import functools
import re
import subprocess

from mvpnet.errors import HostError
from mvpnet.host.programs import architecture
from mvpnet.spec.schema import NetKind

# No obsolete system calls, no other user or group, no programs, no priorities (qemu's invocation, -sandbox).
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ALIAS = re.compile(r"(\S+) .*\(alias of (\S+)\)")  # in a line of -machine help
_ASK_TIMEOUT_S = 30  # for a program to answer a query


def qemu_version(binary: str) -> tuple[int, ...] | None:
    """Return the version that the program prints, as (7, 2, 22); None for a program other than qemu."""
    match = re.search(r"QEMU emulator version (\d+(?:\.\d+)+)", _ask(binary, "--version"))
    return tuple(int(part) for part in match[1].split(".")) if match else None


def netdevs(binary: str) -> frozenset[str]:
    """Return the names listed by -netdev help; empty for a program that prints no list."""
    _, heading, names = _ask(binary, "-netdev", "help", *_any_machine(binary)).partition("netdev backend types:")
    return frozenset(names.split()) if heading else frozenset()


def supports_netdev(binary: str, kind: NetKind) -> bool:
    """Return whether this qemu has the netdev. True for a program that prints no list, such as a stand-in for qemu."""
    listed = netdevs(binary)
    return not listed or kind.name in listed


def check_netdev(binary: str, kind: NetKind) -> None:
    """Refuse a qemu without the netdev, or without the user network, which carries ssh to the guests.

    Raises:
        HostError: Names net.kind or qemu.binary.
    """
    version = ".".join(map(str, qemu_version(binary) or ()))
    if not supports_netdev(binary, kind):
        raise HostError(
            f"net.kind: {binary} (qemu {version}) has no -netdev {kind.name}",
            hint="qemu 7.2 and later have it: set qemu.binary",
        )
    if (listed := netdevs(binary)) and "user" not in listed:
        raise HostError(
            f"qemu.binary: {binary} (qemu {version}) has no -netdev user, by which guests are reached: it was built "
            "without slirp",
            hint="take your distribution's qemu, or build it with libslirp (configure --enable-slirp)",
        )


def has_block_driver(binary: str, name: str) -> bool:
    """Return whether this qemu has a block driver. True for a program that prints no list, or does not start.

    Some distributions build it with a list of the only ones to have (configure --block-drv-rw-whitelist).
    """
    try:
        said = _ask(binary, "-drive", "format=help", *_any_machine(binary))
    except HostError:
        return True
    _, heading, names = said.partition("Supported formats:")
    return not heading or name in names.partition("\n")[0].split()


def machine_name(binary: str, machine: str | None) -> str | None:
    """Return the full name of a machine, as pc-q35-7.2 for q35; the default's for None, and None if there is none.

    A name that this program does not list is returned as it is.
    """
    lines = _ask(binary, "-machine", "help").splitlines()
    if machine is None:
        return next((line.split()[0] for line in lines if line.endswith("(default)")), None)
    aliases = (_ALIAS.match(line) for line in lines)
    return next((match[2] for match in aliases if match and match[1] == machine), machine)


def supports_sandbox(binary: str) -> bool:
    """Return whether this qemu has its seccomp sandbox with these options. It reads options in order up to -version."""
    return "QEMU emulator version" in _ask(binary, "-sandbox", SANDBOX, "-version")


def panic_device(binary: str) -> str | None:
    """Return the device by which a guest's kernel reports a panic to this qemu; None for a qemu without one.

    On x86 it is the one on the ISA bus, which older kernels support too (docs/specs/pvpanic.rst of qemu).
    """
    devices = _ask(binary, "-device", "help", *_any_machine(binary))
    return next((name for name in ("pvpanic", "pvpanic-pci") if f'name "{name}"' in devices), None)


def _any_machine(binary: str) -> tuple[str, ...]:
    """Return the words for a question to a qemu that has no default machine, and answers none without one."""
    return () if architecture(binary) in ("x86_64", "i386") else ("-machine", "none")


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
