"""A job, from rank 0's announcement to its verdict; one rank's life in it is `_live`, read top to bottom.

Rank 0 `lead`s, the others `follow`. All prepare and tell each other what failed; if nothing did, the guests start and
every rank runs its loop: guest, switch and app hang on it. Rank 0's `Conductor` hears of every change and says when to
stop. At the end the counters are gathered, and nothing of the job is left but its run folder.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from mvpnet.cloudinit.seed_files import seed_facts
from mvpnet.control.registry import Registration, RegistryEntry, register_job, sweep_number
from mvpnet.errors import RanksLostError
from mvpnet.guest.drives import check_shared_writes
from mvpnet.images import store
from mvpnet.images.boot import with_built_disk
from mvpnet.job.agreement import joined_error, prepare_here, short_here
from mvpnet.job.coordinator import JobOutcome
from mvpnet.job.messages import JobOrder, Provenance
from mvpnet.job.recording import ended, give_up, open_run_folder, record, warning_of
from mvpnet.job.session import RankSession
from mvpnet.logs import say
from mvpnet.mpi.world import World
from mvpnet.paths import RankLogs, RunFolder, scratch_base
from mvpnet.records.manifest import Recorder, own_inputs, rank_facts
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.app_steps import check_steps, steps_of
from mvpnet.spec.model import JobSpec


def lead(world: World, signals: StopSignals, spec: JobSpec, origin: Provenance | None = None) -> int:
    """Rank 0's part: mvpnet's exit code for this job.

    Raises MvpnetError for a job that was refused or did not come up.
    """
    scratch = str(scratch_base(spec.config.job.scratch_dir))
    number = sweep_number(spec.run_dir)
    entry = RegistryEntry(spec.name, os.getpid(), spec.world_size, str(spec.run_dir), scratch, number)
    with register_job(entry, say) as listing:
        return _lead(world, signals, spec, origin or Provenance(), listing)


def _lead(world: World, signals: StopSignals, spec: JobSpec, origin: Provenance, listing: Registration | None) -> int:
    for warning in spec.warnings():
        say(f"warning: {warning}")
    check_steps(steps_of(spec.config.app), spec.world_size)
    asked_digest = spec.digest()
    with signals.raising():
        spec = store.pin_images(spec, say)
    asked = (spec.for_rank(rank) for rank in range(spec.world_size))
    check_shared_writes([store.planned(with_built_disk(one)) for one in asked], world.hosts[: spec.world_size])
    keys = open_run_folder(RunFolder(spec.run_dir), spec, origin.keys)
    facts = seed_facts(keys.public, keys.private, Path.home(), os.environ)
    order = JobOrder(spec, keys, facts, asked_digest, origin.resume)
    recorder = Recorder(
        RunFolder(spec.run_dir), spec, world.hosts[: spec.world_size], origin.replays, resumes=origin.resumes
    )
    with warning_of(RunFolder(spec.run_dir).manifest):
        recorder.begin()
    world.broadcast(order)
    with world.part(spec.world_size) as part:
        assert part
        return _live(part, signals, order, recorder, listing)


def follow(world: World, signals: StopSignals, order: JobOrder) -> None:
    """The other ranks' part; those that the job does not need wait for the next."""
    with world.part(order.spec.world_size) as part:
        if part:
            _live(part, signals, order)


def _live(
    world: World,
    signals: StopSignals,
    order: JobOrder,
    recorder: Recorder | None = None,
    listing: Registration | None = None,
) -> int:
    """One rank's life in one job; on rank 0, the job's exit code. Raises, on rank 0, what made the job fail.

    Rank 0 alone has a recorder, and a place in the registry.
    """
    spec = order.spec.for_rank(world.rank)
    run = RunFolder(order.spec.run_dir)
    logs = RankLogs(run.rank_folder(world.rank, spec.logging.dir, spec.job_name))
    with ExitStack() as stack:
        ready, problem = None, short_here(world, spec)
        if not problem:
            ready, problem = prepare_here(world, signals, spec, order, logs, stack)
        answers = world.allgather((problem, ready.door if ready else None))
        problems = {rank: error for rank, (error, _) in enumerate(answers) if error}
        if problems:
            if recorder:
                verdict = JobOutcome("refused before any guest started", next(iter(problems.values())).exit_code)
                record(run, order, world, verdict, [])
                with warning_of(run.manifest):
                    recorder.ended("refused", asdict(verdict), [])
                raise joined_error(problems)
            return 0
        assert ready
        found = world.gather(rank_facts(world.rank, world.hosts, order.spec, ready))
        if recorder and found:
            with warning_of(run.manifest):
                recorder.started(found, own_inputs(order.spec))
        part = RankSession(world, signals, order, ready, run, [door for _, door in answers], listing)
        stack.callback(part.close)
        if part.conductor:
            part.write_ways_in(part.conductor)
        try:
            part.run()
        except RanksLostError as error:
            stack.close()
            give_up(world, order, run, part, recorder, error)
    return ended(world, signals, order, run, part, recorder)
