"""Why a guest did not come up: the phase it reached, its last words, and the likely cause."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvpnet.guest.states import GuestState
from mvpnet.spec.urls import masked

TAIL_BYTES = 16384
PANIC_LINES = 5  # shown of a panic, its words first
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\^_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # ECMA-48


@dataclass(frozen=True)
class Failure:
    """What there is to say about a guest that did not come up, or did not stay."""

    reached: GuestState
    reason: str
    cause: str | None
    qemu_lines: tuple[str, ...]
    console_lines: tuple[str, ...]


def last_lines(path: Path | None, count: int = 20, *, start: int = 0) -> tuple[str, ...]:
    """The last `count` lines of a log that are not blank, without terminal codes, from byte `start` on.

    A log that is not there has no lines.
    """
    try:
        with (path or Path(os.devnull)).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start, size - TAIL_BYTES))
            text = log.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", TERMINAL_CODES.sub("", text))]
    return tuple(line for line in lines if line)[-count:]


class GuestLogs:
    """The logs of one start of a guest, from where they ended when `mark` was called: before is an earlier start's."""

    def __init__(self, qemu_log: Path, console_log: Path | None) -> None:
        self.qemu_log = qemu_log
        self.console_log = console_log
        self.console_start = 0
        self._qemu_start = 0

    def mark(self) -> None:
        """Take all that is there by now for an earlier start's."""
        self._qemu_start = _size(self.qemu_log)
        self.console_start = _size(self.console_log) if self.console_log else 0

    def qemu_lines(self) -> tuple[str, ...]:
        """The last lines of qemu's own output."""
        return tuple(map(masked, last_lines(self.qemu_log, start=self._qemu_start)))

    def console_lines(self) -> tuple[str, ...]:
        """The last lines of the serial console; none where it is not kept."""
        return last_lines(self.console_log, start=self.console_start)

    def console_tail(self) -> tuple[str, ...]:
        """The end of the serial console, far enough back for a panic: its registers and calls come after its words."""
        return last_lines(self.console_log, TAIL_BYTES, start=self.console_start)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# What Linux says last of all when it panics and is not to start again (kernel/panic.c).
PANIC_ENDS = "---[ end Kernel panic - not syncing"
_PANIC = re.compile(r"Kernel panic - not syncing(?:: (.*?))?(?: \]---)?$")


def panic_words(console_lines: Iterable[str]) -> str:
    """What a guest's kernel said of its panic, as in "Attempted to kill init!"; "" if it said nothing."""
    said = [found[1] or "" for line in console_lines if (found := _PANIC.search(line))]
    return said[-1] if said else ""


def from_panic(console_lines: Sequence[str]) -> tuple[str, ...]:
    """The lines from the panic on, which tell more than the registers that follow; all where there is none."""
    at = [index for index, line in enumerate(console_lines) if "Kernel panic - not syncing" in line]
    return tuple(console_lines[at[0] :] if at else console_lines)


# What qemu says, up to 7.2 to 10.0, and what it means here.
QEMU_SAYS = [
    (
        "Could not set up host forwarding rule",
        "the ssh port is taken by another program on this host; set net.ssh_port",
    ),
    ("Could not access KVM kernel module", "KVM cannot be used here; set vm.accel=tcg or get access to /dev/kvm"),
    ("failed to initialize kvm", "KVM cannot be used here; set vm.accel=tcg"),
    (r'Failed to get (shared )?"\w+" lock', "the image is in use by another qemu; set image.use=overlay"),
    (
        r"cannot set up guest memory|Cannot allocate memory",
        "this host has too little memory for the guest; lower vm.memory or the guests per host",
    ),
    ("No space left on device", "the disk is full; set job.scratch_dir to one with room"),
    ("network backend 'user' is not compiled", "this qemu was built without its user network (slirp)"),
    (r"(stream|dgram).*(netdev backend type|Invalid parameter)", "this qemu is older than 7.2; set qemu.binary"),
    (r"unable to find CPU model|CPU model .* requires", "this qemu, or this host, does not have vm.cpu_model"),
    ("seccomp", "this host does not let qemu have its sandbox; qemu.sandbox=false leaves it out"),
    ("unsupported machine type", "this qemu does not have vm.machine"),
    (r"invalid option|Invalid parameter|not a valid device model name", "qemu refused an option; see qemu.extra_args"),
    (r"Could not open .*Permission denied", "an image may not be read, or written where image.use=direct"),
    (r"Could not open .*No such file", "an image, or the file that an overlay stands on, is not there"),
    (
        r"could not (open|load) kernel|invalid kernel|error reading initrd",
        "image.kernel or image.initrd is not there, or not one",
    ),
]

