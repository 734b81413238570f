"""How a guest ended, from what was seen of it and from its logs. What is seen is collected here while it lives."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loguru import logger

from mvpnet.guest import monwrap_client as monwrap
from mvpnet.guest.diagnosis import GuestLogs, panic_words
from mvpnet.guest.states import Ending, Exit, GuestEnd, Shutdown, how_it_ended, why_it_ended


@dataclass
class Observations:
    """What was seen of one guest and its qemu."""

    qemu_pid: int | None = None
    qemu_version: str | None = None  # once it has greeted on QMP
    asked: bool = False  # its rank wanted it to end
    steps: tuple[str, ...] = ()  # of monwrap's ladder
    shutdown: Shutdown | None = None
    panicked: bool = False  # told by an event of its own, or by the console
    refusal: str | None = None  # why qemu could not be started
    exit: tuple[int | None, int | None] | None = None  # qemu's exit code and signal

    @property
    def has_panicked(self) -> bool:
        """Also where its panic was told in no event of its own, or qemu had been told to shut down for it."""
        return self.panicked or (self.shutdown is not None and self.shutdown.reason == "guest-panic")

    def take(self, event: monwrap.Event) -> None:
        """Take what monwrap tells, as far as it matters in the end."""
        match event:
            case monwrap.QemuStarted(pid):
                self.qemu_pid = pid
            case monwrap.QemuNotStarted(part, reason):
                key = "qemu.binary" if part == "program" else "logging.dir"
                self.refusal = f"qemu could not be started: {reason}; see the key {key}"
            case monwrap.QmpReady(version):
                self.qemu_version = version
            case monwrap.QmpEvent(name, data):
                self._take_qemu_event(name, data)
            case monwrap.LadderStep(step):
                self.steps += (step,)
            case monwrap.QemuExited(code, number):
                self.exit = code, number

    def _take_qemu_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Take an event of qapi/run-state.json."""
        if name == "SHUTDOWN":
            self.shutdown = Shutdown(data["guest"], data["reason"])
        elif name == "GUEST_PANICKED":
            self.panicked = True
            if data["action"] == "pause":  # as somebody asked of qemu: left as it is, to be looked at
                logger.error("the guest panicked (kernel panic), and qemu has paused it")
        elif name == "RESET":
            self.panicked = False


def guest_end(seen: Observations, logs: GuestLogs, monwrap_code: int, *, had_run: bool, stray: str | None) -> GuestEnd:
    """Say how the guest ended.

    Args:
        seen: What was seen of it.
        logs: Its logs.
        monwrap_code: monwrap's exit code; -n when signal n ended it.
        had_run: It got as far as to run its machine.
        stray: The last that monwrap said that is no event.
    """
    if seen.refusal:
        return GuestEnd(Ending.failed_to_start, seen.refusal)
    qemu_lines = logs.qemu_lines()
    if seen.exit:
        panic = panic_words(logs.console_tail()) if seen.has_panicked else None
        exit_ = Exit(
            *seen.exit, asked=seen.asked, steps=seen.steps, shutdown=seen.shutdown, had_run=had_run, panic=panic
        )
        return GuestEnd(how_it_ended(exit_), why_it_ended(exit_, qemu_lines), *seen.exit, qemu_lines)
    signalled = f"was killed by {signal.Signals(-monwrap_code).name}" if monwrap_code < 0 else ""
    how = signalled or f"ended with exit code {monwrap_code}"
    if seen.qemu_pid is None:
        said = f": {stray}" if stray is not None else ""
        return GuestEnd(Ending.failed_to_start, f"monwrap {how}{said}; see the key qemu.monwrap")
    return GuestEnd(Ending.crashed, f"monwrap {how}, and qemu with it", last_lines=qemu_lines)
