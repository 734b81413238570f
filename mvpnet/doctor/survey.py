"""Brings together on rank 0 what all ranks found on their hosts.

Rank 0 announces the job, every rank that takes part looks, and the clocks are compared.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from mvpnet import __version__
from mvpnet.doctor.checks import RankView, findings, version
from mvpnet.doctor.clocks import skews
from mvpnet.doctor.facts import Facts, look
from mvpnet.doctor.mpi import MpiFacts, mpi_facts
from mvpnet.errors import MpiError
from mvpnet.host.finding import Finding, merged
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.app_steps import steps_of
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import AppKind


def lead(world: World, job: JobSpec) -> list[Finding]:
    """Rank 0's part: the lines about all ranks that the job takes.

    Where not all have the same mvpnet, that is the only thing told: others need not understand what this one asks.
    """
    if len(set(world.versions)) > 1:
        first = world.versions[0]
        return merged(version(world.hosts[rank], rank, own, first) for rank, own in enumerate(world.versions))
    world.broadcast(job)
    found = world.gather(_own(world, job))
    assert found
    ahead = skews(world)
    views = []
    for rank in range(job.world_size):
        runs_ssh = rank == 0 and _runs_ssh(job)
        views.append(RankView(job.for_rank(rank), found[rank], world.versions[rank], ahead.get(rank), runs_ssh))
    return findings(views)


def follow(world: World, _: StopSignals) -> int:
    """The other ranks: take part in what rank 0 announces, until it sends the exit code."""
    while not isinstance(job := world.broadcast(), int):
        world.gather(_own(world, job))
        skews(world)
    return job


def _own(world: World, job: JobSpec) -> Facts | None:
    """What this rank finds; None where the job does not need it."""
    if world.rank >= job.world_size:
        return None
    facts = mpi_facts(os.environ, world.size)
    return look(job.for_rank(world.rank), world.hosts[world.rank], world.most_ranks_on_one_host(), facts)


def alone(job: JobSpec, trouble: MpiError | None = None) -> list[Finding]:
    """The lines about this host, were all of the job's ranks on it; with what keeps MPI from starting."""
    refused = (trouble.message, trouble.hint) if trouble else None
    mpi = MpiFacts(refused=refused) if refused else mpi_facts(os.environ, 1)
    return findings(list(_views(job, mpi)))


def _views(job: JobSpec, mpi: MpiFacts) -> Iterator[RankView]:
    host = socket.gethostname()
    for rank in range(job.world_size):
        spec = job.for_rank(rank)
        yield RankView(spec, look(spec, host, job.world_size, mpi), __version__, runs_ssh=rank == 0 and _runs_ssh(job))


def _runs_ssh(job: JobSpec) -> bool:
    return any(step.kind is AppKind.guest for step in steps_of(job.config.app))
