"""Turns: of many who want to begin something, only so many are at it at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Over = Callable[[], None]


class CapacityLimiter:
    """Whoever asks is given a turn at once, or when one of those before is over; in the order of asking."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._waiting: deque[Callable[[Over], object]] = deque()

    def ask(self, begin: Callable[[Over], object]) -> None:
        """Have `begin` called with what ends its turn; a second call of that does nothing."""
        self._waiting.append(begin)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._taken < self.most:
            self._taken += 1
            self._waiting.popleft()(self._over())

    def _over(self) -> Over:
        is_over = False

        def over() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._taken -= 1
                self._next()

        return over
