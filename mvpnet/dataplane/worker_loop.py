"""The event loop of a rank: descriptors, timers and signals, as in `runtime.loop`, and a worker that moves frames.

While the worker has something to do it is called again and again, and everything else gets a look once a millisecond.
When it has nothing to do, all sleep in poll(2) until a descriptor, a timer or a signal wakes them. How long to spin
before that follows the traffic, as KVM's halt polling does: some sleeps in a row that were shorter than `max_spin_s`
would better have been spent spinning. A longer one ends this, and then it is not spun at all: on a shared core the
scheduler may well not heed sched_yield(2), and let those wait that this rank has just woken.

Under bulk traffic it spins less: whoever spins takes a core from the guests where cores are scarce, and what gathers
in the meantime moves in fewer and bigger batches.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final, Protocol

from mvpnet.dataplane.tuning import BULK_BYTES, BULK_LASTS_S, LONGEST_NAP, WORTH_A_NAP_BYTES
from mvpnet.runtime.loop import Loop

_LOOK_EVERY_S: Final = 1e-3  # at descriptors and timers, while the worker is busy
_SHORT_SLEEPS: Final = 3  # so many in a row, and spinning pays

# What a worker's `spin` ended with.
LOOK: Final = 0
SLEEP: Final = 1
TURN: Final = 2


class Worker(Protocol):
    """Something that is called in turns, and says how it wants to be woken when there is nothing to do."""

    def spin(self, until_s: float, busy_at_s: float, window_s: float) -> tuple[int, float]:
        """Do what can be done without the loop: turns of a kind of its own, spinning, and naps under bulk traffic.

        Until `until_s`, until nothing was to do for `window_s` (the last time having been at `busy_at_s`), or until a
        `turn` is called for. Returns LOOK, SLEEP or TURN, and when there was something to do last. A worker that can
        do nothing of the kind returns TURN and `busy_at_s`."""
        ...

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float) -> float | None:
        """Sleep until one of these descriptors has one of its poll(2) events, or for `timeout_s`, and do at once what
        there is to do then; after sleeps of `long_s` and more, go on. Returns how long the last sleep was that ended
        with something to do, -1.0 if none did; and None, without having slept, from a worker that can't."""
        ...

    def turn(self, now_s: float) -> int:
        """Do a bounded amount of work without blocking: how much it was, in bytes, and 0 if there was none.

        `now_s` is time.monotonic().
        """
        ...

    def before_sleep(self) -> float:
        """The loop is about to sleep: the longest time to do so, in seconds."""
        ...

    def interests(self) -> list[tuple[int, int]]:
        """Descriptors and poll(2) events that are to end the sleep."""
        ...

    def after_sleep(self, now_s: float, ready: list[tuple[int, int]], spins: bool) -> None:
        """Some of those descriptors, with these events, have ended it; `turn` comes next. `spins`: the next sleep is
        not to come at once."""
        ...


class WorkerLoop(Loop):
    """A loop that runs a worker too, in the same thread. What the worker raises comes out of `run`."""

    def __init__(self, *, spin_s: float = 0.0, max_spin_s: float = 0.0, gather_s: float = 0.0) -> None:
        """Under dense traffic sleep after `spin_s` to `max_spin_s` without work, else at once; under bulk traffic for
        `gather_s` at a time, or up to four times that where little gathers, after 2 x `gather_s` without work. 0 for
        `gather_s`: never."""
        super().__init__()
        self.worker: Worker | None = None
        self._spin_s = spin_s
        self._window_s = 0.0
        self._short_sleeps = 0
        self._busy_at_s = 0.0
        self._max_spin_s = max(spin_s, max_spin_s)
        self._gather_s = gather_s
        self._sleep_poll = select.poll()  # what is watched, and what the worker waits for
        self._interests: dict[int, int] = {}
        self._sleep_fds: dict[int, int] = {}  # all of _sleep_poll

    def _run_some(self) -> None:
        if self.worker is None:
            self._look(None)
        else:
            self._work(self.worker)

    def _work(self, worker: Worker) -> None:
        """Run as long as this is the worker."""
        turn, spin, clock, sched_yield = worker.turn, worker.spin, time.monotonic, os.sched_yield
        gather_s = nap_s = self._gather_s
        gathered = 0  # bytes, since the last nap
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
        """The worker was woken after so much idle time: would spinning have been better?"""
        if idle_s >= self._max_spin_s:
            self._short_sleeps = 0
            self._window_s = 0.0
        elif self._short_sleeps < _SHORT_SLEEPS:
            self._short_sleeps += 1
        else:
            self._window_s = min(max(2 * self._window_s, self._spin_s), self._max_spin_s)

    def _sleep(self, worker: Worker) -> None:
        """Sleep until anything happens. The worker comes first then, as every step is slow after a sleep."""
        limit_s = worker.before_sleep()
        wanted = dict(worker.interests())
        for fd in self._interests.keys() - wanted.keys():
            self._sleep_poll.unregister(fd)
            del self._sleep_fds[fd]
            if fd in self._callbacks:  # the number has been given to another since
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
