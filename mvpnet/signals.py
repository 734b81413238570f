"""Signals that ask a job to stop: SIGTERM, SIGINT and SIGUSR1, taken without an exception out of nowhere.

While a job prepares, a signal raises Interrupted there and then (`raising`); while its loop runs, the loop is told
(`on_signal`); in between it is only remembered, so that no collective call is left half done.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator

from mvpnet.errors import Interrupted

ASK_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1  # prctl(2)


class StopSignals:
    """What was received, and who is told."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.on_signal: Callable[[signal.Signals], None] | None = None

    def install(self) -> None:
        for number in ASK_TO_STOP:
            signal.signal(number, lambda n, _: self._got(signal.Signals(n)))

    def over(self) -> None:
        """All is done: a signal sent once more is not to kill the interpreter while it ends. SIGTERM still may: it is
        what the kernel sends us should mpirun be gone, and MPI's end hang for it."""
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def _got(self, number: signal.Signals) -> None:
        self.received = self.received or number
        if self.on_signal:
            self.on_signal(number)

    def check(self) -> None:
        """Raises Interrupted if a signal came."""
        if self.received:
            raise _interrupted(self.received)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal raises Interrupted at once, also one that came before."""
        self.check()

        def interrupt(number: signal.Signals) -> None:
            raise _interrupted(number)

        self.on_signal = interrupt
        try:
            yield
        finally:
            self.on_signal = None


def _interrupted(number: signal.Signals) -> Interrupted:
    error = Interrupted(f"stopped by {number.name} before the guests ran")
    error.exit_code = 128 + number
    return error


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send us `number` when the process that started us ends: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
