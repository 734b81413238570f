"""Life cycle of a job, from rank 0's order to the outcome; `_live` is one rank's part, in order.

Rank 0 `lead`s, the others `follow`. All prepare and tell each other what failed; if nothing did, the guests start and
every rank runs its loop: guest, switch and app hang on it. Rank 0's `Coordinator` hears of every change and says when
to stop. At the end the counters are gathered, and nothing of the job is left but its run folder.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from loguru import logger

from mvpnet.cloudinit.seed_files import seed_facts
from mvpnet.control.registry import Registration, RegistryEntry, register_job, sweep_number
from mvpnet.errors import RanksLostError
from mvpnet.guest.drives import check_shared_writes
from mvpnet.images import store
from mvpnet.images.boot import with_built_disk
from mvpnet.job.agreement import joined_error, prepare_here, short_here
from mvpnet.job.coordinator import JobOutcome
from mvpnet.job.lead import LeadDuties
from mvpnet.job.messages import JobOrder, Provenance
from mvpnet.job.recording import RunRecords, open_run_folder
from mvpnet.job.session import RankSession
from mvpnet.logs import say
from mvpnet.mpi.world import World
from mvpnet.paths import RankLogs, RunFolder, cache_base, scratch_base
from mvpnet.records.inputs import digest_all, shared_out
from mvpnet.records.manifest import rank_facts
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.app_steps import check_steps, steps_of
from mvpnet.spec.model import JobSpec


def lead(world: World, signals: StopSignals, spec: JobSpec, provenance: Provenance | None = None) -> int:
    """Lead a job as rank 0 and return mvpnet's exit code.

    Raises:
        MvpnetError: The job was refused or did not come up.
    """
    scratch = str(scratch_base(spec.config.job.scratch_dir))
    number = sweep_number(spec.run_dir)
    entry = RegistryEntry(spec.name, os.getpid(), spec.world_size, str(spec.run_dir), scratch, number)
    with register_job(entry, say) as registration:
        return _lead(world, signals, spec, provenance or Provenance(), registration)


def _lead(
    world: World, signals: StopSignals, spec: JobSpec, provenance: Provenance, registration: Registration | None
) -> int:
    for warning in spec.warnings():
        say(f"warning: {warning}")
    order = _order(world, signals, spec, provenance)
    records = RunRecords(order, world.hosts[: spec.world_size], provenance)
    records.opened()
    world.broadcast(order)
    with world.part(spec.world_size) as part:
        assert part
        return _live(part, signals, order, records, registration)


def _order(world: World, signals: StopSignals, spec: JobSpec, provenance: Provenance) -> JobOrder:
    """Pin the images that the spec names, refuse an impossible job, and open the run folder."""
    check_steps(steps_of(spec.config.app), spec.world_size)
    asked_digest = spec.digest()
    with signals.raising():
        spec = store.pin_images(spec, say)
    asked = (spec.for_rank(rank) for rank in range(spec.world_size))
    check_shared_writes([store.planned(with_built_disk(one)) for one in asked], world.hosts[: spec.world_size])
    keys = open_run_folder(RunFolder(spec.run_dir), spec, provenance.keys)
    ranks = (spec.for_rank(rank) for rank in range(spec.world_size))
    facts = seed_facts(keys.public, keys.private, ranks, Path.home(), os.environ)
    return JobOrder(spec, keys, facts, asked_digest, provenance.resume)


def follow(world: World, signals: StopSignals, order: JobOrder) -> None:
    """Take part in a job as a rank other than 0; ranks that it does not need wait for the next job."""
    with world.part(order.spec.world_size) as part:
        if part:
            _live(part, signals, order)


def _live(
    world: World,
    signals: StopSignals,
    order: JobOrder,
    records: RunRecords | None = None,
    registration: Registration | None = None,
) -> int:
    """Live one rank's life in one job; on rank 0, the job's exit code. Raises, on rank 0, what made the job fail.

    Rank 0 alone has records, and a place in the registry.
    """
    spec = order.spec.for_rank(world.rank)
    run = RunFolder(order.spec.run_dir)
    logs = RankLogs(run.rank_folder(world.rank, spec.logging.dir, spec.job_name))
    with ExitStack() as stack:
        ready, problem = None, short_here(world, spec)
        if not problem:
            ready, problem = prepare_here(world, signals, spec, order, logs, stack)
        answers = world.allgather((problem, ready.endpoint if ready else None))
        problems = {rank: error for rank, (error, _) in enumerate(answers) if error}
        if problems:
            if records:
                records.refused(next(iter(problems.values())).exit_code)
                raise joined_error(problems)
            return 0
        assert ready
        found = world.gather(rank_facts(world.rank, world.hosts, order.spec, ready))
        if records and found:
            records.started(found)
        session = RankSession(
            world, signals, order, ready, [endpoint for _, endpoint in answers if endpoint], registration
        )
        stack.callback(session.close)
        if session.lead:
            session.lead.write_access_files()
        try:
            session.run()
        except RanksLostError as error:
            stack.close()
            _give_up(world, run, session.lead, records, error)
    return _ended(world, signals, order, run, session, records)


def _give_up(
    world: World, run: RunFolder, lead_duties: LeadDuties | None, records: RunRecords | None, error: RanksLostError
) -> None:
    """End all ranks that MPI still reaches; nothing can be agreed on with the others. Rank 0 leaves its records."""
    logger.error("{}", error)
    if records and lead_duties:
        records.gave_up(JobOutcome(str(error), error.exit_code), lead_duties.summary())
        say(f"{error}; the job is given up; see {run.root}")
    world.abort(error.exit_code)


def _ended(
    world: World,
    signals: StopSignals,
    order: JobOrder,
    run: RunFolder,
    session: RankSession,
    records: RunRecords | None,
) -> int:
    """Gather what the ranks counted; on rank 0, record it and give the verdict."""
    gathered = world.gather((session.account(), session.guest.states))
    if records is None or gathered is None:
        _digest_inputs(world, signals, order.spec, None)
        return 0
    assert session.lead and session.lead.coordinator.verdict
    coordinator = session.lead.coordinator
    outcome = session.lead.coordinator.verdict
    records.ended(
        outcome,
        session.lead.summary(),
        [account for account, _ in gathered],
        [states for _, states in gathered],
    )
    _digest_inputs(world, signals, order.spec, records)
    say(f"the job is over: {outcome.how}{coordinator.restarted()}; see {run.root}")
    if error := coordinator.boot_error():
        raise error
    return outcome.code


def _digest_inputs(world: World, signals: StopSignals, spec: JobSpec, records: RunRecords | None) -> None:
    """Digest, all ranks together, what could not be digested before the guests ran; not once a signal came."""
    limit_s = spec.config.logging.digest_timeout_s
    shares = world.broadcast(shared_out(records.inputs) if records and limit_s else {})
    if not shares:
        return
    own = shares.get(world.rank, [])
    cache = cache_base(spec.config.image.cache_dir)
    found = world.gather(digest_all(own, cache, limit_s, go_on=lambda: signals.received is None))
    if records and found:
        records.digested([one for inputs in found for one in inputs])
