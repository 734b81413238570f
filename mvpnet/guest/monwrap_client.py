"""The rank's end of monwrap: how it is started, what it is told, and what it tells.

Commands and events are those that monwrap.py lists; each event is decoded here into a dataclass of its own, and nowhere
else is the wire format known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.processes import start_apart
from mvpnet.runtime.signals import GROUP_SIGNALS

DEFAULT_MONWRAP = "monwrap"  # qemu.monwrap's default: the one that came with us, wherever PATH leads
REAP_LOOK_S = 0.01  # a process closes its pipes a little before it can be waited for
CLOSE_MARGIN_S = 10.0  # for monwrap to notice, and to delete folders, beyond the times of its ladder
COMMAND_BYTES = 4096  # PIPE_BUF of Linux: so much is written to a pipe whole or not at all (pipe(7))
_READ_BYTES = 65536

Reply = dict[str, Any]  # {"return": ...} or {"error": {"class": ..., "desc": ...}}
OnReply = Callable[[Reply], None]
Qmp = Callable[[Mapping[str, Any], OnReply], None]  # executes a command, {"execute": NAME, "arguments": {...}}


@dataclass(frozen=True)
class GuestLaunch:
    """All that it takes to start one guest. Times in seconds.

    The guest takes over `qmp_fd` and `qemu_fds`, and closes them in this process. `lock_fd` stays the caller's: monwrap
    holds a copy until it ends, so that its flock(2) tells whether `remove` is still in use.
    """

    qemu_argv: tuple[str, ...]
    ssh_port: int  # on 127.0.0.1
    qemu_log: Path
    console_log: Path | None = None  # read for the last words of a guest that failed
    qmp_fd: int | None = None  # our end of the socket pair that qemu speaks QMP on
    qemu_fds: tuple[int, ...] = ()  # the descriptors that qemu's command line speaks of
    lock_fd: int | None = None
    remove: tuple[Path, ...] = ()  # folders that monwrap deletes when qemu has ended
    keep_on_death: bool = False  # but not when it died of itself or by `kill`: the caller starts it again, or deletes
    monwrap: str = DEFAULT_MONWRAP
    monwrap_log: Path | None = None
    powerdown_s: float = 20.0
    term_s: float = 5.0
    answer_timeout_s: float = 10.0  # for a question over QMP
    loads: bool = False  # it loads saved memory in place of a boot, and waits for `go_on`
    ask_setup: tuple[str, ...] | None = None  # status.ask_argv, for a guest that is up when cloud-init is done
    env: Mapping[str, str] | None = None  # of monwrap and qemu; default this process's


def monwrap_argv(launch: GuestLaunch) -> list[str]:
    """The command line that runs the guest."""
    argv = _monwrap_program(launch.monwrap)
    argv += ["--powerdown-s", f"{launch.powerdown_s:g}"]
    argv += ["--term-s", f"{launch.term_s:g}"]
    argv += ["--qemu-log", str(launch.qemu_log)]
    if launch.monwrap_log is not None:
        argv += ["--log", str(launch.monwrap_log)]
    if launch.qmp_fd is not None:
        argv += ["--qmp-fd", str(launch.qmp_fd)]
    for fd in launch.qemu_fds:
        argv += ["--pass-fd", str(fd)]
    for folder in launch.remove:
        argv += ["--remove", str(folder)]
    if launch.keep_on_death:
        argv += ["--keep-on-death"]
    return [*argv, "--", *launch.qemu_argv]


def _monwrap_program(name: str) -> list[str]:
    if name != DEFAULT_MONWRAP:
        return [name]
    # As a file and with -P, so that no folder but this Python's own is looked at for modules.
    return [sys.executable, "-P", str(Path(__file__).with_name("monwrap.py"))]


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QemuStarted:
    """qemu runs; its process group has the same number."""

    pid: int


@dataclass(frozen=True)
class QemuNotStarted:
    """qemu could not be started. `part` is "program", or "log" for its log file."""

    part: str
    reason: str


@dataclass(frozen=True)
class QmpReady:
    """qemu has greeted on QMP."""

    version: str


@dataclass(frozen=True)
class QmpEvent:
    """An event of qemu's."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class QmpReply:
    """The answer to the QMP command of that number."""

    number: int
    reply: Reply


@dataclass(frozen=True)
class CommandRefused:
    """A command that could not be carried out."""

    command: str
    reason: str


@dataclass(frozen=True)
class LadderStep:
    """monwrap goes a step down its ladder: "eof", "powerdown", "sigterm" or "sigkill"."""

    step: str


@dataclass(frozen=True)
class FolderLeft:
    """A folder that could not be deleted."""

    folder: str
    reason: str


@dataclass(frozen=True)
class QemuExited:
    """qemu has ended: with an exit code, or by a signal."""

    code: int | None
    signal: int | None


Event = (
    QemuStarted
    | QemuNotStarted
    | QmpReady
    | QmpEvent
    | QmpReply
    | CommandRefused
    | LadderStep
    | FolderLeft
    | QemuExited
)

_DECODERS: dict[str, Callable[[dict[str, Any]], Event]] = {
    "started": lambda told: QemuStarted(told["pid"]),
    "failed": lambda told: QemuNotStarted(told["part"], told["reason"]),
    "qmp-ready": lambda told: QmpReady(told["version"]),
    "qmp": lambda told: QmpEvent(told["name"], told["data"]),
    "reply": lambda told: QmpReply(told["id"], {key: told[key] for key in ("return", "error") if key in told}),
    "refused": lambda told: CommandRefused(told["command"], told["reason"]),
    "stopping": lambda told: LadderStep(told["step"]),
    "left": lambda told: FolderLeft(told["folder"], told["reason"]),
    "exited": lambda told: QemuExited(told["code"], told["signal"]),
}


