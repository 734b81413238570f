"""Rank 0 of a launch without a verb: composes what is asked for, and runs each job together with the other ranks."""

from __future__ import annotations

import sys

from mvpnet.cli.outcome import report_error, worst
from mvpnet.config import compose
from mvpnet.errors import MvpnetError
from mvpnet.job import lifecycle
from mvpnet.job.messages import Provenance
from mvpnet.job.resume import is_resume, saved_job
from mvpnet.logs import write_quietly
from mvpnet.mpi.world import World
from mvpnet.records.result import jobs_ran
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.model import JobSpec


def lead(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Run the job or the sweep; send the exit code to the other ranks and return it."""
    codes_of_stopped: list[int] = []

    def run_job(spec: JobSpec) -> int:
        try:
            code = lifecycle.lead(world, signals, spec)
        except MvpnetError as error:
            if not signals.received:
                raise
            code = report_error(error)
        if signals.received:
            codes_of_stopped.append(code)
            raise compose.SweepStopped
        return code

    try:
        world.refuse_mixed_versions()
        codes = (
            [resume(world, signals, argv)] if is_resume(argv) else compose.run(argv, world.size, run_job, report_error)
        )
    except MvpnetError as error:
        codes = [report_error(error)]
    code = worst(codes + codes_of_stopped)
    if len(codes) > 1:
        write_quietly(sys.stderr, f"mvpnet: {jobs_ran(len(codes), sum(1 for one in codes if one))}\n".encode())
    world.broadcast(code)
    return code


def resume(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Run a job that goes on from a save. Raises MvpnetError."""
    with signals.raising():
        found = saved_job(argv, world.size)
    return lifecycle.lead(
        world, signals, found.spec, Provenance(resumes=found.record, resume=found.resume, keys=found.keys)
    )
