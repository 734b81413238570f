"""The verbs for a job that runs: `mvpnet ls`, `status`, `ssh`, `console`, `logs`, `monitor`, and those that end it.

They work on the host of the job's rank 0, in any folder, without MPI (docs/hands-on.md).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from mvpnet.cli.completion import Words
from mvpnet.control.client import GLANCE_S, Connection, ask
from mvpnet.control.protocol import PROTOCOL, Message, peer_of
from mvpnet.control.registry import JobHandle, find_jobs
from mvpnet.control.render import StatusFacts, job_facts, jobs_table, shown_phase, status_facts, status_text
from mvpnet.control.select import choose_job, choose_rank, choose_rank_if_any, living_jobs
from mvpnet.control.tail import show
from mvpnet.control.terminal import attend, escape_byte
from mvpnet.dataplane.address import host_name
from mvpnet.errors import ConfigError, GuestError, HostError, JobError
from mvpnet.logs import say
from mvpnet.paths import RankLogs, RunFolder
from mvpnet.util.tables import PLAIN_WIDTH

_LOOK_AGAIN_S = 0.1
_LOGS = {
    "console": "logging.console=true",
    "mvpnet": "logging.file=true",
    "qemu": "",
    "wrapper": "logging.wrapper=true",
}


def _width() -> int:
    return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if sys.stdout.isatty() else PLAIN_WIDTH


def _print(text: str | bytes) -> None:
    """A reader that is gone ends us, unlike a job."""
    click.echo(text, nl=False)


# ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each job")
def ls(as_json: bool) -> None:
    """List your jobs on this host: name, id, phase, age, ranks, run folder. Of dead ones the leftovers are removed."""
    facts = [job_facts(job, phase_of(job)) for job in living_jobs()]
    if as_json:
        _print(json.dumps(facts, indent=1) + "\n")
    elif facts:
        _print(jobs_table(facts, _width()))
    else:
        say("no job of yours runs on this host")


def phase_of(job: JobHandle) -> str:
    """As the job says, or why it does not."""
    if job.entry.protocol != PROTOCOL:
        return f"of mvpnet {job.entry.version}, not to be asked"
    try:
        return shown_phase(job) or str(ask(job, {"do": "job"}, GLANCE_S)["phase"])
    except JobError:
        return "ended" if job.ended() else shown_phase(_again(job)) or "does not answer"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON; with --watch an object a line")
@click.option("--watch", is_flag=True, help="again and again, until the job ends or Ctrl-C")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="what rates are measured over, and with --watch how often",
)
@click.argument("words", metavar="[JOB]", nargs=-1, type=Words(takes_rank=False))
def status(as_json: bool, watch: bool, interval_s: float, words: tuple[str, ...]) -> None:
    """Show a job: its phase, and each rank's host, state, uptime, ssh port and traffic."""
    job = _job(words)
    for facts in _statuses(job, interval_s, watch):
        if as_json:
            _print(json.dumps(facts, indent=None if watch else 1) + "\n")
        else:
            _print(("\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else "") + status_text(facts, _width()))
    if watch:
        say(f"job {job.entry.title} has ended; {job.entry.run_dir} is its run folder")


def _statuses(job: JobHandle, interval_s: float, watch: bool) -> Iterator[StatusFacts]:
    """Accounts of a job, one, or until it ends. Raises JobError for a job that ends before its first."""
    before = None
    shown = False
    while True:
        now = _account(job)
        if now is None and job.ended():
            if shown:
                return
            raise JobError(f"job {job.entry.title} has ended", hint=f"its run folder is {job.entry.run_dir}")
        if before or now is None:
            yield status_facts(job, before, now)
            shown = True
            if not watch:
                return
        before = now
        time.sleep(interval_s)
        job = _again(job)


def _account(job: JobHandle) -> Message | None:
    """What the job answers; None while it is not to be asked, or ends just now."""
    if shown_phase(job):
        return None
    try:
        answer: Message = ask(job, {"do": "status"})
        return answer
    except JobError:
        again = _again(job)  # before it is looked whether the job has ended: it may end in between
        if shown_phase(again) or job.ended():
            return None
        raise


def _again(job: JobHandle) -> JobHandle:
    """The same job with what its entry says now."""
    return next((found for found in find_jobs() if found.folder == job.folder), job)


def _job(words: Sequence[str]) -> JobHandle:
    if len(words) > 1:
        raise ConfigError(f"one job is expected, not {' '.join(words)}")
    return choose_job(words[0] if words else None)


# ── into the guests ───────────────────────────────────────────────────────────────────────────────────────────────

_TO_THE_END = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=_TO_THE_END)
@click.argument("words", metavar="[JOB] RANK [COMMAND ...]", nargs=-1, type=Words())
def ssh(words: tuple[str, ...]) -> None:
    """Log in to a guest, or run a command there; its exit code is this one's, 255 where ssh itself failed."""
    job, rank, command = choose_rank(words)
    known = ask(job, {"do": "job"})
    if known["states"][rank] == "gone":
        raise GuestError(f"{host_name(rank)} is gone{_end_of(known, rank)}")
    config = RunFolder(Path(job.entry.run_dir)).ssh_config
    try:
        os.execvp("ssh", ["ssh", "-F", str(config), host_name(rank), *command])
    except FileNotFoundError:
        raise HostError("ssh is not installed", hint="install openssh-client") from None


def _end_of(known: Message, rank: int) -> str:
    end = known["ends"].get(str(rank))
    return f": {end['reason']}" if end else ""


@click.command()
@click.option("--escape", "escape_text", default="^]", show_default=True, help="leaves: ^X for Ctrl-X, or none")
@click.option("--read-only", is_flag=True, help="only watch; what you type is not read, and Ctrl-C leaves")
@click.argument("words", metavar="[JOB] RANK", nargs=-1, type=Words())
def console(escape_text: str, read_only: bool, words: tuple[str, ...]) -> None:
    """Attach to a guest's serial console. Ctrl-] leaves; guest and log go on as if nobody had been there.

    Several may be attached: each sees all output, each may type. From a pipe, all input is typed, and at its end the
    console is left once the guest has been silent for a second.
    """
    escape = escape_byte(escape_text)
    job, rank = _one_rank(words)
    with Connection(job) as connection:
        others = connection.ask({"do": "console", "rank": rank})["others"]
        leave = "Ctrl-C leaves" if read_only else f"{escape_text} leaves" if escape else "nothing you type leaves"
        shared = f"; {others} more attached" if others else ""
        say(f"console of {host_name(rank)}, job {job.entry.title}: {leave}{shared}")
        how = attend(connection, escape=escape, reads_stdin=not read_only)
    say(f"console of {host_name(rank)}: {how}")


def _one_rank(words: Sequence[str]) -> tuple[JobHandle, int]:
    job, rank, others = choose_rank(words)
    if others:
        raise ConfigError(f"what is {' '.join(others)} for, after the rank?")
    return job, rank


@click.command()
@click.option("-f", "--follow", is_flag=True, help="go on with what is added, until the job ends or Ctrl-C")
@click.option("-n", "--lines", type=click.IntRange(0), default=200, show_default=True, help="so many of the last lines")
@click.option(
    "--log",
    "which",
    type=click.Choice(list(_LOGS)),
    default="console",
    show_default=True,
    help="which of a rank's logs",
)
@click.argument("words", metavar="[JOB] [RANK]", nargs=-1, type=Words())
def logs(follow: bool, lines: int, which: str, words: tuple[str, ...]) -> None:
    """Show logs of a job that runs: of one rank, or of all, a guest's name before each line."""
    if len(words) > 2:
        raise ConfigError(f"a job and a rank are expected, not {' '.join(words)}")
    job, rank = choose_rank_if_any(words)
    ranks = range(job.entry.world_size) if rank is None else [rank]
    files = {host_name(one): log_file(job, one, which) for one in ranks}
    if not follow and not any(path.exists() for path in files.values()):
        hint = f"a job writes it with {_LOGS[which]}" if _LOGS[which] else "it is made when the guest starts"
        raise JobError(f"there is no {next(iter(files.values()))}", hint=hint)
    show(files, lines, _print, (lambda: not job.ended()) if follow else None)


def log_file(job: JobHandle, rank: int, which: str) -> Path:
    """One log of a rank, wherever logging.dir led it to. Raises JobError when the job's record cannot be read."""
    run = RunFolder(Path(job.entry.run_dir))
    try:
        log_dir = json.loads(run.job_json.read_bytes())["spec"]["config"]["logging"]["dir"]
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"cannot read {run.job_json}: {error}") from error
    logs = RankLogs(run.rank_folder(rank, log_dir, job.entry.name))
    return {"console": logs.console, "mvpnet": logs.mvpnet, "qemu": logs.qemu, "wrapper": logs.monwrap}[which]


