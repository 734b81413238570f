"""Rendering of jobs and ranks as text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypedDict

from rich import box
from rich.table import Table

from mvpnet.control.protocol import Message
from mvpnet.control.registry import ANSWERING, JobHandle
from mvpnet.dataplane.address import host_name, ipv4_text
from mvpnet.util.tables import table_text
from mvpnet.util.text import duration

FORMAT = 1
_RATES = ("frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest")


class JobFacts(TypedDict):
    """One job in the output of `mvpnet ls --json`. Times in seconds."""

    name: str
    id: int
    phase: str
    started: float
    age_s: float
    ranks: int
    host: str
    run_dir: str
    sweep_job: int | None
    version: str


class EndFacts(TypedDict):
    """How a guest ended."""

    how: str
    reason: str
    cause: str | None


class RankFacts(TypedDict):
    """One rank in the output of `mvpnet status --json`; the rank's own values are None while it does not answer."""

    rank: int
    name: str
    host: str
    address: str
    ssh_port: int
    user: str
    state: str
    state_since: float | None
    up_s: float | None
    restarts: int | None
    answers: bool
    qemu_pid: int | None
    qemu_version: str | None
    end: EndFacts | None
    counters: dict[str, Any] | None
    rates: dict[str, float] | None


class StatusFacts(TypedDict):
    """Output of `mvpnet status --json`."""

    format: int
    job: JobFacts
    ranks: list[RankFacts]


def clock(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def amount(number: float) -> str:
    """Format a number with three digits and a decimal prefix: `12`, `3.4 k`, `56.7 M`."""
    for prefix in ("", " k", " M", " G", " T"):
        if number < 999.5:
            return f"{number:.3g}{prefix}"
        number /= 1000
    return f"{number:.3g} P"


def job_facts(job: JobHandle, phase: str) -> JobFacts:
    entry = job.entry
    return {
        "name": entry.name,
        "id": entry.pid,
        "phase": phase,
        "started": round(entry.started_s, 3),
        "age_s": round(entry.age_s, 3),
        "ranks": entry.world_size,
        "host": entry.host,
        "run_dir": entry.run_dir,
        "sweep_job": entry.sweep_number,
        "version": entry.version,
    }


def jobs_table(jobs: Sequence[JobFacts], width: int) -> str:
    table = Table("job", "id", "phase", "age", "ranks", "run folder", box=box.SIMPLE_HEAD)
    for job in jobs:
        name = job["name"] if job["sweep_job"] is None else f"{job['name']} (job {job['sweep_job']} of a sweep)"
        cells = [str(job["id"]), job["phase"], duration(job["age_s"]), str(job["ranks"]), job["run_dir"]]
        table.add_row(name, *cells)
    table.columns[-1].overflow = "fold"
    return table_text(table, width=width)


def status_facts(job: JobHandle, first: Message | None, second: Message | None) -> StatusFacts:
    """Return the output of `mvpnet status --json`.

    Args:
        job: The job.
        first: An answer to `status`; None while the job does not answer.
        second: A later answer to `status`; rates are computed between the two.
    """
    phase = second["phase"] if second else job.entry.phase
    ranks = [_rank_facts(rank, first, second) for rank in range(job.entry.world_size)] if first and second else []
    return {"format": FORMAT, "job": job_facts(job, phase), "ranks": ranks}


def _rank_facts(rank: int, first: Message, second: Message) -> RankFacts:
    endpoint, end = second["doors"][rank], second["ends"].get(str(rank))
    before, now = (answers["ranks"][rank].get("ok") for answers in (first, second))
    facts: RankFacts = {
        "rank": rank,
        "name": host_name(rank),
        "host": endpoint["host"],
        "address": ipv4_text(rank),
        "ssh_port": endpoint["port"],
        "user": endpoint["user"],
        "state": now["state"] if now else second["states"][rank],
        "state_since": None,
        "up_s": None,
        "restarts": now["restarts"] if now else None,
        "answers": now is not None,
        "qemu_pid": now["qemu_pid"] if now else None,
        "qemu_version": now["qemu_version"] if now else None,
        "end": {"how": end["how"], "reason": end["reason"], "cause": end["cause"]} if end else None,
        "counters": now["counters"] if now else None,
        "rates": None,
    }
    if now and now["states"]:
        facts["state_since"] = now["states"][-1][1]
        up = [at for state, at in now["states"] if state == "up"]
        if up and facts["state"] in ("up", "running"):
            facts["up_s"] = round(now["time_s"] - up[-1], 3)
    if before and now and now["time_s"] > before["time_s"]:
        facts["rates"] = rates(before, now)
    return facts


def rates(before: Message, now: Message) -> dict[str, float]:
    """Return counter rates per second between two statuses of one rank."""
    took_s = now["time_s"] - before["time_s"]
    grown = {key: now["counters"][key] - before["counters"][key] for key in _RATES}
    grown["drops"] = sum(now["counters"]["drops"].values()) - sum(before["counters"]["drops"].values())
    return {f"{key}_per_s": round(number / took_s, 1) for key, number in grown.items()}


def status_text(status: StatusFacts, width: int) -> str:
    job = status["job"]
    of_sweep = "" if job["sweep_job"] is None else f", job {job['sweep_job']} of a sweep"
    age = duration(job["age_s"])
    head = f"job {job['name']} (id {job['id']}{of_sweep}): {job['phase']}, {age} old\n{job['run_dir']}\n"
    if not status["ranks"]:
        return head
    return head + _ranks_table(status["ranks"], width)


def _ranks_table(ranks: Sequence[RankFacts], width: int) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("guest", "host", "state", "up", "ssh"):
        table.add_column(heading)
    for heading in ("sends\nframes/s", "\nbit/s", "is sent\nframes/s", "\nbit/s", "drops"):
        table.add_column(heading, justify="right")
    for rank in ranks:
        table.add_row(*_cells(rank))
    return table_text(table, width=width)


def _cells(rank: RankFacts) -> list[str]:
    state = rank["state"] if rank["answers"] else f"{rank['state']}, does not answer"
    if rank["restarts"]:
        state += f", restarted {rank['restarts']} times" if rank["restarts"] > 1 else ", restarted once"
    if rank["end"]:
        state += f": {rank['end']['reason']}"
    up = "" if rank["up_s"] is None else duration(rank["up_s"])
    return [rank["name"], rank["host"], state, up, str(rank["ssh_port"]), *_traffic(rank)]


def _traffic(rank: RankFacts) -> list[str]:
    if not rank["rates"] or not rank["counters"]:
        return [""] * 5
    per_s = rank["rates"]
    ways = [(per_s[f"frames_{way}_guest_per_s"], 8 * per_s[f"bytes_{way}_guest_per_s"]) for way in ("from", "to")]
    return [amount(number) for way in ways for number in way] + [str(sum(rank["counters"]["drops"].values()))]


def shown_phase(job: JobHandle) -> str | None:
    """Return the phase in the entry of a job that does not answer now; None for a job that answers requests."""
    return None if job.entry.phase == ANSWERING else job.entry.phase
