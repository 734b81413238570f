"""Detects a qemu that does not answer any more, by asking it now and then over QMP.

One that was stopped (SIGSTOP), waits for a disk that does not come, or gets no time to run keeps its sockets open and
says nothing of it. What to do is left to the user.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mvpnet.runtime.loop import Loop, Timer

# The letters of proc(5), /proc/PID/stat.
_STATES = {
    "T": "it is stopped (SIGSTOP), and goes on after: kill -CONT {pid}",
    "t": "a debugger holds it",
    "D": "it waits for a disk: is the storage of its image or of the scratch folder hung?",
    "R": "it runs: is the host overloaded?",
}


class QmpWatchdog:
    """Calls `ask(on_reply)` every half of `silent_s`; `on_silent(seconds)` once when no answer comes for all of it, and
    `on_answer()` when one comes after that."""

    def __init__(
        self,
        loop: Loop,
        ask: Callable[[Callable[[object], None]], None],
        on_silent: Callable[[float], None],
        on_answer: Callable[[], None],
        silent_s: float,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._on_silent = on_silent
        self._on_answer = on_answer
        self.silent_s = silent_s
        self.ask_every_s = silent_s / 2
        self._silent = False
        self._over = False
        self._timer: Timer = loop.call_later(self.ask_every_s, self._beat)

    def cancel(self) -> None:
        """Stop asking; nothing is reported any more."""
        self._over = True
        self._timer.cancel()

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self.silent_s, self._no_answer)
        self._ask(lambda reply: self._answered())

    def _no_answer(self) -> None:
        self._silent = True
        self._on_silent(self.silent_s)

    def _answered(self) -> None:
        if self._over:
            return
        self._timer.cancel()
        if self._silent:
            self._silent = False
            self._on_answer()
        self._timer = self._loop.call_later(self.ask_every_s, self._beat)


def why_silent(pid: int) -> str:
    """Why a process does not answer, by the state that the host has it in; "" if that explains nothing."""
    with suppress(OSError, IndexError):
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return _STATES.get(letter, "").format(pid=pid)
    return ""
