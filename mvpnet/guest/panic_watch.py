"""Detects a kernel panic on the serial console, for guests that cannot tell qemu of it by a panic device.

A panicked kernel that does not start again by itself (the kernel argument panic=) says one line last of all, and then
does nothing for ever: to qemu it looks alive. One that starts again, or its kdump, does not say that line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mvpnet.guest.diagnosis import PANIC_ENDS
from mvpnet.runtime.loop import Loop, Timer

LOOK_EVERY_S = 2.0
_AT_ONCE_BYTES = 1 << 20  # read in one look: a guest that floods its console is followed, not caught up with
_MARK = PANIC_ENDS.encode()


class PanicWatch:
    """Looks at what is added to `log` from byte `start` on, and calls `on_panic` once when the line is there."""

    def __init__(self, loop: Loop, log: Path, start: int, on_panic: Callable[[], None]) -> None:
        self._loop = loop
        self._log = log
        self._at = start
        self._kept = b""
        self._on_panic = on_panic
        self._timer: Timer = loop.call_later(LOOK_EVERY_S, self._look)

    def cancel(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _look(self) -> None:
        if _MARK in self._added():
            self._on_panic()
        else:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def _added(self) -> bytes:
        """What was added since, with the end of what was there before: the line may have come in two parts."""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._at)
            data = self._kept + log.read(_AT_ONCE_BYTES)
            self._at = log.tell()
            self._kept = data[-len(_MARK) :]
            return data
        return b""