def decode(line: str) -> Event | None:
    """Decode a line of monwrap's events.

    Returns:
        The event; None for one of a name that is not known.

    Raises:
        ValueError: The line is no event.
    """
    try:
        told = json.loads(line)
        decoder = _DECODERS.get(told["event"])
        return decoder(told) if decoder else None
    except (TypeError, KeyError) as error:
        raise ValueError(f"is no event: {error!r}") from error


# -- the process -------------------------------------------------------------------------------------------------------


class MonwrapClient:
    """One monwrap: its process, the pipe of commands to it, and the pipe of events from it.

    `on_event` is called with each event but replies, which go to whoever asked, and what is only for the log. `on_exit`
    is called once, with monwrap's exit code (-n when signal n ended it), after all its events.
    """

    def __init__(
        self, loop: Loop, launch: GuestLaunch, on_event: Callable[[Event], None], on_exit: Callable[[int], None]
    ) -> None:
        self.stray: str | None = None  # the last line that is no event: an error of Python's, or a wrong program's
        self._loop = loop
        self._launch = launch
        self._on_event = on_event
        self._on_exit = on_exit
        self._fds_taken_over = [fd for fd in (launch.qmp_fd, *launch.qemu_fds) if fd is not None]
        self._process: subprocess.Popen[bytes] | None = None
        self._reap_timer: Timer | None = None
        self._unread = b""
        self._replies: dict[int, OnReply] = {}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start monwrap, to start qemu. Raises OSError when it cannot be."""
        launch = self._launch
        lock = () if launch.lock_fd is None else (launch.lock_fd,)
        try:
            self._process = start_apart(
                monwrap_argv(launch),
                held=GROUP_SIGNALS if launch.monwrap == DEFAULT_MONWRAP else (),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=(*self._fds_taken_over, *lock),
                env=launch.env,
            )
        finally:
            self.close_fds()
        assert self._process.stdin
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._events, False)
        self._loop.watch(self._events, self._read_events)

    def close_fds(self) -> None:
        """Close the descriptors taken over, in this process; harmless when repeated."""
        while self._fds_taken_over:
            os.close(self._fds_taken_over.pop())

    def send(self, command: str) -> bool:
        """Write a command line; False when it cannot be. Never waits: monwrap reads at once, or not any more."""
        line = command.encode() + b"\n"
        pipe = self._process.stdin if self._process else None
        if pipe is None or pipe.closed or len(line) > COMMAND_BYTES:
            return False
        with suppress(BrokenPipeError, BlockingIOError):
            return os.write(pipe.fileno(), line) == len(line)
        return False

    def ask(self, word: str, what: Mapping[str, Any], on_reply: OnReply) -> None:
        """Send a command that has an answer, and call `on_reply` with that, or with an error."""
        number = max(self._replies, default=0) + 1
        self._replies[number] = on_reply
        if not self.send(f"{word} " + json.dumps({**what, "id": number})):
            self._replied(number, _error("the guest is gone, or the command too long"))

    def fail_replies(self, why: str) -> None:
        """Answer with an error whoever still waits for a reply."""
        for number in list(self._replies):
            self._replied(number, _error(why))

    def close(self) -> None:
        """End its standard input and wait: as long as the ladder takes, then kill monwrap. `on_exit` follows."""
        if self._process is None or self._process.returncode is not None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(self._launch.powerdown_s + self._launch.term_s + CLOSE_MARGIN_S)
        except subprocess.TimeoutExpired:
            logger.warning("monwrap (pid {}) does not end; killing it", self._process.pid)
            self._process.kill()
            self._process.wait()
        self._read_events()

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _events(self) -> int:
        assert self._process and self._process.stdout
        return self._process.stdout.fileno()

    def _read_events(self) -> None:
        """Read all that is there; its end is monwrap's."""
        with suppress(BlockingIOError):
            while data := os.read(self._events, _READ_BYTES):
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._take_line(line.decode(errors="replace"))
            self._loop.unwatch(self._events)
            self._reap()

    def _take_line(self, line: str) -> None:
        try:
            event = decode(line)
        except ValueError:
            self.stray = line
            return
        logger.debug("monwrap: {}", line)
        match event:
            case QmpReply(number, reply):
                self._replied(number, reply)
            case CommandRefused(command, reason):
                logger.warning("the guest cannot do {}: {}", command, reason)
            case FolderLeft(folder, reason):
                logger.warning("could not remove {}: {}", folder, reason)
            case None:
                pass
            case _:
                self._on_event(event)

    def _replied(self, number: int, reply: Reply) -> None:
        if on_reply := self._replies.pop(number, None):
            on_reply(reply)

    def _reap(self) -> None:
        assert self._process and self._process.stdin and self._process.stdout
        if self._reap_timer:
            self._reap_timer.cancel()
        if self._process.poll() is None:
            self._reap_timer = self._loop.call_later(REAP_LOOK_S, self._reap)
            return
        self._process.stdin.close()
        self._process.stdout.close()
        self._on_exit(self._process.returncode)


def _error(text: str) -> Reply:
    return {"error": {"class": "GenericError", "desc": text}}
