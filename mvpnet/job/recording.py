"""What a job leaves in its run folder, from its start to its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loguru import logger

from mvpnet.errors import HostError, RanksLostError
from mvpnet.job.coordinator import GuestReport, JobOutcome
from mvpnet.job.messages import JobOrder
from mvpnet.job.session import RankSession
from mvpnet.logs import say
from mvpnet.mpi.world import World
from mvpnet.paths import RunFolder, cache_base
from mvpnet.records.inputs import digest_all, shared_out
from mvpnet.records.manifest import Recorder
from mvpnet.records.result import result
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import plain
from mvpnet.ssh import KeyPair, make_key_pair
from mvpnet.util.files import make_private, write_json, write_private
from mvpnet.util.text import timestamp


def give_up(
    world: World, order: JobOrder, run: RunFolder, part: RankSession, recorder: Recorder | None, error: RanksLostError
) -> None:
    """End all ranks that MPI still reaches; nothing can be agreed on with the others. Rank 0 leaves its records."""
    logger.error("{}", error)
    if recorder and part.conductor:
        verdict = JobOutcome(str(error), error.exit_code)
        reports = [report for _, report in sorted(part.conductor.reports.items())]
        with warning_of(run.manifest):
            recorder.ended("completed", asdict(verdict), [asdict(report) for report in reports])
        record(run, order, world, verdict, reports, part)
        say(f"{error}; the job is given up; see {run.root}")
    world.abort(error.exit_code)


def open_run_folder(run: RunFolder, spec: JobSpec, keys: KeyPair | None) -> KeyPair:
    """Make the run folder this job's, with its key pair: `keys`, or a new one.

    Raises ConfigError when another run is in it, HostError when it cannot be written.
    """
    run.refuse_another_run("hydra.run.dir", hint="leave it out, or name a new folder")
    try:
        make_private(run.root)
        if {path.name for path in run.root.iterdir()} <= {".hydra"}:  # made for this job, by Hydra, with the umask
            run.root.chmod(0o700)
        _write_job(run, spec, {"started": timestamp()})
        run.ssh_key.unlink(missing_ok=True)
        if keys:
            write_private(run.ssh_key, keys.private)
            run.ssh_key.with_suffix(".pub").write_text(keys.public)
            return keys
        make_key_pair(run.ssh_key, f"mvpnet job {spec.name}")
        public = run.ssh_key.with_suffix(".pub").read_text()
        return KeyPair(public, run.ssh_key.read_text())
    except OSError as error:
        raise HostError(f"hydra.run.dir: cannot write {run.root}: {error.strerror}") from error


def _write_job(run: RunFolder, spec: JobSpec, facts: dict[str, Any]) -> None:
    write_json(run.job_json, {"spec": plain(spec), "digest": spec.digest(), **facts})


def ended(
    world: World, signals: StopSignals, order: JobOrder, run: RunFolder, part: RankSession, recorder: Recorder | None
) -> int:
    """Gather what the ranks counted; on rank 0, record it and give the verdict."""
    gathered = world.gather((part.account(), part.states))
    if recorder is None or gathered is None:
        _digest_inputs(world, signals, order.spec, run, None)
        return 0
    assert part.conductor and part.conductor.verdict
    counters = [counts for counts, _ in gathered]
    reports = [report for _, report in sorted(part.conductor.reports.items())]
    with warning_of(run.manifest):
        guests = [asdict(report) for report in reports]
        recorder.ended("completed", asdict(part.conductor.verdict), guests, [states for _, states in gathered])
    if order.spec.config.logging.stats:
        with warning_of(run.stats_json):
            run.stats_json.write_text(json.dumps(traffic(counters), indent=1) + "\n")
    record(run, order, world, part.conductor.verdict, reports, part)
    _digest_inputs(world, signals, order.spec, run, recorder)
    say(f"the job is over: {part.conductor.verdict.how}{part.conductor.restarted()}; see {run.root}")
    if error := part.conductor.boot_error():
        raise error
    return part.conductor.verdict.code


def _digest_inputs(
    world: World, signals: StopSignals, spec: JobSpec, run: RunFolder, recorder: Recorder | None
) -> None:
    """Digest, all ranks together, what could not be digested before the guests ran; not once a signal came."""
    limit_s = spec.config.logging.digest_timeout_s
    shares = world.broadcast(shared_out(recorder.inputs) if recorder and limit_s else {})
    if not shares:
        return
    own = shares.get(world.rank, [])
    cache = cache_base(spec.config.image.cache_dir)
    found = world.gather(digest_all(own, cache, limit_s, go_on=lambda: signals.received is None))
    if recorder and found:
        with warning_of(run.manifest):
            recorder.digested([one for inputs in found for one in inputs])


def record(
    run: RunFolder,
    order: JobOrder,
    world: World,
    verdict: JobOutcome,
    reports: list[GuestReport],
    part: RankSession | None = None,
) -> None:
    """job.json, and last of all result.json: a folder that has it is of a job that ended."""
    now = timestamp()
    times = {"started": part.started if part else now, "ended": now}
    facts = {
        **times,
        "hosts": world.hosts,
        "verdict": asdict(verdict),
        "guests": [asdict(report) for report in reports],
    }
    with warning_of(run.job_json):
        _write_job(run, order.spec, facts)
    whole = result(
        how=verdict.how,
        code=verdict.code,
        digest=order.asked_digest,
        repeat=order.spec.repeat,
        times={**times, **(part.seconds() if part else {})},
        app=part.app if part else None,
        restarts=part.conductor.restarts.total() if part and part.conductor else 0,
    )
    with warning_of(run.result_json):
        write_json(run.result_json, whole)


@contextmanager
def warning_of(path: Path) -> Iterator[None]:
    """A record that cannot be written, say for a full disk, does not undo the job: it is warned of."""
    try:
        yield
    except OSError as error:
        say(f"warning: cannot write {path}: {error.strerror}")


def traffic(counters: list[dict[str, Any]]) -> dict[str, Any]:
    """stats.json: the counters of each rank, and bytes from rank to rank where there were any."""
    matrix = {str(rank): counts.pop("bytes_by_destination") for rank, counts in enumerate(counters)}
    return {"ranks": counters, "traffic_bytes": {rank: row for rank, row in matrix.items() if row}}
