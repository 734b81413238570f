"""Measures how far the hosts' clocks are apart, by round trips: rank 0 asks the first rank of every other host.

The answer was given somewhere within the round trip, so it is compared with the middle of that, and cannot be wrong by
more than half of it; the shortest of some round trips is taken (Cristian, 1989).
"""

from __future__ import annotations

import struct
import time

from mvpnet.doctor.checks import Skew
from mvpnet.mpi.world import World, patiently

_ROUNDS = 8
_TAG = 7
_TIME = struct.Struct("!d")  # seconds since 1970


def skews(world: World) -> dict[int, Skew]:
    """On rank 0, that of the first rank of each other host, by rank; on the others nothing. All ranks call it."""
    asked = [rank for rank in first_of_hosts(world.hosts) if rank]
    if world.rank == 0:
        return {rank: _ask(world, rank) for rank in asked}
    if world.rank in asked:
        _answer(world)
    return {}


def first_of_hosts(hosts: list[str]) -> list[int]:
    return [rank for rank, host in enumerate(hosts) if hosts.index(host) == rank]


def _ask(world: World, rank: int) -> Skew:
    best: Skew | None = None
    for _ in range(_ROUNDS):
        answer = bytearray(_TIME.size)
        coming = world.comm.Irecv(answer, source=rank, tag=_TAG)
        sent_s = time.time()
        began = time.monotonic()
        patiently(world.comm.Isend(b"?", dest=rank, tag=_TAG))
        patiently(coming)
        half_s = (time.monotonic() - began) / 2
        skew = Skew(_TIME.unpack(answer)[0] - (sent_s + half_s), half_s)
        best = skew if best is None or half_s < best.uncertain_s else best
    assert best
    return best


def _answer(world: World) -> None:
    for _ in range(_ROUNDS):
        patiently(world.comm.Irecv(bytearray(1), source=0, tag=_TAG))
        patiently(world.comm.Isend(_TIME.pack(time.time()), dest=0, tag=_TAG))
