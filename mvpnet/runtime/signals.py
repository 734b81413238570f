"""Signals that ask a job to stop: SIGTERM, SIGINT and SIGUSR1, taken without an exception out of nowhere.

While a job prepares, a signal raises InterruptedJobError there and then (`raising`); while its loop runs, the loop is
told (`on_signal`); in between it is only remembered, so that no collective call is left half done.
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
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # what launchers send to a group
_PR_SET_PDEATHSIG = 1  # prctl(2)
_AGAIN_AFTER_S = 0.01


class StopSignals:
    """The signals that came, and who is told of them."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_signal: Callable[[signal.Signals], None] | None = None
        self._interrupt: Callable[[signal.Signals, FrameType | None], None] | None = None  # also told where we are

    def install(self) -> None:
        """Take the signals from now on."""
        for number in ASK_TO_STOP:
            signal.signal(number, self._got)

    def over(self) -> None:
        """Ignore the signals from now on: one sent once more is not to kill the interpreter while it ends.

        SIGTERM still may: it is what the kernel sends us should mpirun be gone, and MPI's end hang for it.
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
        """Raise InterruptedJobError if a signal came."""
        if self.received:
            raise _interrupted(self.received)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Make signals raise InterruptedJobError at once, also one that came before.

        While a program is being started it waits until somebody knows of the program, who can then end it.
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
                self.check()  # also where something failed meanwhile: the signal may have ended the program too


def _starts_a_program(frame: FrameType | None) -> bool:
    """Whether `subprocess` is starting a program there: an exception would leave a process that nobody knows of."""
    if frame and frame.f_code in (subprocess.run.__code__, subprocess.Popen.__enter__.__code__):
        return True  # between two of its steps; once it waits for the program it is in others of its functions
    while frame and frame.f_code is not subprocess.Popen.__init__.__code__:
        frame = frame.f_back
    return frame is not None


def _interrupted(number: signal.Signals) -> InterruptedJobError:
    return InterruptedJobError(f"stopped by {number.name} before the guests ran", exit_code=128 + number)


@contextlib.contextmanager
def held_back(numbers: Iterable[signal.Signals] = GROUP_SIGNALS) -> Iterator[None]:
    """A child that is started inside begins with these signals held back, and so do we until it is started.

    For one that is to outlive a signal to our process group: between fork(2) and setsid(2) it is in that group, and
    would die of it before it could lead one of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send us `number` when the process that started us ends: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
