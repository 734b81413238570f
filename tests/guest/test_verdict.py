"""What is seen of a guest, and how it ended by that; whole lives are in test_supervisor.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.guest.diagnosis import GuestLogs
from mvpnet.guest.monwrap_client import Event, LadderStep, QemuExited, QemuNotStarted, QemuStarted, QmpEvent, QmpReady
from mvpnet.guest.states import Ending, GuestEnd
from mvpnet.guest.verdict import Observations, guest_end

GUEST_SHUTDOWN = QmpEvent("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
PANIC = QmpEvent("GUEST_PANICKED", {"action": "shutdown"})


def end(folder: Path, *events: Event, code: int = 0, stray: str | None = None) -> GuestEnd:
    (folder / "qemu.log").write_text("of an earlier start\n")
    (folder / "console.log").write_text("Kernel panic - not syncing: of an earlier start\n")
    logs = GuestLogs(folder / "qemu.log", folder / "console.log")
    logs.mark()
    with (folder / "qemu.log").open("a") as log:
        log.write("qemu's last\n")
    with (folder / "console.log").open("a") as log:
        log.write("Kernel panic - not syncing: of this one\n")
    seen = Observations()
    for event in events:
        seen.take(event)
    return guest_end(seen, logs, code, had_run=True, stray=stray)


@pytest.mark.parametrize(
    ("events", "how", "reason"),
    [
        ([GUEST_SHUTDOWN, QemuExited(0, None)], Ending.powered_off, "the guest powered off (guest-shutdown)"),
        ([LadderStep("eof"), LadderStep("sigterm"), QemuExited(None, 15)], Ending.stopped, "stopped by SIGTERM"),
        ([PANIC, QemuExited(0, None)], Ending.panicked, "the guest panicked (kernel panic): of this one"),
        (
            [PANIC, QmpEvent("RESET", {}), GUEST_SHUTDOWN, QemuExited(0, None)],
            Ending.powered_off,
            "the guest powered off (guest-shutdown)",
        ),
        ([QemuExited(1, None)], Ending.crashed, "qemu ended with exit code 1: qemu's last"),
        (
            [QemuNotStarted("program", "qemu: No such file or directory")],
            Ending.failed_to_start,
            "qemu could not be started: qemu: No such file or directory; see the key qemu.binary",
        ),
        (
            [QemuNotStarted("log", "full")],
            Ending.failed_to_start,
            "qemu could not be started: full; see the key logging.dir",
        ),
    ],
)
def test_ends_that_monwrap_told(tmp_path: Path, events: list[Event], how: Ending, reason: str) -> None:
    found = end(tmp_path, *events)
    assert (found.how, found.reason) == (how, reason)


def test_ends_that_monwrap_did_not_tell(tmp_path: Path) -> None:
    assert end(tmp_path, code=2, stray="usage") == GuestEnd(
        Ending.failed_to_start, "monwrap ended with exit code 2: usage; see the key qemu.monwrap"
    )
    assert end(tmp_path, QemuStarted(7), QmpReady("8.0.0"), code=-9) == GuestEnd(
        Ending.crashed, "monwrap was killed by SIGKILL, and qemu with it", last_lines=("qemu's last",)
    )