# ── the machines ──────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
@click.option("--hmp", "human", metavar="COMMAND", help="a command of qemu's human monitor, such as 'info network'")
@click.argument("words", metavar="[JOB] RANK [COMMAND [ARGUMENTS]]", nargs=-1, type=Words())
def monitor(human: str | None, words: tuple[str, ...]) -> None:
    """Run a QMP command in a guest's qemu and print what it returns, as JSON; ARGUMENTS are a JSON object.

    For example: mvpnet monitor 0 query-status; mvpnet monitor 1 --hmp 'info network'
    """
    job, rank, rest = choose_rank(words)
    if human is not None:
        if rest:
            raise ConfigError(f"--hmp is the command; what is {' '.join(rest)} for?")
        said = _qmp(job, rank, "human-monitor-command", {"command-line": human})
        _print(str(said).replace("\r\n", "\n"))
        return
    if not 1 <= len(rest) <= 2:
        raise ConfigError("after the rank a QMP command is expected, and perhaps its arguments as one JSON object")
    _print(json.dumps(_qmp(job, rank, rest[0], qmp_arguments(rest[1:])), indent=1) + "\n")


def qmp_arguments(words: Sequence[str]) -> Message:
    """Raises ConfigError for what is no JSON object."""
    try:
        arguments = json.loads(words[0]) if words else {}
    except ValueError as error:
        raise ConfigError(f"ARGUMENTS: {words[0]} is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ConfigError(f"ARGUMENTS: {words[0]} is no JSON object", hint="""such as '{"id": "console"}'""")
    return arguments


def _qmp(job: JobHandle, rank: int, command: str, arguments: Message) -> object:
    return ask(job, {"do": "qmp", "rank": rank, "command": {"execute": command, "arguments": arguments}})


@click.command()
@click.argument("words", metavar="[JOB] RANK", nargs=-1, type=Words())
def powerdown(words: tuple[str, ...]) -> None:
    """Press a guest's power button (ACPI). What it does then is its own affair; the job goes on."""
    _press(words, "system_powerdown", "the power button")


@click.command()
@click.argument("words", metavar="[JOB] RANK", nargs=-1, type=Words())
def reset(words: tuple[str, ...]) -> None:
    """Press a guest's reset button: it boots again at once, without shutting down."""
    _press(words, "system_reset", "the reset button")


def _press(words: Sequence[str], command: str, button: str) -> None:
    job, rank = _one_rank(words)
    _qmp(job, rank, command, {})
    say(f"pressed {button} of {host_name(rank)}, job {job.entry.title}")


@click.command()
@click.option("--no-wait", is_flag=True, help="come back at once; else when the job is over")
@click.argument("words", metavar="[JOB]", nargs=-1, type=Words(takes_rank=False))
def stop(no_wait: bool, words: tuple[str, ...]) -> None:
    """Stop a job in order, as SIGTERM to its rank 0 does: app, guests, records. With it a sweep's other jobs."""
    job = _job(words)
    pid = _pid_of_rank_0(job)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        if not job.ended():
            raise JobError(f"job {job.entry.title}: there is no process {pid}") from None
    say(f"asked job {job.entry.title} to stop")
    while not no_wait and not job.ended():
        time.sleep(_LOOK_AGAIN_S)
    if not no_wait:
        say(f"job {job.entry.title} is over; {job.entry.run_dir} is its run folder")


def _pid_of_rank_0(job: JobHandle) -> int:
    """As the kernel tells it of the socket's other end, whatever number it has in a container of its own.

    Raises JobError when the job cannot be reached.
    """
    try:
        with job.connect() as connection:
            pid, uid = peer_of(connection)
    except OSError as error:
        if job.ended():
            raise JobError(f"job {job.entry.title} has ended") from error
        raise JobError(f"job {job.entry.title} cannot be reached: {error.strerror}") from error
    if uid != os.getuid() or pid <= 0:
        raise JobError(f"job {job.entry.title}: its rank 0 is not a process that can be seen from here")
    return pid
