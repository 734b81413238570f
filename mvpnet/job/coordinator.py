"""Coordination of a job on rank 0: states of the guests, start of the app, end of the job, and outcome.

The ranks report every change to rank 0 in messages (`job.messages`); rank 0 tells all of them to run and to stop. This
module uses neither MPI nor a clock: messages come in through `heard`, actions go out through callbacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mvpnet.dataplane.address import host_name
from mvpnet.errors import BootError
from mvpnet.job.messages import (
    GuestEnded,
    GuestReport,
    JobMessage,
    Restarting,
    Resume,
    Run,
    StateChanged,
    Stop,
    StopRequested,
)
from mvpnet.util.text import and_more

_NAMED_AT_MOST = 4  # guests named in a progress line


class Phase(Enum):
    booting = "booting"
    running = "running"
    stopping = "stopping"
    over = "over"


@dataclass(frozen=True)
class JobOutcome:
    """How the job ended: a description, and mvpnet's exit code."""

    how: str
    code: int


class Coordinator:
    """Coordinates one job. Callbacks: `tell_all(message)`, `on_running()`, `stop_app() -> bool`, `on_over()`.

    `stop_app` asks the app to end and returns whether it has to be waited for; `app_ended` is called at its end.
    """

    def __init__(
        self,
        world_size: int,
        *,
        has_app: bool,
        stop_on_guest_exit: bool,
        tell_all: Callable[[JobMessage], None],
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

    # -- events --------------------------------------------------------------------------------------------------------

    def heard(self, rank: int, message: StateChanged | Restarting | GuestEnded | StopRequested) -> None:
        """Handle a rank's message: its guest's state, restart or end, or a request to stop the job."""
        match message:
            case StateChanged(state):
                self._state_changed(rank, state)
            case Restarting():
                self.restarts[rank] += 1
                self.states[rank] = "restarting"
            case GuestEnded(report):
                self.reports[rank] = report
                self._guest_ended(report)
            case StopRequested(why, code, by_signal):
                # a signal is the usual end of a running job without an app; in any other job it is an interruption
                usual = by_signal and self.phase is Phase.running and not self._has_app
                self.stop(why, self._worst() if usual else code)

    def _state_changed(self, rank: int, state: str) -> None:
        self.states[rank] = state
        if self.phase is not Phase.booting:
            return
        if all(one == "up" for one in self.states):
            self.phase = Phase.running
            self._tell_all(Run())
            self._on_running()
        elif all(one == "loaded" for one in self.states):
            self._tell_all(Resume())

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
        """End the job in order: first the app, then the guests. The first reason given becomes the outcome."""
        if self.phase in (Phase.stopping, Phase.over):
            return
        self.phase = Phase.stopping
        self.verdict = JobOutcome(why, code)
        if not self._stop_app():
            self._stop_guests()

    def stop_guests_now(self) -> None:
        """Stop the guests without waiting for the app, after a second request to stop."""
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
        """Worst exit code of the guests that have exited."""
        return max(map(_code_of, self.reports.values()), default=0)

    def _stop_guests(self) -> None:
        if self._guests_told_to_stop:
            return
        self._guests_told_to_stop = True
        assert self.verdict
        self._tell_all(Stop())
        if len(self.reports) == len(self.states):
            self._all_ended()

    # -- reports -------------------------------------------------------------------------------------------------------

    def progress(self, elapsed_s: float) -> str:
        """Return the progress line: `12 s  3/4 guests up, waiting for n0002 (booting)`."""
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
        """Describe the restarts: `, after 3 restarts (n0001 2, n0003 1)`; empty without any."""
        each = ", ".join(f"{host_name(rank)} {number}" for rank, number in sorted(self.restarts.items()))
        total = self.restarts.total()
        return f", after {total} restart{'' if total == 1 else 's'} ({each})" if total else ""

    def boot_error(self) -> BootError | None:
        """Return the error of a failed boot, with a table of the guests that were not up; None if none failed."""
        if not self._boot_failed:
            return None
        from mvpnet.job.boot_table import boot_table  # loads rich, which ranks start without

        assert self.verdict
        failed = [r for _, r in sorted(self.reports.items()) if r.phase not in ("up", "running")]
        return BootError(f"{self.verdict.how}\n{boot_table(failed)}".rstrip())


def _code_of(report: GuestReport) -> int:
    return BootError.exit_code if report.is_failure else 0
