"""The loop with real descriptors, signals and time; nothing here asserts how long something took."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from bell import Bell
from mvpnet.dataplane.worker_loop import WorkerLoop
from mvpnet.runtime.loop import Loop

DEADLINE_S = 20.0


@pytest.fixture(params=["plain", "without a worker", "with a worker"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    with ExitStack() as stack:
        loop = Loop()
        if request.param != "plain":
            loop = worker_loop = WorkerLoop(spin_s=1e-5, max_spin_s=1e-4)
            if request.param == "with a worker":
                worker_loop.worker = stack.enter_context(closing(Bell(worker_loop)))
        loop.call_later(DEADLINE_S, lambda: pytest.fail("the loop did not stop"))
        yield loop


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
