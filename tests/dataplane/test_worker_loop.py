"""The loop and its worker; what a loop does for others is tested in tests/runtime/test_loop.py, with a worker too."""

from __future__ import annotations

import os
import resource
import socket
import time

import pytest

from bell import Bell
from mvpnet.dataplane.worker_loop import LOOK, SLEEP, WorkerLoop

DEADLINE_S = 20.0


def test_the_worker_works_then_sleeps_until_woken() -> None:
    loop = WorkerLoop(spin_s=0.0)
    bell = Bell(loop, work=1000)
    loop.worker = bell
    loop.call_later(0.05, lambda: bell.theirs.send(b"!"))
    loop.run()
    assert bell.turns > 1000
    assert bell.sleeps >= 1
    assert bell.woken == 1
    bell.close()


def test_timers_are_not_starved_by_a_busy_worker() -> None:
    loop = WorkerLoop()
    bell = Bell(loop, work=1 << 60)
    loop.worker = bell
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert bell.sleeps == 0
    bell.close()


def test_a_descriptor_number_used_again_is_still_watched() -> None:
    """The worker's descriptor is closed, and its number given to a watched one, before the loop sleeps again."""
    loop = WorkerLoop(spin_s=0.0)
    bell = Bell(loop)
    loop.worker = bell
    number = bell.ours.fileno()

    def swap() -> None:
        ours, theirs = socket.socketpair()
        pair.extend((ours, theirs))
        bell.close()
        os.dup2(ours.fileno(), number)
        loop.watch(number, loop.stop)
        bell.interests = list  # type: ignore[method-assign]
        loop.call_later(0.02, lambda: theirs.send(b"x"))

    pair: list[socket.socket] = []
    loop.call_later(0.02, swap)
    loop.call_later(DEADLINE_S, lambda: pytest.fail("not woken"))
    loop.run()
    loop.unwatch(number)
    os.close(number)
    for end in pair:
        end.close()


def test_an_idle_loop_uses_no_processor() -> None:
    loop = WorkerLoop(spin_s=1e-4, max_spin_s=2e-3)
    bell = Bell(loop)
    loop.worker = bell
    loop.call_later(1.0, loop.stop)
    before, started = resource.getrusage(resource.RUSAGE_THREAD), time.monotonic()
    loop.run()
    after, ended = resource.getrusage(resource.RUSAGE_THREAD), time.monotonic()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.05 * (ended - started)
    bell.close()


def test_what_a_worker_does_without_the_loop_is_taken_for_what_it_says() -> None:
    """LOOK: timers and descriptors have a look, and it goes on; SLEEP: no turn before something happens; TURN."""
    loop = WorkerLoop(spin_s=0.0)
    bell = Bell(loop)
    bell.outcomes = [LOOK, LOOK, SLEEP]
    loop.worker = bell
    loop.call_later(0.0, lambda: bell.theirs.send(b"x"))
    loop.run()
    assert (bell.spins, bell.woken) == (3, 1)
    assert bell.turns == 0
    bell.close()
