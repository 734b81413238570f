"""Limit how often the progress of a long step is reported."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_AFTER_S, _EVERY_S = 2.0, 5.0


class Pace:
    """Interval of reports: the first is due after two seconds, then one every five. A quick step gets none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_s = clock() + _FIRST_AFTER_S

    def is_due(self) -> bool:
        """Return whether a report is due now, and start the next interval if so."""
        if self._clock() < self._due_s:
            return False
        self._due_s = self._clock() + _EVERY_S
        return True
