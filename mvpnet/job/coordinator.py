"""Rank 0's view of the job: which guest is how far, when all are up, what ends the job, and how it ended.

The ranks tell rank 0 of every change, in small JSON messages; rank 0 tells all of them to run and to stop. No MPI
and no clock in here: what is heard comes in by `heard`, what is to be done goes out through the callbacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mvpnet.dataplane.address import host_name
from mvpnet.errors import BootError
from mvpnet.util.tables import table_text
from mvpnet.util.text import and_more

Message = dict[str, Any]

FAILURES = ("crashed", "failed_to_start", "killed", "panicked")  # of a guest's ways to end (guest.life.Ending)
_NAMED_AT_MOST = 4  # guests named in a progress line


class Phase(Enum):
    booting = "booting"
    running = "running"
    stopping = "stopping"
    over = "over"


@dataclass(frozen=True)
class GuestReport:
    """How one guest ended, as its rank tells it."""

    rank: int
    host: str
    how: str  # powered_off, stopped, killed, panicked, crashed, failed_to_start
    phase: str  # the last state before the end
    reason: str
    cause: str | None = None
    console: list[str] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)  # at, how and reason of each death before


@dataclass(frozen=True)
class JobOutcome:
    """How the job ended: in words, and mvpnet's exit code."""

    how: str
    code: int


class Coordinator:
    """Conducts one job. Callbacks: `tell_all(message)`, `on_running()`, `stop_app() -> bool`, `on_over()`.

    `stop_app` asks the app to end and says whether there is one to wait for; `app_ended` is called when it has.
    """

    def __init__(
        self,
        world_size: int,
        *,
        has_app: bool,
        stop_on_guest_exit: bool,
        tell_all: Callable[[Message], None],
        on_running: Callable[[], None],
        stop_app: Callable[[], bool],
        on_over: Callable[[], None],
    ) -> None:
        self.phase = Phase.booting
        self.verdict: JobOutcome | None = None
        self.states = ["prepared"] * world_size
        self.reports: dict[int, GuestReport] = {}
        self.restarts: Counter[int] = Counter()  # by rank
        self._has_app = has_app
        self._stop_on_guest_exit = stop_on_guest_exit
        self._tell_all = tell_all
        self._on_running = on_running
        self._stop_app = stop_app
        self._on_over = on_over
        self._guests_told_to_stop = False
        self._boot_failed = False

    # -- what is heard -------------------------------------------------------------------------------------------

    def heard(self, rank: int, message: Message) -> None:
        """A message from a rank: a state, the end of its guest, that it starts it again, or a request to stop."""
        if "state" in message:
            self.states[rank] = message["state"]
            if self.phase is Phase.booting and all(state == "up" for state in self.states):
                self.phase = Phase.running
                self._tell_all({"do": "run"})
                self._on_running()
            elif self.phase is Phase.booting and all(state == "loaded" for state in self.states):
                self._tell_all({"do": "go on"})
        elif "restart" in message:
            self.restarts[rank] += 1
            self.states[rank] = "restarting"
        elif "end" in message:
            self.reports[rank] = GuestReport(rank=rank, **message["end"])
            self._guest_ended(self.reports[rank])
        else:
            # a signal is the usual way to end a job that runs without an app, and cuts short any other
            usual = message.get("signal") and self.phase is Phase.running and not self._has_app
            self.stop(message["stop"], self._worst() if usual else message["code"])

    def app_ended(self, code: int, how: str) -> None:
        if self.phase is Phase.running:
            self.stop(how, code)
        else:
            self._stop_guests()

    def boot_timed_out(self, timeout_s: float) -> None:
        if self.phase is Phase.booting:
            self._boot_failed = True
            late = self._waiting_for()
            self.stop(f"not all guests were up after {timeout_s:g} s: {late}", BootError.exit_code)

    def stop(self, why: str, code: int) -> None:
        """End the job in order: the app first, then the guests. The first reason given is the verdict."""
        if self.phase in (Phase.stopping, Phase.over):
            return
        self.phase = Phase.stopping
        self.verdict = JobOutcome(why, code)
        if not self._stop_app():
            self._stop_guests()

    def hurry(self) -> None:
        """Asked again to stop: wait for the app no longer."""
        self._stop_guests()

    def _guest_ended(self, report: GuestReport) -> None:
        name = host_name(report.rank)
        if self.phase is Phase.booting:
            self._boot_failed = True
            self.stop(f"{name} did not come up: {report.reason}", BootError.exit_code)
        elif self.phase is Phase.running and self._stop_on_guest_exit:
            self.stop(f"{name} left: {report.reason}", _code_of(report))
        if len(self.reports) == len(self.states):
            self._all_ended()

    def _all_ended(self) -> None:
        if self.phase is Phase.running:
            self.stop("every guest is gone", self._worst())
        if self._guests_told_to_stop and self.phase is Phase.stopping:
            self.phase = Phase.over
            self._on_over()

    def _worst(self) -> int:
        """The exit code that the guests which have left so far call for."""
        return max(map(_code_of, self.reports.values()), default=0)

    def _stop_guests(self) -> None:
        if self._guests_told_to_stop:
            return
        self._guests_told_to_stop = True
        assert self.verdict
        self._tell_all({"do": "stop"})
        if len(self.reports) == len(self.states):
            self._all_ended()

    # -- what is told --------------------------------------------------------------------------------------------

    def progress(self, elapsed_s: float) -> str:
        """`12 s  3/4 guests up, waiting for n0002 (booting)`."""
        up = sum(state in ("up", "running") for state in self.states)
        waiting = self._waiting_for()
        return f"{elapsed_s:3.0f} s  {up}/{len(self.states)} guests up" + (
            f", waiting for {waiting}" if waiting else ""
        )

    def _waiting_for(self) -> str:
        late = [(rank, state) for rank, state in enumerate(self.states) if state not in ("up", "running")]
        named = ", ".join(f"{host_name(rank)} ({state})" for rank, state in late[:_NAMED_AT_MOST])
        return named + and_more(len(late) - _NAMED_AT_MOST)

    def restarted(self) -> str:
        """`, after 3 restarts (n0001 2, n0003 1)`; nothing if there were none."""
        each = ", ".join(f"{host_name(rank)} {number}" for rank, number in sorted(self.restarts.items()))
        total = self.restarts.total()
        return f", after {total} restart{'' if total == 1 else 's'} ({each})" if total else ""

    def boot_error(self) -> BootError | None:
        """The error of a boot that failed, with a table of the guests that were not up; None if it did not."""
        if not self._boot_failed:
            return None
        assert self.verdict
        failed = [r for _, r in sorted(self.reports.items()) if r.phase not in ("up", "running")]
        return BootError(f"{self.verdict.how}\n{boot_table(failed)}".rstrip())


def _code_of(report: GuestReport) -> int:
    return BootError.exit_code if report.how in FAILURES else 0


def boot_table(reports: list[GuestReport]) -> str:
    """Rank, host, phase, likely cause and last console lines of guests that did not come up."""
    from rich import box
    from rich.table import Table

    table = Table("guest", "host", "reached", "likely cause", "last console lines", box=box.SIMPLE_HEAD)
    for report in reports[:16]:
        table.add_row(
            host_name(report.rank),
            report.host,
            report.phase,
            report.cause or report.reason,
            "\n".join(report.console[-5:]) or "(silent)",
        )
    return table_text(table, width=140, no_color=True) + and_more(len(reports) - 16, before="", after="\n")
