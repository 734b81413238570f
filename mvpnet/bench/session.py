"""Session of a bench: rank 0 leads, the other ranks follow."""

from __future__ import annotations

import sys

from mpi4py import MPI

from mvpnet.bench.node import Node
from mvpnet.bench.workloads import Bench, Plan, Result
from mvpnet.mpi.launch import Launch
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals


def follow(world: World, signals: StopSignals) -> int:
    """Take part, as a rank above 0, in what rank 0 announces, and return the exit code that it sends."""
    while not isinstance(net := world.broadcast(), int):
        node = Node(world, signals, net)
        node.follow()
        node.close()
    return net


def run(launch: Launch, plan: Plan) -> list[Result]:
    """Run the plan with all ranks; raise what `Node.ask` does, after telling the other ranks that the bench is over."""
    results: list[Result] = []

    def say(what: str) -> None:
        sys.stderr.write(f"{len(results) + 1:2}/{plan.steps()}  {net.kind.name:6}  {what}\n")
        sys.stderr.flush()

    for net in plan.nets:
        launch.world.broadcast(net)
        node = Node(launch.world, launch.signals, net)
        try:
            for result in Bench(node, plan, net.kind, launch.world.size, say).results():
                results.append(result)
        finally:
            node.end()
            node.close()
    return results


def mpi_library() -> str:
    """Return name and version of the MPI library."""
    return MPI.Get_library_version().splitlines()[0].rstrip("\0 ")
