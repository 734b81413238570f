"""Selection of a job and a rank by the words of a command line: `[JOB] RANK …`.

JOB is a job's name or id and may be left out while one job runs. An ambiguous first word is a job if a running job
has that name or id and a rank follows.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Collection, Sequence

from mvpnet.control.registry import JobHandle, find_jobs, remove_dead_job, stopping_guests
from mvpnet.control.render import clock
from mvpnet.control.server import ranks_of
from mvpnet.errors import ConfigError, JobError
from mvpnet.logs import say
from mvpnet.util.text import duration

_RANK = re.compile(r"n?([0-9]+)")


def living_jobs() -> list[JobHandle]:
    """Return the running jobs; remove what dead jobs left, and print what was removed."""
    jobs = find_jobs()
    living = [job for job in jobs if job.alive]
    for job in jobs:
        if not job.alive:
            for line in tell_of_dead(job, {other.entry.name for other in living}):
                say(line)
    return living


def tell_of_dead(job: JobHandle, living: Collection[str]) -> list[str]:
    """Remove what a dead job left once its guests have ended.

    Args:
        job: The dead job.
        living: Names of the running jobs.

    Returns:
        Lines that say what was found and removed.
    """
    dead = f"job {job.entry.title} is dead: {_last_sign(job)}"
    if job.entry.name not in living and (guests := stopping_guests(job)):
        return [dead, f"{guests} of its guests here are being stopped still; look again to have the rest removed"]
    removed = remove_dead_job(job)
    return [dead, f"what it left on this host is removed; its run folder is kept: {job.entry.run_dir}", *removed]


def choose_job(name: str | None) -> JobHandle:
    """Return the job of this name or id, or without a name the only running job.

    Raises:
        JobError: No job or several jobs match.
    """
    jobs = living_jobs()
    if name is None:
        if len(jobs) == 1:
            return jobs[0]
        if not jobs:
            raise JobError("no job of yours runs on this host", hint="mvpnet ls, on the host where rank 0 runs")
        raise JobError(
            f"{len(jobs)} jobs run here, which one is meant?\n{_lines(jobs)}", hint="name it before the rank"
        )
    named = _named(name, jobs)
    if len(named) == 1:
        return named[0]
    if named:
        raise JobError(f"{len(named)} jobs have the name {name}\n{_lines(named)}", hint="give the id instead")
    raise JobError(f"there is no job {name}{_near(name, jobs)}", hint=_known(jobs))


def choose_rank(words: Sequence[str]) -> tuple[JobHandle, int, list[str]]:
    """Return job and rank of `[JOB] RANK …`, and the remaining words.

    Raises:
        JobError: No job or several jobs match.
        ConfigError: No rank was given.
    """
    first, *rest = words or [""]
    rank_follows = bool(rest) and is_rank(rest[0])
    if is_rank(first) and not (rank_follows and _named(first, find_jobs())):
        return _checked(choose_job(None), first), rank_number(first), rest
    if rank_follows:
        return _checked(choose_job(first), rest[0]), rank_number(rest[0]), rest[1:]
    if first:
        choose_job(first)  # a mistyped name of a job is the likelier reason; raises JobError
    given = f" {rest[0]!r} is none." if rest else ""
    raise ConfigError(f"a rank is missing.{given}", hint="it is a number from 0 on, or a guest's name, n0002")


def choose_rank_if_any(words: Sequence[str]) -> tuple[JobHandle, int | None]:
    """Return job and rank of `[JOB] [RANK]`; a single word is a job if a job has that name or id.

    Raises:
        JobError: No job or several jobs match.
        ConfigError: The rank is not one.
    """
    if len(words) == 2:
        job, rank, _ = choose_rank(words)
        return job, rank
    if not words:
        return choose_job(None), None
    if is_rank(words[0]) and not _named(words[0], find_jobs()):
        return _checked(choose_job(None), words[0]), rank_number(words[0])
    return choose_job(words[0]), None


def is_rank(word: str) -> bool:
    return _RANK.fullmatch(word) is not None


def rank_number(word: str) -> int:
    """Return the rank that a number or a guest's name means."""
    match = _RANK.fullmatch(word)
    assert match
    return int(match[1])


def _checked(job: JobHandle, word: str) -> JobHandle:
    size = job.entry.world_size
    if rank_number(word) >= size:
        raise JobError(f"there is no rank {word} in job {job.entry.title}: {ranks_of(size)}")
    return job


def _named(name: str, jobs: list[JobHandle]) -> list[JobHandle]:
    living = [job for job in jobs if job.alive]
    by_name = [job for job in living if job.entry.name == name]
    return by_name or [job for job in living if str(job.entry.pid) == name]


def _lines(jobs: list[JobHandle]) -> str:
    return "\n".join(f"  {job.entry.title}, {job.entry.world_size} ranks, in {job.entry.run_dir}" for job in jobs)


def _near(name: str, jobs: list[JobHandle]) -> str:
    close = difflib.get_close_matches(name, [job.entry.name for job in jobs], n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _known(jobs: list[JobHandle]) -> str:
    if not jobs:
        return "no job of yours runs on this host"
    return "jobs that run here: " + ", ".join(job.entry.title for job in jobs)


def _last_sign(job: JobHandle) -> str:
    seen_s = job.seen_s()
    return f"its last sign of life was at {clock(seen_s)}, {duration(max(0.0, time.time() - seen_s))} ago"
