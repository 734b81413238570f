"""Handle the signals that ask a job to stop, SIGTERM, SIGINT and SIGUSR1, at safe points.

While a job prepares, a signal raises InterruptedJobError at once (`raising`). While its loop runs, the loop is notified
(`on_signal`). In between it is only recorded, so that no collective call is left half done.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from mvpnet.errors import InterruptedJobError

ASK_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # sent by launchers to a process group
_PR_SET_PDEATHSIG = 1  # prctl(2)
_AGAIN_AFTER_S = 0.01


class StopSignals:
    """Stop signals received so far, and their handlers."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_signal: Callable[[signal.Signals], None] | None = None
        self._interrupt: Callable[[signal.Signals, FrameType | None], None] | None = None  # gets the frame too

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in ASK_TO_STOP:
            signal.signal(number, self._got)

    def over(self) -> None:
        """Ignore the signals from now on: a repeated one must not kill the interpreter while it exits.

        SIGTERM still may: the kernel sends it when mpirun dies, and MPI's end could hang then.
        """
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def _got(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if self._interrupt:
            self._interrupt(signal.Signals(number), frame)
        elif self.on_signal:
            self.on_signal(signal.Signals(number))

    def check(self) -> None:
        """Raise InterruptedJobError if a signal was received."""
        if self.received:
            raise _interrupted(self.received)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Make signals raise InterruptedJobError at once, including one received before.

        While a program is being started the signal waits until the caller knows of the program, and can end it.
        """
        self.check()
        again: list[threading.Timer] = []

        def interrupt(number: signal.Signals, frame: FrameType | None) -> None:
            if not _starts_a_program(frame):
                raise _interrupted(number)
            main = threading.main_thread().ident
            again.append(threading.Timer(_AGAIN_AFTER_S, signal.pthread_kill, (main, number)))
            again[-1].start()

        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = None
            for timer in again:
                timer.cancel()
                timer.join()
            if again:
                self.check()  # even after another failure: the signal may have ended the program too


def _starts_a_program(frame: FrameType | None) -> bool:
    """Return whether `subprocess` is starting a program in this frame: an exception would leave an unknown process."""
    if frame and frame.f_code in (subprocess.run.__code__, subprocess.Popen.__enter__.__code__):
        return True  # between two of its steps; while it waits for the program it is in other functions
    while frame and frame.f_code is not subprocess.Popen.__init__.__code__:
        frame = frame.f_back
    return frame is not None


def _interrupted(number: signal.Signals) -> InterruptedJobError:
    return InterruptedJobError(f"stopped by {number.name} before the guests ran", exit_code=128 + number)


@contextlib.contextmanager
def held_back(numbers: Iterable[signal.Signals] = GROUP_SIGNALS) -> Iterator[None]:
    """Block these signals while a child is started inside; the child starts with them blocked.

    This is for a child that has to survive a signal to our process group. Between fork(2) and setsid(2) it is in that
    group, and would die before it leads a group of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(number: signal.Signals) -> None:
    """Make the kernel send `number` to this process when its parent ends: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
