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
from typing import Any

from mvpnet.errors import ConfigError, HostError
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
    """One run of the app. `on_end` is called once with its exit code, 128 + n when signal n ended it."""

    def __init__(self, loop: Loop, log: Path, show_output: bool, on_end: Callable[[int], None]) -> None:
        self._loop = loop
        self._log_path = log
        self._show_output = show_output
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._group = 0  # the app's process group; outlives the app when it left children behind

    def start(self, argv: list[str], environment: Mapping[str, str]) -> None:
        """Raises HostError when the command cannot be started."""
        self._log = self._log_path.open("wb", buffering=0)
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
        self._group = self._process.pid
        self._output_fd = self._process.stdout.fileno()
        self._pid_fd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._output_fd, False)
        self._loop.watch(self._output_fd, self._take_output)
        self._loop.watch(self._pid_fd, self._ended)

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """Ask the app and what it started to end; kill them when they do not. `on_end` follows."""
        self._signal(signal.SIGTERM)
        self._loop.call_later(_TERM_S, lambda: self._signal(signal.SIGKILL))

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, number)

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
            self._log.write(data)
            if self._show_output:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()

    def _ended(self) -> None:
        assert self._process and self._process.stdout
        code = self._process.wait()
        self._take_output()
        self._loop.unwatch(self._pid_fd)
        self._loop.unwatch(self._output_fd)
        os.close(self._pid_fd)
        self._process.stdout.close()
        self._log.close()
        self._process = None
        self._on_end(code if code >= 0 else 128 - code)