# What a guest says on its console.
CONSOLE_SAYS = [
    (
        r"No bootable device|not a bootable disk|Boot failed",
        "the boot disk is not bootable, or needs UEFI; see image.path",
    ),
    (
        r"VFS: Unable to mount root|Cannot open root device|ALERT!.*does not exist|dracut.*(timeout|Could not boot)",
        "the guest's kernel did not find its root disk; see image.path and image.kernel_args",
    ),
    (
        r"Out of memory: Killed process|System is deadlocked on memory|Initramfs unpacking failed: write error",
        "the guest ran out of memory; raise vm.memory",
    ),
    ("Kernel panic", "the guest's kernel panicked"),
    (r"emergency mode|emergency shell", "the guest's boot stopped in its emergency shell"),
    (r"DataSourceNone|cloud-init.*(Traceback|ERROR|[Ff]ailed)", "cloud-init in the guest failed; see its seed"),
]
BOOTED_SAYS = [
    (r"(?<!Last )login:", "the guest is up, but no ssh server answers: is it enabled, and has its user NIC DHCP?"),
]


def failure_of(
    logs: GuestLogs, reached: GuestState, reason: str, *, known_cause: str | None, panicked: bool
) -> Failure:
    """Say why a guest did not come up: `known_cause`, or what its last words make likely."""
    qemu_lines, console_lines = logs.qemu_lines(), logs.console_lines()
    if panicked:
        console_lines = from_panic(logs.console_tail())[:PANIC_LINES]
    cause = known_cause or likely_cause(reached, qemu_lines, console_lines if logs.console_log else None)
    return Failure(reached, reason, cause, qemu_lines, console_lines)


def likely_cause(reached: GuestState, qemu_lines: Iterable[str], console_lines: Iterable[str] | None) -> str | None:
    """What is most likely wrong, and what to do; None when the last words tell nothing.

    `console_lines` is None when nobody kept them.
    """
    said = None if console_lines is None else list(console_lines)
    if cause := _first_match(QEMU_SAYS, qemu_lines) or _first_match(CONSOLE_SAYS, said or ()):
        return cause
    if reached is GuestState.loading:
        return "qemu could not load the memory that was saved; its last lines say why"
    if reached is GuestState.booting and (cause := _first_match(BOOTED_SAYS, said or ())):
        return cause
    if reached is GuestState.booting and said == []:
        return "nothing came on its serial console: the image may not boot, or not use it (console=ttyS0; Arm: ttyAMA0)"
    return None


FAILED_SETUP = "what the seed asks for failed; boot.wait_for=ssh lets the guest come up all the same, to look at it"


def unfinished_setup(last_words: str) -> str:
    """What is wrong with a guest on which cloud-init was waited for in vain."""
    if last_words:
        return f"ssh answers, but nobody could ask cloud-init how far it is: {last_words}"
    return "cloud-init was still at work; raise boot.timeout_s, or see what takes so long, with boot.wait_for=ssh"


def _first_match(table: list[tuple[str, str]], lines: Iterable[str]) -> str | None:
    text = "\n".join(lines)
    return next((cause for pattern, cause in table if re.search(pattern, text)), None)
