"""The app: a command on rank 0's host that runs while the guests do, watched by the rank's loop."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from loguru import logger

from mvpnet.errors import ConfigError, HostError
from mvpnet.logs import put
from mvpnet.loop import Loop
from mvpnet.signals import die_with_parent

_CHUNK_BYTES = 65536
_TERM_S = 10.0  # for the app after SIGTERM, before SIGKILL


def app_argv(command: Any) -> list[str] | None:
    """`app.command` as a list of arguments: a list as it is, a string split as a shell would; None for no app.

    Raises ConfigError for anything else.
    """
    if command is None:
        return None
    if isinstance(command, list) and any(isinstance(word, bool) or word is None for word in command):
        raise ConfigError(
            f"app.command: {command!r} holds a word that YAML reads as something else",
            hint="put quotes around words such as true, on, no and null: app.command=['\"true\"']",
        )
    try:
        argv = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"app.command: {command!r} cannot be split into arguments: {error}") from None
    if not argv:
        raise ConfigError("app.command: is empty", hint="leave it out for a job without an app")
    return argv


class HostApp:
    """One run of the app. `on_end` is called once with its exit code, 128 + n when signal n ended it.

    The app leads a process group of its own. When it has ended it is not reaped before `close`: so the group's number
    stays its own, and what it left behind can be ended without hitting another's processes.
    """

    def __init__(self, loop: Loop, log: Path, show_output: bool, on_end: Callable[[int], None]) -> None:
        self._loop = loop
        self._log_path = log
        self._show_output = show_output
        self._on_end = on_end
        self._log: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.running = False

    def start(self, argv: list[str], environment: Mapping[str, str]) -> None:
        """Raises HostError when the command cannot be started, or app.log not be written."""
        try:
            self._log = self._log_path.open("wb", buffering=0)
        except OSError as error:
            raise HostError(f"app.command: cannot write {self._log_path}: {error.strerror}") from error
        # SIGCHLD and not a pidfd: kernels before 5.3, as on RHEL 8, have none
        signal.signal(signal.SIGCHLD, lambda *_: self._loop.call_later(0.0, self._look))
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )
        except OSError as error:
            self._log.close()
            raise HostError(f"app.command: cannot run {argv[0]!r}: {error.strerror}") from error
        assert self._process.stdout
        self.running = True
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        self._loop.watch(self._output_fd, self._take_output)

    def stop(self) -> None:
        """Ask the app and what it started to end; kill them when they do not. `on_end` follows."""
        self._signal(signal.SIGTERM)
        self._loop.call_later(_TERM_S, lambda: self._signal(signal.SIGKILL))

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._signal(signal.SIGKILL)
        if self._process:
            self._look_no_more()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _take_output(self) -> None:
        """Pass on all the output that is there; at its end look no more."""
        while True:
            try:
                data = os.read(self._output_fd, _CHUNK_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._loop.unwatch(self._output_fd)
                return
            self._keep(data)
            if self._show_output:
                put(sys.stdout, data)

    def _keep(self, data: bytes) -> None:
        """Into app.log, as long as there is room: a full disk must not end the job."""
        try:
            if self._log:
                self._log.write(data)
        except OSError as error:
            logger.error("{}: {}; no more of the app's output is kept", self._log_path, error.strerror)
            self._close_log()

    def _close_log(self) -> None:
        log, self._log = self._log, None
        with contextlib.suppress(OSError):  # NFS may tell only now that the disk is full
            if log:
                log.close()

    def _look(self) -> None:
        """Has the app ended?"""
        if not self.running or not self._process:
            return
        if end := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._ended(end.si_status if end.si_code == os.CLD_EXITED else 128 + end.si_status)

    def _ended(self, code: int) -> None:
        self._take_output()
        self._look_no_more()
        self._on_end(code)

    def _look_no_more(self) -> None:
        assert self._process and self._process.stdout
        self.running = False
        self._loop.unwatch(self._output_fd)
        self._process.stdout.close()
        self._close_log()
