"""Watches a guest that runs until it is up: its ssh server, its cloud-init, its link; and its kernel for a panic.

A guest that loads saved memory is watched as it loads first.
"""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from mvpnet.cloudinit.status import Answer, Readiness
from mvpnet.guest.diagnosis import FAILED_SETUP, GuestLogs, unfinished_setup
from mvpnet.guest.monwrap_client import GuestLaunch, Qmp, Reply
from mvpnet.guest.panic_watch import PanicWatch
from mvpnet.guest.ssh_probe import FIRST_PAUSE_S, LOADED_PAUSE_S, BootProbe
from mvpnet.guest.states import GuestState
from mvpnet.runtime.loop import Loop, Timer

LINK_LOOK_S = 0.1
LOAD_LOOK_S = 0.1


class LoadWatch:
    """Asks qemu until it has loaded the saved memory, then calls `on_loaded`, once.

    While it loads qemu does not answer, or says inmigrate; a qemu that cannot load it ends.
    """

    def __init__(self, loop: Loop, qmp: Qmp, on_loaded: Callable[[], None]) -> None:
        self._loop = loop
        self._qmp = qmp
        self._on_loaded = on_loaded
        self._timer: Timer | None = None
        self._over = False

    def start(self) -> None:
        """Begin; qemu is asked at once. Nothing happens after `cancel`."""
        if not self._over:
            self._qmp({"execute": "query-status"}, self._replied)

    def cancel(self) -> None:
        """Stop asking; nothing is reported any more."""
        self._over = True
        if self._timer:
            self._timer.cancel()

    def _replied(self, reply: Reply) -> None:
        if self._over:
            return
        if reply.get("return", {}).get("status") == "paused":
            self._over = True
            self._on_loaded()
        else:
            self._timer = self._loop.call_later(LOAD_LOOK_S, self.start)


class BootWatch:
    """Waits until ssh answers, cloud-init is done where that is waited for, and the link is connected.

    `on_state` is called with `configuring` when cloud-init begins to be waited for, and with `up` when all is there;
    `on_setup_failed` with why cloud-init failed, and `on_panic` when the console tells of a kernel that hangs in panic.
    """

    def __init__(
        self,
        loop: Loop,
        launch: GuestLaunch,
        logs: GuestLogs,
        link_connected: Callable[[], bool],
        *,
        on_state: Callable[[GuestState], None],
        on_setup_failed: Callable[[str], None],
        on_panic: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._logs = logs
        self._link_connected = link_connected
        self._on_state = on_state
        self._on_setup_failed = on_setup_failed
        self._on_panic = on_panic
        pause_s = LOADED_PAUSE_S if launch.loads else FIRST_PAUSE_S
        self._probe = BootProbe(loop, launch.ssh_port, self._on_banner, pause_s=pause_s)
        self._readiness = Readiness(loop, launch.ask_setup, self._set_up) if launch.ask_setup else None
        self._panic_watch: PanicWatch | None = None
        self._link_timer: Timer | None = None
        self._setup_failed = False
        self._over = False

    @property
    def setup_cause(self) -> str:
        """Why cloud-init is not done, in a guest that was being configured."""
        if self._setup_failed:
            return FAILED_SETUP
        return unfinished_setup(self._readiness.last_words if self._readiness else "")

    def start(self) -> None:
        """Begin: the guest runs. Nothing happens after `cancel`."""
        if self._over:
            return
        self._probe.start()
        if log := self._logs.console_log:
            self._panic_watch = PanicWatch(self._loop, log, self._logs.console_start, self._on_panic)

    def cancel(self) -> None:
        """Stop watching; nothing is reported any more."""
        self._over = True
        self._probe.cancel()
        for watch in (self._panic_watch, self._readiness, self._link_timer):
            if watch:
                watch.cancel()

    def _on_banner(self, banner: str) -> None:
        logger.debug("ssh answers: {}", banner)
        if not self._readiness:
            self._up_when_linked()
            return
        self._on_state(GuestState.configuring)
        if not self._over:
            self._readiness.start()

    def _set_up(self, told: Answer) -> None:
        if told.failed:
            self._setup_failed = True
            self._on_setup_failed(f"cloud-init in the guest failed: {told.reason}")
            return
        if told.reason:
            logger.warning("cloud-init in the guest is done, and had errors: {}", told.reason)
        self._up_when_linked()

    def _up_when_linked(self) -> None:
        if self._over:
            return
        if self._link_connected():
            self._on_state(GuestState.up)
        else:
            self._link_timer = self._loop.call_later(LINK_LOOK_S, self._up_when_linked)
