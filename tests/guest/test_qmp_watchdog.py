"""Asking qemu whether it lives: silence is told once, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

from mvpnet.guest.qmp_watchdog import QmpWatchdog, why_silent
from mvpnet.runtime.loop import Loop
from waiting import eventually, run_until


def test_silence_is_told_once_and_so_is_the_answer() -> None:
    loop = Loop()
    asked: list[Callable[[object], None]] = []
    told: list[str] = []
    beat = QmpWatchdog(loop, asked.append, lambda seconds: told.append("silent"), lambda: told.append("answers"), 0.05)
    run_until(loop, lambda: told)
    assert (len(asked), told) == (1, ["silent"])
    asked[0]({"return": {}})
    assert told == ["silent", "answers"]
    beat.silent_s = 600.0  # after the next question
    run_until(loop, lambda: len(asked) == 2)
    asked[1]({"return": {}})
    run_until(loop, lambda: len(asked) == 3)
    assert told == ["silent", "answers"]
    beat.cancel()
    asked[2]({"error": {"class": "GenericError", "desc": "the guest is gone"}})
    assert told == ["silent", "answers"]


def test_why_a_process_is_silent() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        eventually(
            lambda: why_silent(process.pid) == f"it is stopped (SIGSTOP), and goes on after: kill -CONT {process.pid}"
        )
        process.kill()
    assert why_silent(process.pid) == ""
