"""The loop with real descriptors, signals and time; nothing here asserts how long something took."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mvpnet.runtime.loop import LOOK, SLEEP, TURN, Loop

DEADLINE_S = 20.0


class Bell:
    """A worker with one descriptor to be woken by, that counts what happens to it."""

    def __init__(self, loop: Loop, work: int = 0) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.work = work
        self.turns = self.sleeps = self.woken = self.spins = 0
        self.outcomes: list[int] = []
        self.loop = loop

    def spin(self, until_s: float, busy_at_s: float, window_s: float) -> tuple[int, float]:
        self.spins += 1
        return self.outcomes.pop(0) if self.outcomes else TURN, busy_at_s

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float) -> float | None:
        return None

    def turn(self, now_s: float) -> int:
        self.turns += 1
        self.work -= 1
        return self.work >= 0

    def before_sleep(self) -> float:
        self.sleeps += 1
        return 1.0

    def interests(self) -> list[tuple[int, int]]:
        return [(self.ours.fileno(), 1)]

    def after_sleep(self, now_s: float, ready: list[tuple[int, int]], spins: bool) -> None:
        assert [fd for fd, _ in ready] == [self.ours.fileno()]
        self.ours.recv(100)
        self.woken += 1
        self.loop.stop()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture(params=["alone", "with a worker"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    loop = Loop(spin_s=1e-5, max_spin_s=1e-4)
    loop.call_later(DEADLINE_S, lambda: pytest.fail("the loop did not stop"))
    if request.param == "alone":
        yield loop
        return
    bell = Bell(loop)
    loop.worker = bell
    yield loop
    bell.close()


def test_timers_run_in_order_and_only_once(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(0.02, lambda: ran.append("later"))
    loop.call_later(0.0, lambda: ran.append("first"))
    cancelled = loop.call_later(0.01, lambda: ran.append("cancelled"))
    cancelled.cancel()
    last = loop.call_later(0.03, loop.stop)
    assert last.pending
    loop.run()
    assert ran == ["first", "later"]
    assert not last.pending
    last.cancel()


def test_a_readable_descriptor(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        seen: list[bytes] = []

        def read() -> None:
            seen.append(ours.recv(100))
            if len(seen) == 1:
                theirs.close()
            else:
                loop.stop()

        loop.watch(ours.fileno(), read)
        loop.call_later(0.01, lambda: theirs.send(b"hello"))
        loop.run()
        loop.unwatch(ours.fileno())
        loop.unwatch(ours.fileno())
    assert seen == [b"hello", b""]


def test_reader_and_writer_of_one_descriptor(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        seen: list[str] = []

        def read() -> None:
            seen.append("read")
            loop.unwatch(ours.fileno())  # the writer is not to be called any more
            loop.stop()

        loop.watch(ours.fileno(), read)
        loop.watch(ours.fileno(), lambda: seen.append("written"), write=True)
        theirs.send(b"x")
        loop.run()
    assert seen == ["read"]


def test_a_writable_descriptor(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.watch(ours.fileno(), loop.stop, write=True)
        loop.run()
        loop.unwatch(ours.fileno())


def test_an_exception_comes_out_of_run(loop: Loop) -> None:
    def fail() -> None:
        raise LookupError("of a callback")

    loop.call_later(0.0, fail)
    with pytest.raises(LookupError, match="of a callback"):
        loop.run()
    loop.call_later(0.0, loop.stop)
    loop.run()


def test_a_signal_handler_runs_while_the_loop_sleeps(loop: Loop) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    try:
        loop.call_later(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_it_runs_outside_the_main_thread(loop: Loop) -> None:
    loop.call_later(0.0, loop.stop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_the_worker_works_then_sleeps_until_woken() -> None:
    loop = Loop(spin_s=0.0)
    bell = Bell(loop, work=1000)
    loop.worker = bell
    loop.call_later(0.05, lambda: bell.theirs.send(b"!"))
    loop.run()
    assert bell.turns > 1000
    assert bell.sleeps >= 1
    assert bell.woken == 1
    bell.close()


def test_timers_are_not_starved_by_a_busy_worker() -> None:
    loop = Loop()
    bell = Bell(loop, work=1 << 60)
    loop.worker = bell
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert bell.sleeps == 0
    bell.close()


def test_a_descriptor_number_used_again_is_still_watched() -> None:
    """The worker's descriptor is closed, and its number given to a watched one, before the loop sleeps again."""
    loop = Loop(spin_s=0.0)
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
    loop = Loop(spin_s=1e-4, max_spin_s=2e-3)
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
    loop = Loop(spin_s=0.0)
    bell = Bell(loop)
    bell.outcomes = [LOOK, LOOK, SLEEP]
    loop.worker = bell
    loop.call_later(0.0, lambda: bell.theirs.send(b"x"))
    loop.run()
    assert (bell.spins, bell.woken) == (3, 1)
    assert bell.turns == 0
    bell.close()
