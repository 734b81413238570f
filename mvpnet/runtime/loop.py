"""Run one thread's event loop over descriptors, timers and signals.

It sleeps in poll(2) until a descriptor, a timer or a signal wakes it.
"""

from __future__ import annotations

import heapq
import itertools
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Callback = Callable[[], object]


class Timer:
    """A callback that is due at some time, unless cancelled."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    @property
    def pending(self) -> bool:
        """Return whether it has neither run nor been cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Cancel the callback, unless it has run."""
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """Event loop that runs callbacks in the calling thread. Their exceptions propagate from `run`."""

    def __init__(self) -> None:
        self._stopping = False
        self._callbacks: dict[int, tuple[Callback | None, Callback | None]] = {}
        self._poll = select.poll()  # the watched descriptors
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    # -- registration --------------------------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callback, *, write: bool = False) -> None:
        """Call `callback` whenever `fd` is readable (or at its end), or with `write` writable, until `unwatch`."""
        reader, writer = self._callbacks.get(fd, (None, None))
        self._callbacks[fd] = (reader, callback) if write else (callback, writer)
        self._register(fd)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor, before it is closed. A descriptor that is not watched is ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._unregister(fd)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call `callback` once, `delay_s` seconds from now or a little later."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Make `run` return, or the next `run` if none is active. For callbacks and signal handlers."""
        self._stopping = True

    def run(self) -> None:
        """Run until `stop`. Python's signal handlers run at once, even during a sleep."""
        with self._signals_wake():
            while not self._stopping:
                self._run_some()
        self._stopping = False

    # -- internals -----------------------------------------------------------------------------------------------------

    def _run_some(self) -> None:
        """Wait for events and handle them; `run` calls it again and again until `stop`."""
        self._look(None)

    def _look(self, timeout_s: float | None) -> None:
        """Handle due events after waiting up to `timeout_s`; None waits without limit."""
        if timeout_s is None:
            timeout_s = self._until_timer()
        for fd, events in self._poll.poll(None if timeout_s is None else timeout_s * 1000):
            self._dispatch(fd, events)
        self._run_timers()

    def _dispatch(self, fd: int, events: int) -> None:
        reader, writer = self._callbacks.get(fd, (None, None))
        if reader is not None and events & ~select.POLLOUT:
            reader()
        # An earlier callback may have unwatched the descriptor.
        if writer is not None and events & ~select.POLLIN and self._callbacks.get(fd, (None, None))[1] is writer:
            writer()

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].fire()

    def _until_timer(self) -> float | None:
        """Return the seconds until the next timer is due; None without one."""
        while self._timers and not self._timers[0][2].pending:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _events_of(self, fd: int) -> int:
        """Return the poll(2) events that a descriptor is watched for."""
        reader, writer = self._callbacks[fd]
        return (select.POLLIN if reader else 0) | (select.POLLOUT if writer else 0)

    def _register(self, fd: int) -> None:
        self._poll.register(fd, self._events_of(fd))

    def _unregister(self, fd: int) -> None:
        self._poll.unregister(fd)

    @contextmanager
    def _signals_wake(self) -> Iterator[None]:
        """Let signals end poll(2): the interpreter writes each to a socket that the loop watches.

        Without it poll would be resumed after the handler (PEP 475), and changes made by the handler would go
        unnoticed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            self.watch(ours.fileno(), lambda: ours.recv(4096))
            try:
                yield
            finally:
                self.unwatch(ours.fileno())
                signal.set_wakeup_fd(before)
