"""Running of one rank's guest: its start, the loss of its link, its restarts, and its end.

All events are sent to one sink, as messages.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from loguru import logger

from mvpnet.dataplane.link import DgramLink
from mvpnet.dataplane.switch import Switch
from mvpnet.errors import MvpnetError
from mvpnet.guest.states import Ending, GuestState
from mvpnet.guest.supervisor import Guest
from mvpnet.job.guest_starter import GuestStart
from mvpnet.job.messages import GuestEnded, GuestReport, JobMessage, Restarting, StateChanged
from mvpnet.job.prepare import PreparedRank
from mvpnet.runtime.loop import Loop, Timer
from mvpnet.spec.schema import NetKind, NetSocket
from mvpnet.spec.urls import masked

_DIED = tuple(one.value for one in (Ending.crashed, Ending.panicked, Ending.failed_to_start))
_RESTART_PAUSE_S = 1.0  # time for processes that hold the guest's port or disks to end
_SOCKET_LOOK_S = 5.0
_LINK_GRACE_S = 2.0  # time for qemu's exit to be noticed after its link closed
_CONSOLE_LINES = 5


class GuestRunner:
    """Runs one guest on `host` and restarts it as vm.restart says. `tell` gets each message about it."""

    def __init__(
        self, loop: Loop, host: str, ready: PreparedRank, switch: Switch, tell: Callable[[JobMessage], object]
    ) -> None:
        self.restarts: list[dict[str, Any]] = []  # time, how and reason of each death
        self.states: list[tuple[str, float]] = []  # states of the guest, with the time in seconds since 1970
        self._loop = loop
        self._host = host
        self._ready = ready
        self._switch = switch
        self._tell = tell
        self._all_running = False
        self._is_told_to_stop = False
        self._has_booted = False
        self._stopped_why: str | None = None  # reason, if this rank stopped the guest
        self._is_late = False
        self._dead: GuestReport | None = None  # end of a guest that is about to be restarted
        self._timers: dict[str, Timer] = {}  # "start": the next start; "late": deadline for being up
        self.guest = self._guest_of(ready.first)

    @property
    def state(self) -> str:
        """The guest's state as text."""
        return "restarting" if self._dead else self.guest.state.value

    def start(self) -> None:
        """Start the guest."""
        self._start(self.guest)
        self._look_after_socket()

    def announce_running(self) -> None:
        """Note that all guests of the job are up."""
        self._all_running = True
        self.guest.announce_running()

    def stop(self) -> bool:
        """Stop the guest finally; return False if it has ended already."""
        self._is_told_to_stop = True
        if self._dead:
            self._start_no_more(self._dead)
            return True
        if self.guest.state is GuestState.gone:
            return False
        self.guest.stop()
        return True

    def link_lost(self, reason: str) -> None:
        """Handle the end of the guest's link: stop the guest after a grace period, unless qemu exits by itself."""
        logger.debug("link lost: {}", reason)
        guest = self.guest
        self._loop.call_later(_LINK_GRACE_S, lambda: self._stop_without_link(guest, reason))

    def close(self) -> None:
        """End all processes of the guest."""
        self.guest.close()

    # -- start and end -------------------------------------------------------------------------------------------------

    def _guest_of(self, start: GuestStart) -> Guest:
        guest = Guest(
            self._loop, start.launch, on_state=self._state_changed, link_connected=lambda: self._switch.link_ready
        )
        start.descriptors.hand_over()
        self._stopped_why = None
        self._is_late = False
        return guest

    def _start(self, guest: Guest) -> None:
        logger.info("starting {}", masked(shlex.join(guest.launch.qemu_argv)))
        guest.start()

    def _state_changed(self, state: GuestState) -> None:
        logger.info("the guest is {}", state.value)
        self.states.append((state.value, round(time.time(), 3)))
        self._tell(StateChanged(state.value))
        match state:
            case GuestState.booting:
                # a guest that loads saved memory is not booted again: without the memory it would be another guest
                self._has_booted = not self.guest.launch.loads
            case GuestState.loaded:
                self._has_booted = True
            case GuestState.up if "late" in self._timers:
                self._timers["late"].cancel()
                if self._all_running:
                    self.guest.announce_running()
            case GuestState.gone:
                self._gone()

    def _gone(self) -> None:
        self._switch.close_link()
        report = self._report(self._stopped_why or self.guest.setup_failure)
        if self._is_to_start_again(report):
            self._start_again_soon(report)
        else:
            self._ended(report)

    def _report(self, stopped_why: str | None) -> GuestReport:
        """Report how the guest ended; `stopped_why` is the reason if this rank stopped it."""
        assert self.guest.end
        failure = self.guest.failure()
        how = Ending.crashed.value if stopped_why else self.guest.end.how.value
        report = GuestReport(
            rank=self._ready.spec.rank,
            host=self._host,
            how=how,
            phase=failure.reached.value,
            reason=stopped_why or failure.reason,
            cause=failure.cause,
            console=list(failure.console_lines[-_CONSOLE_LINES:]),
            restarts=self.restarts,
        )
        is_failure = report.is_failure or failure.reached.precedes(GuestState.up)
        return report if is_failure else replace(report, cause=None)

    def _ended(self, report: GuestReport) -> None:
        failed = report.is_failure and not self._is_told_to_stop
        logger.log("ERROR" if failed else "INFO", "{}", describe_end(report))
        self._tell(GuestEnded(report))

    # -- link ----------------------------------------------------------------------------------------------------------

    def _stop_without_link(self, guest: Guest, reason: str) -> None:
        """Stop a guest that lost its link, unless qemu is already exiting."""
        if guest is self.guest and guest.state.precedes(GuestState.stopping):
            logger.error("{}; stopping the guest", reason)
            self._stopped_why = reason
            guest.stop()

    def _look_after_socket(self) -> None:
        """Check that our socket's path exists: qemu sends each datagram to it, and without it loses frames silently."""
        net = self._ready.spec.net
        if net.socket is not NetSocket.path or net.kind is not NetKind.dgram:
            return
        link = self._switch.link
        if isinstance(link, DgramLink) and link.path and not link.path.exists():
            self._stop_without_link(self.guest, f"the socket {link.path} was removed")
        self._loop.call_later(_SOCKET_LOOK_S, self._look_after_socket)

    # -- restarts (vm.restart) -----------------------------------------------------------------------------------------

    def _is_to_start_again(self, report: GuestReport) -> bool:
        """Whether the guest died by itself after it had been up, and was neither shut down nor stopped."""
        stopped = (self._stopped_why is not None and not self._is_late) or self.guest.setup_failure is not None
        left = len(self.restarts) < self._ready.spec.vm.restart
        return report.how in _DIED and left and self._has_booted and not stopped and not self._is_told_to_stop

    def _start_again_soon(self, report: GuestReport) -> None:
        if late := self._timers.get("late"):
            late.cancel()
        self._dead = report
        self.restarts.append({"at": round(time.time(), 3), "how": report.how, "reason": report.reason})
        which = f"{len(self.restarts)} of {self._ready.spec.vm.restart}"
        logger.error("{}\n  starting it again on its disks, {}", describe_end(report), which)
        self._tell(Restarting(len(self.restarts)))
        self._timers["start"] = self._loop.call_later(_RESTART_PAUSE_S, self._start_again)

    def _start_again(self) -> None:
        assert self._dead
        dead, self._dead = self._dead, None
        try:
            start = self._ready.again()
        except (MvpnetError, OSError) as error:
            self._ended(replace(dead, reason=f"{dead.reason}; it could not be started again: {error}"))
            return
        self._switch.link = start.link
        self.guest = self._guest_of(start)
        timeout_s = self._ready.spec.boot.timeout_s
        self._timers["late"] = self._loop.call_later(timeout_s, lambda: self._not_up_again(timeout_s))
        self._start(self.guest)

    def _not_up_again(self, timeout_s: float) -> None:
        if self.guest.state.precedes(GuestState.up):
            self._stopped_why, self._is_late = f"the guest was not up again after {timeout_s:g} s", True
            self.guest.kill()

    def _start_no_more(self, dead: GuestReport) -> None:
        """Cancel the next start, because the job ends, and report the guest's last end."""
        self._timers["start"].cancel()
        self._dead = None
        self._ended(dead)


def describe_end(report: GuestReport) -> str:
    """Describe why a guest ended; for a panic, with the last lines of its console."""
    lines = report.console if report.how == Ending.panicked.value else []
    return "\n  ".join([report.reason, *(["its console ended with:", *lines] if lines else [])])
