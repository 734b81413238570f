"""A worker for loops under test."""

from __future__ import annotations

import socket

from mvpnet.dataplane.worker_loop import TURN, WorkerLoop


class Bell:
    """A worker with one descriptor to be woken by, that counts what happens to it."""

    def __init__(self, loop: WorkerLoop, work: int = 0) -> None:
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
