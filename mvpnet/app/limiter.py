"""Limit how many operations run concurrently."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Over = Callable[[], None]


class CapacityLimiter:
    """Lets at most `most` operations run at a time; the others wait, and begin in the order of asking."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._waiting: deque[Callable[[Over], object]] = deque()

    def ask(self, begin: Callable[[Over], object]) -> None:
        """Call `begin` when there is capacity, with a function that gives it back.

        A second call of that function does nothing.
        """
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
