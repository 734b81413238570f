"""The ranks above 0 of a launch that runs jobs."""

from __future__ import annotations

from mvpnet.job import lifecycle
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals


def follow(world: World, signals: StopSignals) -> int:
    """Take part in every job that rank 0 announces, until it sends the exit code."""
    while not isinstance(order := world.broadcast(), int):
        lifecycle.follow(world, signals, order)
    return order
