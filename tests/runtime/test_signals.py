"""Signals that ask a job to stop: remembered, told, or raised, by where the job is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvpnet.errors import InterruptedJobError
from mvpnet.runtime.signals import ASK_TO_STOP, StopSignals, held_back
from support import poll_until


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    before = {number: signal.getsignal(number) for number in ASK_TO_STOP}
    installed = StopSignals()
    installed.install()
    yield installed
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASK_TO_STOP)
def test_a_signal_is_remembered_and_told(signals: StopSignals, number: signal.Signals) -> None:
    signals.check()
    told: list[signal.Signals] = []
    signals.on_signal = told.append
    signal.raise_signal(number)
    assert (signals.received, told) == (number, [number])
    with pytest.raises(InterruptedJobError, match=number.name) as caught:
        signals.check()
    assert caught.value.exit_code == 128 + number


def test_the_first_is_the_one_that_counts(signals: StopSignals) -> None:
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert signals.received is signal.SIGUSR1


def test_while_preparing_it_is_raised_there_and_then(signals: StopSignals) -> None:
    with pytest.raises(InterruptedJobError, match="SIGINT"), signals.raising():
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")
    signal.raise_signal(signal.SIGTERM)  # afterwards it is only remembered


def test_one_that_came_before_is_raised_too(signals: StopSignals) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(InterruptedJobError, match="SIGTERM"), signals.raising():
        raise AssertionError("not interrupted")


def test_it_ends_a_program_that_is_being_started(signals: StopSignals, tmp_path: Path) -> None:
    """The signal comes when there is the process, and Popen has not returned yet."""
    started = tmp_path / "pid"

    def in_the_child() -> None:
        started.write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGTERM)

    with pytest.raises(InterruptedJobError, match="SIGTERM"), signals.raising():
        subprocess.run(["sleep", "300"], preexec_fn=in_the_child)
        raise AssertionError("not interrupted")
    assert not Path(f"/proc/{started.read_text()}").exists(), "it lives"


def test_one_that_came_while_a_program_started_is_not_lost(signals: StopSignals) -> None:
    with pytest.raises(InterruptedJobError, match="SIGTERM"), signals.raising():
        subprocess.run(["true"], preexec_fn=lambda: os.kill(os.getppid(), signal.SIGTERM))


def test_what_fails_while_it_waits_is_told_as_the_signal(signals: StopSignals) -> None:
    """As where mpiexec signals a whole process group, and with it the program that is being started."""
    with pytest.raises(InterruptedJobError, match="SIGTERM"), signals.raising():
        subprocess.run(["false"], check=True, preexec_fn=lambda: os.kill(os.getppid(), signal.SIGTERM))


def test_it_ends_a_program_that_is_waited_for(signals: StopSignals) -> None:
    """As qemu-img is, while an image is prepared."""
    poke = f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM); signal.pause()"
    with pytest.raises(InterruptedJobError), signals.raising():
        subprocess.run([sys.executable, "-c", poke], check=False)


def test_a_child_that_is_started_held_back_outlives_what_its_group_is_sent() -> None:
    """The child is signalled before it is another program, as between fork(2) and setsid(2)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with held_back():
        child = subprocess.run(
            ["echo", "alive"], capture_output=True, preexec_fn=lambda: signal.raise_signal(signal.SIGTERM)
        )
    assert (child.returncode, child.stdout) == (0, b"alive\n")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before, "we are as before"


def test_a_child_that_dies_with_its_parent() -> None:
    child = (
        "import signal; from mvpnet.runtime.signals import die_with_parent; die_with_parent(signal.SIGTERM);"
        "print('ready', flush=True); signal.pause()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == "", "its end of the pipe closes when it ends"
    poll_until(lambda: process.returncode == -signal.SIGKILL, 30, "the parent's end")
