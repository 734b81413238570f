"""Helpers for all tests: waiting with a deadline, finding processes, and a job under mpiexec that a test may poke at.

Tests import them (`from support import poll_until`); the fixtures in conftest.py put them to use.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def poll_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of the condition; an AssertionError that says what was waited for if none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.02)
    return value


def codes_after_signal(code: int) -> set[int]:
    """What a signalled mpiexec may answer for a job that ended with `code`: Open MPI's always 1, and that of Debian's
    MPICH 4.0 sometimes 0, whatever their ranks ended with."""
    program = mpiexec_command()[0]
    return {1} if "openmpi" in program else {0, code} if program.endswith("mpiexec.mpich") else {code}


def mpiexec_command() -> list[str]:
    """mpiexec and its options: MVPNET_MPIEXEC, else the one beside this Python, else the PATH's."""
    if command := os.environ.get("MVPNET_MPIEXEC"):
        return shlex.split(command)
    beside = Path(sys.executable).with_name("mpiexec")
    return [str(beside) if beside.exists() else "mpiexec"]


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    command: str

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def __str__(self) -> str:
        return f"{self.pid}: {self.command[:200]}"


def processes_marked(mark: str) -> list[Process]:
    """The living processes whose environment has the mark. Zombies have no environment any more, and are not leaks."""
    needle = mark.encode() + b"\0"
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if needle in (folder / "environ").read_bytes() + b"\0":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(folder.name), command))
    return found


@dataclass(frozen=True)
class Finished:
    """A job that ended: its exit code as a shell gives it (128 + signal), and all that it said."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass
class RunningJob:
    """mvpnet under mpiexec. Output goes to files, so that it may be read while the job runs and never fills a pipe."""

    process: subprocess.Popen[bytes]
    cwd: Path
    scratch: Path  # its TMPDIR; whatever a job leaves in here, it leaks
    _out: Path
    _err: Path
    _living: Callable[[], list[Process]] = field(repr=False)

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    def processes(self, part: str = "") -> list[Process]:
        """The test's living processes with the given text in their command line, say "qemu-system" or "monwrap"."""
        return [process for process in self._living() if part in process.command]

    def wait_for(self, text: str, timeout_s: float = 120.0) -> None:
        """Wait until the job's output or errors hold the text; AssertionError if it ends before or takes too long."""

        def said_or_ended() -> bool:
            return text in self.stdout + self.stderr or self.process.poll() is not None

        try:
            poll_until(said_or_ended, timeout_s, repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._so_far()}") from None
        assert text in self.stdout + self.stderr, f"the job ended without saying {text!r}\n{self._so_far()}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to mpiexec alone, as kill(1) does."""
        self.process.send_signal(number)

    def finish(self, timeout_s: float = 120.0) -> Finished:
        """Wait for the job to end; AssertionError, with its output, if that takes too long."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end in {timeout_s:g} s\n{self._so_far()}") from None
        return Finished(code if code >= 0 else 128 - code, self.stdout, self.stderr)

    def _so_far(self) -> str:
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def close(self) -> None:
        """End what is left of it: the process group, then whatever else carries the test's mark."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for process in self._living():
                process.kill()
        if self.process.stdin:
            self.process.stdin.close()


StartMvpnet = Callable[..., RunningJob]  # what the fixtures of these names in conftest.py give
RunMvpnet = Callable[..., Finished]


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock file (flock)."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
