"""Who falls silent is told, once; who is heard of is not."""

from __future__ import annotations

from mvpnet.job.heartbeat import Heartbeat
from mvpnet.runtime.loop import Loop


def run(heartbeat_timeout_s: float, peers: list[int], talking: set[int], beats: int) -> tuple[list[list[int]], int]:
    """What was lost within so many beats, and how many beats there were; those who talk are heard at each."""
    loop, lost, count = Loop(), [], 0

    def beat() -> None:
        nonlocal count
        count += 1
        for peer in talking:
            heartbeat.heard(peer)
        if count == beats:
            loop.stop()

    def tell(silent: list[int]) -> None:
        lost.append(silent)
        loop.stop()

    heartbeat = Heartbeat(loop, heartbeat_timeout_s, peers, beat=beat, lost=tell)
    loop.run()
    return lost, count


def test_those_who_fall_silent_are_told() -> None:
    assert run(0.05, [1, 2, 3], talking={2}, beats=100) == ([[1, 3]], 10)


def test_nobody_is_lost_who_is_heard_of() -> None:
    assert run(0.05, [1, 2], talking={1, 2}, beats=30) == ([], 30)


def test_zero_is_never_and_a_job_of_one_rank_waits_for_nobody() -> None:
    for heartbeat_timeout_s, peers in ((0.0, [1]), (0.01, [])):
        loop = Loop()
        Heartbeat(loop, heartbeat_timeout_s, peers, beat=lambda: 1 / 0, lost=lambda _: 1 / 0)
        loop.call_later(0.1, loop.stop)
        loop.run()
