"""Run a rank's event loop: descriptors, timers and signals, as in `runtime.loop`, and a worker that moves frames.

While the worker has work it is called again and again, and everything else is polled once a millisecond. When it has
none, the loop sleeps in poll(2) until a descriptor, a timer or a signal wakes it. How long to spin before that adapts
to the traffic, as KVM's halt polling does: after several consecutive sleeps shorter than `max_spin_s`, spinning would
have been better. A longer sleep turns spinning off: on a shared core the scheduler may well ignore sched_yield(2), and
delay the processes that this rank has just woken.

Under bulk traffic the loop spins less. A spinning rank takes a core from the guests where cores are scarce, and frames
that gather in the meantime move in fewer and larger batches.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final, Protocol

from mvpnet.dataplane.tuning import BULK_BYTES, BULK_LASTS_S, LONGEST_NAP, WORTH_A_NAP_BYTES
from mvpnet.runtime.loop import Loop

_LOOK_EVERY_S: Final = 1e-3  # interval of polling descriptors and timers, while the worker is busy
_SHORT_SLEEPS: Final = 3  # consecutive ones after which spinning pays

# Results of a worker's `spin`.
LOOK: Final = 0
SLEEP: Final = 1
TURN: Final = 2


class Worker(Protocol):
    """Work to be done in turns between the events of a loop."""

    def spin(self, until_s: float, busy_at_s: float, window_s: float) -> tuple[int, float]:
        """Do the work that needs no loop: its own turns, spinning, and naps under bulk traffic.

        Args:
            until_s: When to return, by time.monotonic().
            busy_at_s: When there was work last.
            window_s: Return after this long without work.

        Returns:
            LOOK, SLEEP or TURN (call `turn` next), and when there was work last. A worker that cannot spin returns TURN
            and `busy_at_s`.
        """
        ...

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float) -> float | None:
        """Sleep until a descriptor is ready or `timeout_s` has passed, and do the work at once.

        It goes on sleeping after long sleeps.

        Args:
            fds: poll(2) events to wait for, by descriptor.
            timeout_s: Longest time to sleep.
            long_s: Go on after sleeps of this length or more.

        Returns:
            How long the last sleep was that ended with work, -1.0 if none did. None, without a sleep, from a worker
            that cannot doze.
        """
        ...

    def turn(self, now_s: float) -> int:
        """Do a bounded amount of work without blocking.

        Args:
            now_s: time.monotonic().

        Returns:
            The amount of work in bytes, and 0 if there was none.
        """
        ...

    def before_sleep(self) -> float:
        """Prepare for a sleep of the loop; return its longest duration in seconds."""
        ...

    def interests(self) -> list[tuple[int, int]]:
        """Return descriptors and poll(2) events that end the sleep."""
        ...

    def after_sleep(self, now_s: float, ready: list[tuple[int, int]], spins: bool) -> None:
        """Take the events that ended the sleep; `turn` comes next.

        Args:
            now_s: time.monotonic().
            ready: Descriptors of `interests`, with their events.
            spins: The loop spins before its next sleep.
        """
        ...


class WorkerLoop(Loop):
    """Loop that also runs a worker, in the same thread. Exceptions of the worker propagate from `run`."""

    def __init__(self, *, spin_s: float = 0.0, max_spin_s: float = 0.0, gather_s: float = 0.0) -> None:
        """Set the times of spinning and napping.

        Args:
            spin_s: Shortest time to spin without work before a sleep, under dense traffic. Otherwise the loop sleeps at
                once.
            max_spin_s: Longest time to spin.
            gather_s: Length of a nap under bulk traffic, after 2 x `gather_s` without work. Up to LONGEST_NAP times
                that where few bytes gather; 0 for no naps.
        """
        super().__init__()
        self.worker: Worker | None = None
        self._spin_s = spin_s
        self._window_s = 0.0
        self._short_sleeps = 0
        self._busy_at_s = 0.0
        self._max_spin_s = max(spin_s, max_spin_s)
        self._gather_s = gather_s
        self._sleep_poll = select.poll()  # the watched descriptors, and those the worker waits for
        self._interests: dict[int, int] = {}
        self._sleep_fds: dict[int, int] = {}  # all descriptors of _sleep_poll

    def _run_some(self) -> None:
        if self.worker is None:
            self._look(None)
        else:
            self._work(self.worker)

    def _work(self, worker: Worker) -> None:
        """Run the worker until the loop stops or gets another one."""
        turn, spin, clock, sched_yield = worker.turn, worker.spin, time.monotonic, os.sched_yield
        gather_s = nap_s = self._gather_s
        gathered = 0  # bytes since the last nap
        self._busy_at_s = clock()
        look_at = self._busy_at_s
        bulk_until = 0.0
        while not self._stopping and self.worker is worker:
            now = clock()
            if now >= look_at:
                self._look(0.0)
                look_at = now + _LOOK_EVERY_S
                if self._stopping or self.worker is not worker:
                    break
            outcome, self._busy_at_s = spin(look_at, self._busy_at_s, self._window_s)
            if outcome == LOOK:
                continue
            if outcome == SLEEP:
                self._sleep(worker)
                look_at = self._busy_at_s + _LOOK_EVERY_S
                continue
            moved = turn(now)
            if moved:
                self._busy_at_s = now
                gathered += moved
                if moved >= BULK_BYTES:
                    bulk_until = now + BULK_LASTS_S
                elif self._window_s:
                    sched_yield()  # the guest may want this core
            elif now - self._busy_at_s <= self._window_s:
                if now < bulk_until and gather_s and now - self._busy_at_s > 2 * gather_s:
                    nap_s = gather_s if gathered >= WORTH_A_NAP_BYTES else min(2 * nap_s, LONGEST_NAP * gather_s)
                    gathered = 0
                    time.sleep(nap_s)
                else:
                    sched_yield()
            elif not self._stopping:
                self._sleep(worker)
                look_at = self._busy_at_s + _LOOK_EVERY_S

    def _adapt(self, idle_s: float) -> None:
        """Adapt the spinning to an idle time of the worker that has just ended."""
        if idle_s >= self._max_spin_s:
            self._short_sleeps = 0
            self._window_s = 0.0
        elif self._short_sleeps < _SHORT_SLEEPS:
            self._short_sleeps += 1
        else:
            self._window_s = min(max(2 * self._window_s, self._spin_s), self._max_spin_s)

    def _sleep(self, worker: Worker) -> None:
        """Sleep until any event. The worker comes first then, as every step is slow after a sleep."""
        limit_s = worker.before_sleep()
        wanted = dict(worker.interests())
        for fd in self._interests.keys() - wanted.keys():
            self._sleep_poll.unregister(fd)
            del self._sleep_fds[fd]
            if fd in self._callbacks:  # the number has been reused since
                self._register_for_sleep(fd)
        for fd, events in wanted.items():
            if self._interests.get(fd) != events:
                self._sleep_poll.register(fd, events)
                self._sleep_fds[fd] = events
        self._interests = wanted
        due_s = self._until_timer()
        timeout_s = limit_s if due_s is None else min(limit_s, due_s)
        dozed_s = worker.doze(self._sleep_fds, timeout_s, self._max_spin_s)
        happened = self._sleep_poll.poll(timeout_s * 1000 if dozed_s is None else 0)
        for_worker = [each for each in happened if each[0] in wanted]
        if for_worker or (dozed_s is not None and dozed_s >= 0):
            now = time.monotonic()
            self._adapt(now - self._busy_at_s if dozed_s is None or dozed_s < 0 else dozed_s)
            self._busy_at_s = now
            worker.after_sleep(now, for_worker, self._window_s > 0)
        if len(for_worker) < len(happened):
            for fd, events in happened:
                if fd not in wanted:
                    self._dispatch(fd, events)
        if self._timers:
            self._run_timers()

    def _register(self, fd: int) -> None:
        super()._register(fd)
        self._register_for_sleep(fd)

    def _unregister(self, fd: int) -> None:
        super()._unregister(fd)
        self._sleep_poll.unregister(fd)
        del self._sleep_fds[fd]

    def _register_for_sleep(self, fd: int) -> None:
        self._sleep_poll.register(fd, self._events_of(fd))
        self._sleep_fds[fd] = self._events_of(fd)
