"""What keeps a guest from running although it has not ended: a qemu that does not answer, or a disk that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from mvpnet.guest.monwrap_client import Qmp
from mvpnet.guest.qmp_watchdog import QmpWatchdog, why_silent
from mvpnet.runtime.loop import Loop


class QemuHealth:
    """The trouble of one qemu, which is asked by `qmp` and is silent after `silent_s` without an answer.

    Trouble is logged as it comes and goes.
    """

    def __init__(self, loop: Loop, qmp: Qmp, silent_s: float) -> None:
        self.trouble: str | None = None
        self._loop = loop
        self._qmp = qmp
        self._silent_s = silent_s
        self._watchdog: QmpWatchdog | None = None
        self._pid: int | None = None
        self._over = False
        self._disk_errors: set[str] = set()  # that were told

    def start(self, pid: int | None) -> None:
        """Begin to ask it: it has greeted on QMP. Nothing happens after `cancel`."""
        if self._over:
            return
        self._pid = pid
        self._watchdog = QmpWatchdog(self._loop, self._ask, self._is_silent, self._answers_again, self._silent_s)

    def cancel(self) -> None:
        """Stop asking."""
        self._over = True
        if self._watchdog:
            self._watchdog.cancel()

    def take_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Take an event of qemu's, if it is about trouble."""
        if name == "BLOCK_IO_ERROR":
            self._disk_failed(data)
        elif name == "RESUME":  # qemu lets the guest go on
            self.trouble = None

    def _disk_failed(self, data: Mapping[str, Any]) -> None:
        """Tell of a BLOCK_IO_ERROR (qapi/block-core.json): the guest is told, or (no space left) is paused."""
        what = f"the guest's disk {data['device'] or data.get('node-name', '')}: {data['operation']}: {data['reason']}"
        if data["action"] == "stop":
            told, self.trouble = self.trouble, f"{what}; qemu has paused the guest"
            hint = "make room where its overlay or image is, then let it go on: mvpnet monitor RANK cont"
            if told != self.trouble:  # qemu tells it of every write that was on its way
                logger.error("{}\n  hint: {}", self.trouble, hint)
        elif what not in self._disk_errors:
            self._disk_errors.add(what)
            logger.error("{}; the guest was told of the error (said once)", what)

    def _ask(self, on_reply: Callable[[object], None]) -> None:
        self._qmp({"execute": "query-status"}, on_reply)

    def _is_silent(self, seconds: float) -> None:
        assert self._pid
        why = why_silent(self._pid)
        self.trouble = f"qemu (pid {self._pid}) has not answered for {seconds:g} s" + (f": {why}" if why else "")
        logger.error("{}", self.trouble)

    def _answers_again(self) -> None:
        self.trouble = None
        logger.warning("qemu answers again")
