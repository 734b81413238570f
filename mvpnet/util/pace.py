"""How often something long is told of."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_AFTER_S, _EVERY_S = 2.0, 5.0


class Pace:
    """Due first after two seconds, and then every five: a quick thing is not told of at all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_s = clock() + _FIRST_AFTER_S

    def is_due(self) -> bool:
        """Whether to tell now; it is not due again for a while then."""
        if self._clock() < self._due_s:
            return False
        self._due_s = self._clock() + _EVERY_S
        return True
