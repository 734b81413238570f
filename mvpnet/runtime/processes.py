"""Run programs beside the guests, watched by the rank's loop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from mvpnet.errors import HostError
from mvpnet.runtime.loop import Loop
from mvpnet.runtime.signals import GROUP_SIGNALS, die_with_parent, held_back

_CHUNK_BYTES = 65536
_TERM_S = 10.0  # for a program that was asked to stop, before SIGKILL

# Ends a process group when its own standard input ends, that is when this process has died for any reason.
# Usage: sh -c … sh GROUP
_GUARD = f"""
cat
kill -TERM -$1
for second in $(seq {_TERM_S:.0f}); do
    sleep 1
    kill -0 -$1 || exit
done
kill -KILL -$1
"""

Output = Callable[[bytes], object]


def start_apart(
    argv: Sequence[str],
    *,
    held: Iterable[signal.Signals] = GROUP_SIGNALS,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    bufsize: int = -1,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that signals to our process group, as mpiexec sends them, spare it.

    The other arguments are those of subprocess.Popen.

    Args:
        argv: Program and arguments.
        held: Signals that are blocked until it has left our group. It starts with them blocked.

    Raises:
        OSError: It cannot be started.
    """
    with held_back(held):
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=bufsize,
            pass_fds=pass_fds,
            env=env,
            umask=umask,
            start_new_session=True,
        )


def signal_group(leader_pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader_pid, number)


class Program:
    """A started program. `on_end` is called once with its exit code, 128 + n when signal n ended it.

    It leads a process group of its own. When it has ended it is not reaped before `close`. So the group's number stays
    reserved, and the rest of the group can be ended without hitting other processes.
    """

    def __init__(
        self, loop: Loop, process: subprocess.Popen[bytes], on_output: Output, on_end: Callable[[int], object]
    ) -> None:
        assert process.stdout
        self._loop = loop
        self._process: subprocess.Popen[bytes] | None = process
        self._on_output = on_output
        self._on_end = on_end
        self._guard: subprocess.Popen[bytes] | None = None
        self._output_fd = process.stdout.fileno()
        self.running = True
        os.set_blocking(self._output_fd, False)
        loop.watch(self._output_fd, self._take_output)

    def guard(self) -> None:
        """End its whole process group if this process is killed; by itself the kernel ends only the program."""
        assert self._process
        guard = ["sh", "-c", _GUARD, "sh", str(self._process.pid)]
        self._guard = start_apart(guard, stdin=subprocess.PIPE)

    def stop(self) -> None:
        """Ask its process group to end, and kill it when it does not. `on_end` follows.

        A program with a standard input is asked by closing it: ssh passes the end of file on to the guest.
        """
        if self._process and self._process.stdin:
            self._process.stdin.close()
        else:
            self._signal(signal.SIGTERM)
        self._loop.call_later(_TERM_S, lambda: self._signal(signal.SIGKILL))

    def close(self) -> None:
        """End all that is left of its process group, in any state."""
        self._signal(signal.SIGKILL)
        if self._guard:
            # before the program is reaped: until then its group's number is not reused
            signal_group(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
            assert self._guard.stdin
            self._guard.stdin.close()
            self._guard = None
        if self._process:
            self._look_no_more()
            if self._process.stdin:
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def look(self) -> None:
        """Check whether it has ended, and call `on_end` if so."""
        if not self.running or not self._process:
            return
        if end := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._take_output()
            self._look_no_more()
            self._on_end(end.si_status if end.si_code == os.CLD_EXITED else 128 + end.si_status)

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            signal_group(self._process.pid, number)

    def _take_output(self) -> None:
        """Pass on all available output; stop reading at its end."""
        while True:
            try:
                data = os.read(self._output_fd, _CHUNK_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._loop.unwatch(self._output_fd)
                return
            self._on_output(data)

    def _look_no_more(self) -> None:
        assert self._process and self._process.stdout
        self.running = False
        if not self._process.stdout.closed:
            self._loop.unwatch(self._output_fd)
            self._process.stdout.close()


class Programs:
    """Programs of one purpose, watched by one loop. SIGCHLD, which all instances share, reports their ends."""

    _at_work: ClassVar[set[Programs]] = set()

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._programs: list[Program] = []

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        on_output: Output,
        on_end: Callable[[int], object],
        *,
        with_stdin: bool = False,
        guarded: bool = False,
    ) -> Program:
        """Start a program.

        If this process is killed, the program gets a SIGTERM.

        Args:
            argv: Program and arguments.
            environment: Its environment.
            on_output: Called with its output.
            on_end: Called with its exit code.
            with_stdin: Give it a pipe as standard input, silent until `stop` closes it, instead of /dev/null. It then
                ignores SIGUSR1, which Slurm may send to all processes of a job, as it should run on until `stop`.
            guarded: If this process is killed, its whole process group gets a SIGTERM, and then a SIGKILL.

        Raises:
            HostError: It cannot be started.
        """
        # SIGCHLD rather than a pidfd, which kernels before 5.3, as on RHEL 8, do not have
        Programs._at_work.add(self)
        signal.signal(signal.SIGCHLD, lambda *_: Programs._look_all())
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if with_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=lambda: _in_child(deaf=with_stdin),
            )
        except OSError as error:
            raise HostError(f"cannot run {argv[0]!r}: {error.strerror}") from error
        program = Program(self._loop, process, on_output, on_end)
        self._programs.append(program)
        if guarded:
            program.guard()
        return program

    def forget(self, program: Program) -> None:
        """Close a program that has ended, and end the rest of its process group."""
        program.close()
        self._programs.remove(program)

    def close(self) -> None:
        """End all programs. `start` may be called again."""
        Programs._at_work.discard(self)
        if not Programs._at_work:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while self._programs:
            self._programs.pop().close()

    @classmethod
    def _look_all(cls) -> None:
        for programs in cls._at_work:
            programs._loop.call_later(0.0, programs._look)

    def _look(self) -> None:
        for program in list(self._programs):
            program.look()


def _in_child(*, deaf: bool) -> None:
    die_with_parent(signal.SIGTERM)
    if deaf:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
