"""Supervises one guest: starts monwrap and through it qemu, follows its life by state, and sees to its end.

Everything happens in the callbacks of the rank's loop; only `close` waits, and not for ever.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from mvpnet.guest import monwrap_client as monwrap
from mvpnet.guest.boot_watch import BootWatch, LoadWatch
from mvpnet.guest.diagnosis import Failure, GuestLogs, failure_of
from mvpnet.guest.monwrap_client import GuestLaunch, MonwrapClient, OnReply, Reply
from mvpnet.guest.qemu_health import QemuHealth
from mvpnet.guest.states import Ending, GuestEnd, GuestState
from mvpnet.guest.verdict import Observations, guest_end
from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.processes import signal_group

__all__ = ["Guest", "GuestLaunch"]

SETTLED_S = 2.0  # a qemu that greets on QMP runs its machine; of one that never does, so much life shows it


class Guest:
    """One guest. A context manager: on the way out it is stopped, and waited for.

    `on_state` is called with each state as it is entered, `gone` last, with `end` set; also from within the methods.
    `link_connected` says whether qemu has joined the mvpnet network; links by descriptor always are.
    """

    def __init__(
        self,
        loop: Loop,
        launch: GuestLaunch,
        *,
        on_state: Callable[[GuestState], None],
        link_connected: Callable[[], bool] = lambda: True,
    ) -> None:
        self.launch = launch
        self.state = GuestState.prepared
        self.times: dict[GuestState, float] = {GuestState.prepared: time.monotonic()}  # seconds, monotonic
        self.end: GuestEnd | None = None
        self.setup_failure: str | None = None  # why cloud-init failed, in a guest that was stopped for that
        self._loop = loop
        self._on_state = on_state
        self._seen = Observations()
        self._logs = GuestLogs(launch.qemu_log, launch.console_log)
        self._monwrap = MonwrapClient(loop, launch, self._on_event, self._on_monwrap_exit)
        self._settle_timer: Timer | None = None
        self._load_watch = LoadWatch(loop, self.qmp, lambda: self._enter(GuestState.loaded))
        self._boot_watch = BootWatch(
            loop,
            launch,
            self._logs,
            link_connected,
            on_state=self._enter,
            on_setup_failed=self._fail_setup,
            on_panic=self._hangs_in_panic,
        )
        self._health = QemuHealth(loop, self.qmp, launch.answer_timeout_s)

    # -- what is known of it -------------------------------------------------------------------------------------------

    @property
    def monwrap_pid(self) -> int | None:
        return self._monwrap.pid

    @property
    def qemu_pid(self) -> int | None:
        return self._seen.qemu_pid

    @property
    def qemu_version(self) -> str | None:
        """qemu's version, once it has greeted on QMP."""
        return self._seen.qemu_version

    def failure(self) -> Failure:
        """Describe why the guest did not come up: at any time, most of all when it is gone."""
        reached = [state for state in GuestState if state in self.times and state.precedes(GuestState.stopping)][-1]
        reason = self.end.reason if self.end else f"it is {self.state.value}"
        known = self._health.trouble or (self._boot_watch.setup_cause if reached is GuestState.configuring else None)
        return failure_of(self._logs, reached, reason, known_cause=known, panicked=self._seen.has_panicked)

    # -- what is done to it --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start monwrap, to start qemu. That it could not be is told as any other end, by the state `gone`."""
        self._enter(GuestState.starting)
        self._logs.mark()
        try:
            self._monwrap.start()
        except OSError as error:
            reason = f"monwrap could not be started: {self.launch.monwrap}: {error.strerror}; see the key qemu.monwrap"
            self._finish(GuestEnd(Ending.failed_to_start, reason))

    def announce_running(self) -> None:
        """All ranks' guests are up. Nothing happens when this one is not, or not any more."""
        if self.state is GuestState.up:
            self._enter(GuestState.running)

    def go_on(self) -> None:
        """All ranks' memory is loaded. Nothing happens when this one's is not."""
        if self.state is GuestState.loaded:
            self.qmp({"execute": "cont"}, self._went_on)

    def power_down(self) -> None:
        """Press the ACPI power button, and leave the guest all the time it takes; not before it is booting."""
        if GuestState.starting.precedes(self.state):
            self._ask_to_end("powerdown")

    def stop(self) -> None:
        """Stop it: power-down, SIGTERM, SIGKILL, each with its time."""
        self._ask_to_end("stop")

    def kill(self) -> None:
        """End qemu at once."""
        self._ask_to_end("kill")

    def reset(self) -> None:
        """Press the reset button."""
        self._monwrap.send("reset")

    def qmp(self, command: Mapping[str, Any], on_reply: OnReply) -> None:
        """Execute a QMP command, {"execute": NAME, "arguments": {...}}, and call `on_reply` with what comes of it."""
        self._monwrap.ask("qmp", command, on_reply)

    def save_memory(self, path: Path, on_reply: OnReply) -> None:
        """Begin to write memory and the devices' state into a new file; `on_reply` is told whether qemu has begun."""
        self._monwrap.ask("save", {"path": str(path)}, on_reply)

    def close(self) -> None:
        """Stop it if it is not gone, and wait until it is: as long as the ladder takes, then monwrap is killed too."""
        if self.state is not GuestState.gone:
            self.stop()
            self._monwrap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its states ----------------------------------------------------------------------------------------------------

    def _enter(self, state: GuestState) -> None:
        """Go on to a later state; an earlier one, or the same, is passed over."""
        if self.state.precedes(state):
            self.state = state
            self.times[state] = time.monotonic()
            self._on_state(state)

    def _settled(self) -> None:
        """qemu runs its machine."""
        if self.state is GuestState.starting:
            self._enter(GuestState.booting)
            if self.launch.loads:
                self._enter(GuestState.loading)
                self._load_watch.start()
            else:
                self._boot_watch.start()

    def _went_on(self, reply: Reply) -> None:
        if "error" in reply:
            self._fail_setup(f"qemu did not go on from the saved memory: {reply['error']['desc']}")
        elif self.state is GuestState.loaded:
            self._boot_watch.start()

    def _fail_setup(self, why: str) -> None:
        self.setup_failure = why
        self.stop()

    def _hangs_in_panic(self) -> None:
        self._seen.panicked = True
        self._monwrap.send("kill")  # there is nothing that this guest will ever do again, not even power off
        self._stopping()

    def _ask_to_end(self, command: str) -> None:
        if self.state is GuestState.prepared:
            self._finish(GuestEnd(Ending.stopped, "stopped before it was started"))
        elif self.state is not GuestState.gone:
            self._seen.asked = True
            self._monwrap.send(command)
            self._stopping()

    def _stopping(self) -> None:
        self._watch_no_more()
        self._enter(GuestState.stopping)

    def _watch_no_more(self) -> None:
        for watch in (self._settle_timer, self._load_watch, self._boot_watch, self._health):
            if watch:
                watch.cancel()

    def _finish(self, end: GuestEnd) -> None:
        self._watch_no_more()
        self._monwrap.close_fds()
        self.end = end
        self._enter(GuestState.gone)
        self._monwrap.fail_replies("the guest is gone")

    # -- what monwrap tells --------------------------------------------------------------------------------------------

    def _on_event(self, event: monwrap.Event) -> None:
        self._seen.take(event)
        match event:
            case monwrap.QemuStarted():
                self._settle_timer = self._loop.call_later(SETTLED_S, self._settled)
            case monwrap.QmpReady():
                self._settled()
                self._health.start(self.qemu_pid)
            case monwrap.QmpEvent("SHUTDOWN") | monwrap.LadderStep():
                self._stopping()
            case monwrap.QmpEvent(name, data):
                self._health.take_event(name, data)

    def _on_monwrap_exit(self, code: int) -> None:
        if self._seen.qemu_pid and not self._seen.exit:
            signal_group(self._seen.qemu_pid, signal.SIGKILL)  # what a script started need not die with monwrap
        had_run = GuestState.booting in self.times
        self._finish(guest_end(self._seen, self._logs, code, had_run=had_run, stray=self._monwrap.stray))
