"""Programs that are started apart from our process group; programs on a loop are tested in tests/app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mvpnet.runtime.processes import signal_group, start_apart

TELL = """
import os, signal
print(os.getsid(0) == os.getpid(), *(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


@pytest.mark.parametrize("held", [(signal.SIGTERM, signal.SIGUSR1), ()])
def test_a_program_started_apart(held: tuple[signal.Signals, ...]) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with start_apart([sys.executable, "-c", TELL], held=held, stdout=subprocess.PIPE) as process:
        assert process.stdout
        leads, *blocked = process.stdout.read().decode().split()
    assert leads == "True"
    assert {int(number) for number in blocked} == {*before, *held}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_program_that_cannot_be_started_apart() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(FileNotFoundError):
        start_apart(["/nonexistent/program"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_group_and_one_that_is_gone() -> None:
    process = start_apart(["sleep", "600"])
    signal_group(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    signal_group(process.pid, signal.SIGKILL)
