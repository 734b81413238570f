"""Supervises one guest: starts monwrap and through it qemu, follows its life by state, and sees to its end.

Everything happens in the callbacks of the rank's loop; only `close` waits, and not for ever.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loguru import logger

from mvpnet.cloudinit.status import Answer, Readiness
from mvpnet.guest.diagnosis import (
    FAILED_SETUP,
    TAIL_BYTES,
    Failure,
    from_panic,
    last_lines,
    likely_cause,
    panic_words,
    unfinished_setup,
)
from mvpnet.guest.panic_watch import PanicWatch
from mvpnet.guest.qmp_watchdog import QmpWatchdog, why_silent
from mvpnet.guest.ssh_probe import FIRST_PAUSE_S, LOADED_PAUSE_S, BootProbe
from mvpnet.guest.states import Ending, Exit, GuestEnd, GuestState, Shutdown, how_it_ended, why_it_ended
from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.signals import GROUP_SIGNALS, held_back

DEFAULT_MONWRAP = "monwrap"  # qemu.monwrap's default: the one that came with us, wherever PATH leads
SETTLED_S = 2.0  # a qemu that greets on QMP runs its machine; of one that never does, so much life shows it
LINK_LOOK_S = 0.1
LOAD_LOOK_S = 0.1
REAP_LOOK_S = 0.01  # a process closes its pipes a little before it can be waited for
CLOSE_MARGIN_S = 10.0  # for monwrap to notice, and to delete folders, beyond the times of its ladder
PANIC_LINES = 5  # shown of a panic, its words first
COMMAND_BYTES = 4096  # PIPE_BUF of Linux: so much is written to a pipe whole or not at all (pipe(7))

Reply = dict[str, Any]  # {"return": ...} or {"error": {"class": ..., "desc": ...}}


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
    ask_setup: tuple[str, ...] | None = None  # readiness.ask_argv, for a guest that is up when cloud-init is done
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
        self.qemu_pid: int | None = None
        self.qemu_version: str | None = None  # once it has greeted on QMP
        self._loop = loop
        self._on_state = on_state
        self._link_connected = link_connected
        pause_s = LOADED_PAUSE_S if launch.loads else FIRST_PAUSE_S
        self._probe = BootProbe(loop, launch.ssh_port, self._on_banner, pause_s=pause_s)
        self._readiness = Readiness(loop, launch.ask_setup, self._set_up) if launch.ask_setup else None
        self._monwrap: subprocess.Popen[bytes] | None = None
        self._fds_taken_over = [fd for fd in (launch.qmp_fd, *launch.qemu_fds) if fd is not None]
        self._timer: Timer | None = None  # of the present state
        self._log_starts: dict[Path, int] = {}
        self._unread = b""
        self._stray: list[
            str
        ] = []  # what came down the event pipe and is no event: errors of Python's, or a wrong program
        self._replies: dict[int, Callable[[Reply], None]] = {}
        self._asked = False
        self._steps: tuple[str, ...] = ()
        self._shutdown: Shutdown | None = None
        self._panicked = False
        self._panic_watch: PanicWatch | None = None
        self._pulse: QmpWatchdog | None = None
        self._trouble: str | None = None  # what keeps a guest from running that has not ended
        self._disk_errors: set[str] = set()  # that were told
        self._refusal: str | None = None
        self._exit: tuple[int | None, int | None] | None = None

    # ── what is done to it ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def monwrap_pid(self) -> int | None:
        return self._monwrap.pid if self._monwrap else None

    def start(self) -> None:
        """Start monwrap, to start qemu. That it could not be is told as any other end, by the state `gone`."""
        launch = self.launch
        self._enter(GuestState.starting)
        self._log_starts = {log: _size(log) for log in (launch.qemu_log, launch.console_log) if log}
        lock = () if launch.lock_fd is None else (launch.lock_fd,)
        try:
            with held_back(GROUP_SIGNALS if launch.monwrap == DEFAULT_MONWRAP else ()):
                self._monwrap = subprocess.Popen(
                    monwrap_argv(launch),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    bufsize=0,
                    start_new_session=True,  # mpiexec signals the rank's whole process group
                    pass_fds=(*self._fds_taken_over, *lock),
                    env=launch.env,
                )
        except OSError as error:
            reason = f"monwrap could not be started: {launch.monwrap}: {error.strerror}; see the key qemu.monwrap"
            self._finish(GuestEnd(Ending.failed_to_start, reason))
            return
        self._close_fds()
        os.set_blocking(self._commands, False)
        os.set_blocking(self._events, False)
        self._loop.watch(self._events, self._on_events)

    def announce_running(self) -> None:
        """All ranks' guests are up. Nothing happens when this one is not, or not any more."""
        if self.state is GuestState.up:
            self._enter(GuestState.running)

    def power_down(self) -> None:
        """Press the ACPI power button, and leave the guest all the time it takes; not before it is booting."""
        if GuestState.starting.precedes(self.state):
            self._ask("powerdown")

    def stop(self) -> None:
        """Stop it: power-down, SIGTERM, SIGKILL, each with its time."""
        if self.state is GuestState.prepared:
            self._finish(GuestEnd(Ending.stopped, "stopped before it was started"))
        else:
            self._ask("stop")

    def kill(self) -> None:
        """End qemu at once."""
        if self.state is GuestState.prepared:
            self.stop()
        else:
            self._ask("kill")

    def reset(self) -> None:
        """Press the reset button."""
        self._command("reset")

    def qmp(self, command: Mapping[str, Any], on_reply: Callable[[Reply], None]) -> None:
        """Execute a QMP command, {"execute": NAME, "arguments": {...}}, and call `on_reply` with what comes of it."""
        self._send("qmp", command, on_reply)

    def _send(self, word: str, what: Mapping[str, Any], on_reply: Callable[[Reply], None]) -> None:
        number = max(self._replies, default=0) + 1
        self._replies[number] = on_reply
        if not self._command(f"{word} " + json.dumps({**what, "id": number})):
            self._replied(number, _error("the guest is gone, or the command too long"))

    def save_memory(self, path: Path, on_reply: Callable[[Reply], None]) -> None:
        """Begin to write memory and the devices' state into a new file; `on_reply` is told whether qemu has begun."""
        self._send("save", {"path": str(path)}, on_reply)

    def go_on(self) -> None:
        """All ranks' memory is loaded. Nothing happens when this one's is not."""
        if self.state is GuestState.loaded:
            self.qmp({"execute": "cont"}, self._went_on)

    def close(self) -> None:
        """Stop it if it is not gone, and wait until it is: as long as the ladder takes, then monwrap is killed too."""
        if self.state is GuestState.prepared:
            self.stop()
        if self.state is GuestState.gone or not self._monwrap:
            return
        self.stop()
        assert self._monwrap.stdin
        self._monwrap.stdin.close()
        try:
            self._monwrap.wait(self.launch.powerdown_s + self.launch.term_s + CLOSE_MARGIN_S)
        except subprocess.TimeoutExpired:
            logger.warning("monwrap (pid {}) does not end; killing it", self._monwrap.pid)
            self._monwrap.kill()
            self._monwrap.wait()
        self._on_events()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def failure(self) -> Failure:
        """What there is to say about a guest that did not come up: at any time, most of all when it is gone."""
        qemu_lines, console_lines = self._tail(self.launch.qemu_log), self._tail(self.launch.console_log)
        if self._has_panicked:
            console_lines = from_panic(self._long_tail())[:PANIC_LINES]
        reached = [state for state in GuestState if state in self.times and state.precedes(GuestState.stopping)][-1]
        reason = self.end.reason if self.end else f"it is {self.state.value}"
        cause: str | None
        if self._trouble:
            cause = self._trouble
        elif reached is GuestState.configuring and self._readiness:
            cause = FAILED_SETUP if self.setup_failure else unfinished_setup(self._readiness.last_words)
        else:
            cause = likely_cause(reached, qemu_lines, console_lines if self.launch.console_log else None)
        return Failure(reached, reason, cause, qemu_lines, console_lines)

    # ── its states ───────────────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, state: GuestState) -> None:
        """Go on to a later state; an earlier one, or the same, is passed over."""
        if not self.state.precedes(state):
            return
        if self._timer:
            self._timer.cancel()
        self.state = state
        self.times[state] = time.monotonic()
        self._on_state(state)

    def _settled(self) -> None:
        if self.state is GuestState.starting:
            self._enter(GuestState.booting)
            if self.launch.loads:
                self._enter(GuestState.loading)
                self._look_whether_loaded()
            else:
                self._watch_the_guest()

    def _watch_the_guest(self) -> None:
        """It runs: its ssh server is to answer, and its kernel not to panic."""
        self._probe.start()
        if log := self.launch.console_log:
            self._panic_watch = PanicWatch(self._loop, log, self._log_starts[log], self._hangs_in_panic)

    def _look_whether_loaded(self) -> None:
        if self.state is GuestState.loading:
            self.qmp({"execute": "query-status"}, self._loading)

    def _loading(self, reply: Reply) -> None:
        """While it loads qemu does not answer, or says inmigrate; a qemu that cannot load it ends."""
        if self.state is not GuestState.loading:
            return
        if reply.get("return", {}).get("status") == "paused":
            self._enter(GuestState.loaded)
        else:
            self._timer = self._loop.call_later(LOAD_LOOK_S, self._look_whether_loaded)

    def _went_on(self, reply: Reply) -> None:
        if "error" in reply:
            self.setup_failure = f"qemu did not go on from the saved memory: {reply['error']['desc']}"
            self.stop()
        elif self.state is GuestState.loaded:
            self._watch_the_guest()

    def _on_banner(self, banner: str) -> None:
        logger.debug("ssh answers: {}", banner)
        if self._readiness:
            self._enter(GuestState.configuring)
            self._readiness.start()
        else:
            self._up_when_linked()

    def _set_up(self, told: Answer) -> None:
        if told.failed:
            self.setup_failure = f"cloud-init in the guest failed: {told.reason}"
            self.stop()
            return
        if told.reason:
            logger.warning("cloud-init in the guest is done, and had errors: {}", told.reason)
        self._up_when_linked()

    def _up_when_linked(self) -> None:
        if self.state not in (GuestState.booting, GuestState.loaded, GuestState.configuring):
            return
        if self._link_connected():
            self._enter(GuestState.up)
        else:
            self._timer = self._loop.call_later(LINK_LOOK_S, self._up_when_linked)

    def _hangs_in_panic(self) -> None:
        """There is nothing that this guest will ever do again, not even power off."""
        self._panicked = True
        self._command("kill")
        self._stopping()

    def _ask_status(self, on_reply: Callable[[Reply], None]) -> None:
        self.qmp({"execute": "query-status"}, on_reply)

    def _qemu_tells(self, name: str, data: dict[str, Any]) -> None:
        """An event of qemu's (qapi/run-state.json)."""
        if name == "SHUTDOWN":
            self._shutdown = Shutdown(data["guest"], data["reason"])
            self._stopping()
        elif name == "GUEST_PANICKED":
            self._panicked = True
            if data["action"] == "pause":  # as somebody asked of qemu: left as it is, to be looked at
                logger.error("the guest panicked (kernel panic), and qemu has paused it")
        elif name == "RESET":
            self._panicked = False
        elif name == "BLOCK_IO_ERROR":
            self._disk_failed(data)
        elif name == "RESUME":
            self._trouble = None

    def _disk_failed(self, data: dict[str, Any]) -> None:
        """An event of qapi/block-core.json: the guest is told of the error, or (no space left) is paused."""
        what = f"the guest's disk {data['device'] or data.get('node-name', '')}: {data['operation']}: {data['reason']}"
        if data["action"] == "stop":
            told, self._trouble = self._trouble, f"{what}; qemu has paused the guest"
            hint = "make room where its overlay or image is, then let it go on: mvpnet monitor RANK cont"
            if told != self._trouble:  # qemu tells it of every write that was on its way
                logger.error("{}\n  hint: {}", self._trouble, hint)
        elif what not in self._disk_errors:
            self._disk_errors.add(what)
            logger.error("{}; the guest was told of the error (said once)", what)

    def _is_silent(self, seconds: float) -> None:
        assert self.qemu_pid
        why = why_silent(self.qemu_pid)
        self._trouble = f"qemu (pid {self.qemu_pid}) has not answered for {seconds:g} s" + (f": {why}" if why else "")
        logger.error("{}", self._trouble)

    def _answers_again(self) -> None:
        self._trouble = None
        logger.warning("qemu answers again")

    def _stopping(self) -> None:
        self._wait_no_more()
        self._enter(GuestState.stopping)

    def _wait_no_more(self) -> None:
        self._probe.cancel()
        for watch in (self._panic_watch, self._pulse):
            if watch:
                watch.cancel()
        if self._readiness:
            self._readiness.cancel()

    def _finish(self, end: GuestEnd) -> None:
        self._wait_no_more()
        self._close_fds()
        self.end = end
        self._enter(GuestState.gone)
        for number in list(self._replies):
            self._replied(number, _error("the guest is gone"))

    # ── monwrap ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _commands(self) -> int:
        assert self._monwrap and self._monwrap.stdin
        return self._monwrap.stdin.fileno()

    @property
    def _events(self) -> int:
        assert self._monwrap and self._monwrap.stdout
        return self._monwrap.stdout.fileno()

    def _ask(self, command: str) -> None:
        if self.state in (GuestState.prepared, GuestState.gone):
            return
        self._asked = True
        self._command(command)
        self._stopping()

    def _command(self, command: str) -> bool:
        """Write a command line; False when it cannot be. Never waits: monwrap reads at once, or not any more."""
        line = command.encode() + b"\n"
        if not self._monwrap or self.state is GuestState.gone or len(line) > COMMAND_BYTES:
            return False
        with suppress(BrokenPipeError, BlockingIOError):
            return os.write(self._commands, line) == len(line)
        return False

    def _on_events(self) -> None:
        """Read all that is there; its end is monwrap's."""
        with suppress(BlockingIOError):
            while data := os.read(self._events, 65536):
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._heard(line.decode(errors="replace"))
            self._loop.unwatch(self._events)
            self._reap()

    def _heard(self, line: str) -> None:
        try:
            event = json.loads(line)
            name = event["event"]
        except (ValueError, TypeError, KeyError):
            self._stray.append(line)
            return
        logger.debug("monwrap: {}", line)
        match name:
            case "started":
                self.qemu_pid = event["pid"]
                self._timer = self._loop.call_later(SETTLED_S, self._settled)
            case "failed":
                key = "qemu.binary" if event["part"] == "program" else "logging.dir"
                self._refusal = f"qemu could not be started: {event['reason']}; see the key {key}"
            case "qmp-ready":
                self.qemu_version = event["version"]
                self._settled()
                if self.state.precedes(GuestState.stopping):
                    self._pulse = QmpWatchdog(
                        self._loop,
                        self._ask_status,
                        self._is_silent,
                        self._answers_again,
                        self.launch.answer_timeout_s,
                    )
            case "qmp":
                self._qemu_tells(event["name"], event["data"])
            case "stopping":
                self._steps += (event["step"],)
                self._stopping()
            case "reply":
                self._replied(event.pop("id"), {key: event[key] for key in ("return", "error") if key in event})
            case "refused":
                logger.warning("the guest cannot do {}: {}", event["command"], event["reason"])
            case "left":
                logger.warning("could not remove {}: {}", event["folder"], event["reason"])
            case "exited":
                self._exit = event["code"], event["signal"]

    def _replied(self, number: int, reply: Reply) -> None:
        if on_reply := self._replies.pop(number, None):
            on_reply(reply)

    def _reap(self) -> None:
        assert self._monwrap and self._monwrap.stdin and self._monwrap.stdout
        if self._monwrap.poll() is None:
            self._timer = self._loop.call_later(REAP_LOOK_S, self._reap)
            return
        self._monwrap.stdin.close()
        self._monwrap.stdout.close()
        self._finish(self._verdict(self._monwrap.returncode))

    def _verdict(self, monwrap_code: int) -> GuestEnd:
        qemu_lines = self._tail(self.launch.qemu_log)
        if self._refusal:
            return GuestEnd(Ending.failed_to_start, self._refusal)
        if self._exit:
            seen = Exit(
                *self._exit,
                asked=self._asked,
                steps=self._steps,
                shutdown=self._shutdown,
                had_run=GuestState.booting in self.times,
                panic=panic_words(self._long_tail()) if self._has_panicked else None,
            )
            return GuestEnd(how_it_ended(seen), why_it_ended(seen, qemu_lines), *self._exit, qemu_lines)
        signalled = f"was killed by {signal.Signals(-monwrap_code).name}" if monwrap_code < 0 else ""
        how = signalled or f"ended with exit code {monwrap_code}"
        if self.qemu_pid is None:
            said = f": {self._stray[-1]}" if self._stray else ""
            return GuestEnd(Ending.failed_to_start, f"monwrap {how}{said}; see the key qemu.monwrap")
        with suppress(ProcessLookupError):  # qemu dies with monwrap; what a script started in between need not
            os.killpg(self.qemu_pid, signal.SIGKILL)
        return GuestEnd(Ending.crashed, f"monwrap {how}, and qemu with it", last_lines=qemu_lines)

    @property
    def _has_panicked(self) -> bool:
        """Also where its panic was told in no event of its own, or qemu had been told to shut down for it."""
        return self._panicked or (self._shutdown is not None and self._shutdown.reason == "guest-panic")

    def _tail(self, log: Path | None) -> tuple[str, ...]:
        return last_lines(log, start=self._log_starts.get(log, 0)) if log else ()

    def _long_tail(self) -> tuple[str, ...]:
        """Of the console: a panic's registers and calls come after its words."""
        log = self.launch.console_log
        return last_lines(log, TAIL_BYTES, start=self._log_starts.get(log, 0)) if log else ()

    def _close_fds(self) -> None:
        while self._fds_taken_over:
            os.close(self._fds_taken_over.pop())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _error(text: str) -> Reply:
    return {"error": {"class": "GenericError", "desc": text}}
