"""A guest's life in words: the states it passes, and the ways in which it ends. Pure.

    prepared → starting → booting (→ configuring) → up → running → stopping → gone
                                  (→ loading → loaded)

States are passed in order, each at most once; a guest that fails skips to the end. `configuring` is passed only by a
guest whose cloud-init is waited for, `loading` and `loaded` by one whose memory comes from a save.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

TERMINATED = 128 + signal.SIGTERM  # what a script exits with when SIGTERM ended the qemu that it ran


class GuestState(Enum):
    prepared = "prepared"  # nothing runs yet
    starting = "starting"  # monwrap, then qemu, are on their way
    booting = "booting"  # qemu runs its machine
    loading = "loading"  # qemu reads the memory that was saved
    loaded = "loaded"  # it has; the guest goes on when all ranks' have
    configuring = "configuring"  # ssh answered; cloud-init in it is at work, and is waited for
    up = "up"  # ssh answered, cloud-init is done where that is waited for, and the link is connected
    running = "running"  # all ranks' guests are up
    stopping = "stopping"  # by us, from outside, or by the guest itself
    gone = "gone"  # qemu and monwrap have ended

    def precedes(self, other: GuestState) -> bool:
        order = list(GuestState)
        return order.index(self) < order.index(other)


class Ending(Enum):
    powered_off = "powered_off"  # the guest did it
    stopped = "stopped"  # in order, because we or somebody else wanted it
    killed = "killed"  # we wanted it, and it took SIGKILL
    panicked = "panicked"  # the guest's kernel gave up
    crashed = "crashed"  # qemu or monwrap gave up
    failed_to_start = "failed_to_start"  # there was no qemu


@dataclass(frozen=True)
class GuestEnd:
    """How a guest ended. `exit_code` and `signal` are qemu's, both None when it never ran or nobody saw its end."""

    how: Ending
    reason: str
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()  # of qemu's own output


@dataclass(frozen=True)
class Shutdown:
    """qemu's SHUTDOWN event (qapi/run-state.json, ShutdownCause)."""

    guest: bool
    reason: str


@dataclass(frozen=True)
class Exit:
    """How qemu's process ended, and what was seen of it before."""

    code: int | None
    signal: int | None
    asked: bool = False  # its rank wanted it to end
    steps: tuple[str, ...] = ()  # of monwrap's ladder
    shutdown: Shutdown | None = None
    had_run: bool = True  # it got as far as to run its machine
    panic: str | None = None  # its kernel panicked, and this is what it said of that; "" if nobody heard


def how_it_ended(seen: Exit) -> Ending:
    if seen.panic is not None:
        return Ending.panicked
    if "sigkill" in seen.steps:
        return Ending.killed
    if seen.signal not in (None, signal.SIGTERM) or seen.code not in (None, 0, TERMINATED):
        return Ending.crashed
    if seen.asked or seen.steps:
        return Ending.stopped
    if seen.shutdown:
        return _by_shutdown(seen.shutdown)
    return Ending.powered_off if seen.code == 0 and seen.had_run else Ending.crashed


def _by_shutdown(shutdown: Shutdown) -> Ending:
    if shutdown.reason == "guest-panic":
        return Ending.panicked
    if shutdown.reason == "host-error":
        return Ending.crashed
    return Ending.powered_off if shutdown.guest else Ending.stopped


def why_it_ended(seen: Exit, last_lines: tuple[str, ...]) -> str:
    """Say how the guest ended, in a sentence."""
    cause = f" ({seen.shutdown.reason})" if seen.shutdown else ""
    match how_it_ended(seen):
        case Ending.panicked:
            return "the guest panicked (kernel panic)" + (f": {seen.panic}" if seen.panic else "")
        case Ending.killed:
            return "qemu was killed, as nothing gentler ended it" if "sigterm" in seen.steps else "qemu was killed"
        case Ending.stopped if "sigterm" in seen.steps:
            return "stopped by SIGTERM"
        case Ending.stopped:
            return "stopped" + cause
        case Ending.powered_off:
            return "the guest powered off" + cause
        case _:
            said = f": {last_lines[-1]}" if last_lines else ""
            return _process_end(seen) + cause + said


def _process_end(seen: Exit) -> str:
    if seen.signal == signal.SIGKILL:
        return "qemu was killed from outside (SIGKILL), perhaps for want of memory"
    if seen.signal is not None:
        return f"qemu was killed by {signal.Signals(seen.signal).name}"
    return f"qemu ended with exit code {seen.code}"
