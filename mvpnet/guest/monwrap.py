"""monwrap: the small program between a rank and its qemu. Whatever ends the rank, monwrap ends qemu and tidies up.

    rank ── commands, a line each ──► stdin │         │ ◄── QMP (--qmp-fd) ──►
         ◄── events, JSON lines ──── stdout │ monwrap │ ── held pipe ──► stdin   qemu
                                            │         │ ◄── stdout, stderr into --qemu-log

When its standard input ends, or on SIGTERM, SIGINT, SIGHUP or the command `stop`, monwrap goes down a ladder until
qemu has ended: close qemu's standard input, ACPI power-down over QMP, SIGTERM, SIGKILL, each with its time. A qemu
that has not greeted on QMP by then cannot be powered down, and that step is left out. Then monwrap deletes the
`--remove` folders and exits with qemu's exit status (128 + n when signal n killed it, 127 when there was no such
program, 126 when it could not be started). With `--keep-on-death` the folders stay when qemu ended before the ladder
was begun: the rank is there then, and is to start it again on what is in them. A monwrap that is itself killed takes
qemu along (PR_SET_PDEATHSIG, prctl(2)). SIGUSR1 is ignored here, and by a qemu that does not ask for it: where Slurm
follows processes by their parents (proctrack/linuxproc), the signal before a job's time limit reaches them as well as
the rank, which sees to it.

Unlike the C program's monwrap, this one does not copy its standard input on to the program: it takes commands there.

    stop           go down the ladder now            kill     SIGKILL now
    powerdown      press the ACPI power button       reset    press the reset button
    qmp {...}      a QMP command as JSON; its "id", if any, comes back with the reply
    save {...}     begin to write the memory into a new file; {"path": ...}, and "id" as above

Events on standard output, each a JSON object on a line:

    {"event": "started", "pid": 123}                                   qemu runs; its process group has the same number
    {"event": "failed", "part": "program" or "log", "reason": "..."}   qemu could not be started
    {"event": "qmp-ready", "version": "7.2.0", "status": "running"}
    {"event": "qmp", "name": "SHUTDOWN", "data": {...}}                any event of qemu's, as it comes
    {"event": "reply", "id": ..., "return": ...}  or  {..., "error": {"class": "...", "desc": "..."}}
    {"event": "refused", "command": "...", "reason": "..."}            a command that could not be carried out
    {"event": "stopping", "step": "eof" | "powerdown" | "sigterm" | "sigkill", "why": "..."}
    {"event": "left", "folder": "...", "reason": "..."}                a folder that could not be deleted
    {"event": "exited", "code": 0 or null, "signal": null or 9}        the last one

It starts fast and stays small: qemu.qmp is imported while qemu starts, and nothing of mvpnet is, so that it runs as a
file, whatever folder it is started in.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

SAVE_FD = "mvpnet-save"  # qemu's name for the file that memory is saved to
PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UNREAD_EVENT_BYTES = 1 << 20  # what a rank that does not read may leave lying before events are dropped
LAST_WORDS_S = 1.0  # for qemu's last QMP messages, and the rank's last read, once qemu has ended


@dataclass(frozen=True)
class Options:
    """The command line. Times in seconds; 0 leaves that step of the ladder out."""

    command: tuple[str, ...]
    eof_s: float
    powerdown_s: float
    term_s: float
    log: Path | None
    qmp_fd: int | None
    qemu_log: Path | None
    pass_fds: tuple[int, ...]
    remove: tuple[Path, ...]
    keep_on_death: bool


def parse(argv: Sequence[str]) -> Options:
    """Read `[options] -- program [arguments]`; argparse's SystemExit(2) when it is not that."""
    parser = argparse.ArgumentParser(
        prog="monwrap",
        usage="%(prog)s [options] -- program [arguments]",
        description="Run a program (qemu), and end it when standard input ends.",
    )
    option = parser.add_argument
    option("-e", "--eof-s", type=_seconds, default=0.0, metavar="S", help="wait after closing its stdin (%(default)s)")
    option("--powerdown-s", type=_seconds, default=20.0, metavar="S", help="wait after power-down (%(default)s)")
    option("-t", "--term-s", type=_seconds, default=5.0, metavar="S", help="wait after SIGTERM (%(default)s)")
    option("-l", "--log", type=Path, metavar="FILE", help="append what monwrap does to this file")
    option("--qmp-fd", type=int, metavar="N", help="connected socket that the program speaks QMP on")
    option("--qemu-log", type=Path, metavar="FILE", help="append the program's output to this file")
    option("--pass-fd", type=int, action="append", default=[], metavar="N", help="descriptor the program inherits")
    option("--remove", type=_own_folder, action="append", default=[], metavar="DIR", help="folder to delete at the end")
    option("--keep-on-death", action="store_true", help="but not when the program ended without having been stopped")
    split = list(argv).index("--") if "--" in argv else len(argv)
    known, command = parser.parse_args(argv[:split]), tuple(argv[split + 1 :])
    if not command:
        parser.error("no program: put -- and its command line last")
    return Options(
        command=command,
        eof_s=known.eof_s,
        powerdown_s=known.powerdown_s,
        term_s=known.term_s,
        log=known.log,
        qmp_fd=known.qmp_fd,
        qemu_log=known.qemu_log,
        pass_fds=tuple(known.pass_fd),
        remove=tuple(known.remove),
        keep_on_death=known.keep_on_death,
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds")
    return value


def _own_folder(text: str) -> Path:
    """Only an absolute path below the root, to a folder that is ours: a slip here would delete a home."""
    path, home = Path(text), None
    with suppress(RuntimeError):  # there is no home
        home = Path.home()
    if not path.is_absolute() or len(path.parts) < 3 or path == home:
        raise argparse.ArgumentTypeError(f"{text}: not a folder to delete")
    if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.getuid():
        raise argparse.ArgumentTypeError(f"{text}: not a folder of your own")
    return path


class EventPipe:
    """The way to the rank. Never waits for it: a rank that hangs must not keep monwrap from ending qemu."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._unsent = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        if stat.S_ISFIFO(os.fstat(fd).st_mode) or stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.set_blocking(fd, False)

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """While there is a loop, it sends on what did not fit into the pipe at once."""
        if self._loop:
            self._loop.remove_writer(self._fd)
        self._loop = loop

    def send(self, event: str, **fields: object) -> None:
        if len(self._unsent) <= UNREAD_EVENT_BYTES:
            self._unsent += json.dumps({"event": event, **fields}).encode() + b"\n"
        self._flush()

    def finish(self) -> None:
        """Give the rank a last chance to read."""
        deadline = time.monotonic() + LAST_WORDS_S
        while self._unsent and (left := deadline - time.monotonic()) > 0:
            select.select([], [self._fd], [], left)
            self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._fd, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the rank is gone
            self._unsent.clear()
        self._watch()

    def _watch(self) -> None:
        if self._loop and self._unsent:
            self._loop.add_writer(self._fd, self._flush)
        elif self._loop:
            self._loop.remove_writer(self._fd)


def start_program(options: Options) -> subprocess.Popen[bytes]:
    """Start qemu: to die with us, leader of its process group, a pipe as stdin. Raises OSError when it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # we died before the prctl
            os._exit(127)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    with (options.qemu_log or Path(os.devnull)).open("ab") as log:
        return subprocess.Popen(
            options.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=options.pass_fds,
            process_group=0,
            preexec_fn=in_child,  # safe: one thread
        )


def qmp_library() -> ModuleType:
    """Import qemu.qmp, which takes longer than all else here: while qemu starts, and not before."""
    import qemu.qmp

    return qemu.qmp


class Qmp:
    """The QMP connection to qemu, whose events are passed on as they come."""

    def __init__(self, events: EventPipe) -> None:
        self._events = events
        self._client: QMPClient | None = None

    @property
    def ready(self) -> bool:
        """qemu has greeted."""
        return self._client is not None

    async def connect(self, fd: int) -> None:
        """Wait until qemu greets on this socket. When it does not, `ready` stays false."""
        library = qmp_library()
        client: QMPClient = library.QMPClient()
        client.logger.disabled = True
        client.events.event_filter = self._heard
        try:
            connection = socket.socket(fileno=fd)
            connection.setblocking(False)
            await client.connect(connection)
            version: Any = await client.execute("query-version")
            status: Any = await client.execute("query-status")
        except (library.QMPError, OSError, EOFError) as error:
            note(f"no QMP: {error}")
            return
        self._client = client
        number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
        self._events.send("qmp-ready", version=number, status=status["status"])

    def _heard(self, event: Any) -> bool:
        note(f"qmp: {event['event']} {event.get('data', '')}")
        self._events.send("qmp", name=event["event"], data=event.get("data", {}))
        return False  # qemu.qmp itself would keep every event for ever

    async def execute(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply's `return` or `error` member."""
        if not self._client:
            return {"error": {"class": "NotConnected", "desc": "qemu has not greeted on QMP"}}
        library = qmp_library()
        try:
            return {"return": await self._client.execute_msg(library.Message(message))}
        except library.ExecuteError as error:
            return {"error": {"class": error.error_class, "desc": str(error)}}
        except (library.QMPError, OSError, EOFError, ValueError) as error:
            return {"error": {"class": "GenericError", "desc": str(error)}}

    async def begin_to_save(self, path: Path) -> dict[str, Any]:
        """Give qemu a new file by its descriptor, and have it migrate (docs/devel/migration.rst) into that."""
        if not self._client:
            return await self.execute({})
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return {"error": {"class": "GenericError", "desc": f"{path}: {error.strerror}"}}
        try:
            self._client.send_fd_scm(fd)
        except Exception as error:  # of qemu.qmp and of the socket: qemu is about to end
            return {"error": {"class": "GenericError", "desc": f"qemu takes no descriptor: {error}"}}
        finally:
            os.close(fd)
        given = await self.execute({"execute": "getfd", "arguments": {"fdname": SAVE_FD}})
        if "error" in given:
            return given
        begun = await self.execute({"execute": "migrate", "arguments": {"uri": f"fd:{SAVE_FD}"}})
        if "error" in begun:
            await self.execute({"execute": "closefd", "arguments": {"fdname": SAVE_FD}})
        return begun

    async def finish(self) -> None:
        """qemu's socket may still hold events, such as why it shut down: read on to its end."""
        if self._client:
            with suppress(asyncio.TimeoutError):
                while self._client.runstate is qmp_library().Runstate.RUNNING:
                    await asyncio.wait_for(self._client.runstate_changed(), LAST_WORDS_S)
            with suppress(Exception):  # says once more how the connection ended
                await self._client.disconnect()


class Wrapper:
    """A running qemu, the rank's commands, and the ladder."""

    def __init__(self, options: Options, events: EventPipe, program: subprocess.Popen[bytes]) -> None:
        self._options = options
        self._events = events
        self._program = program
        self._exited = asyncio.Event()
        self._ladder: asyncio.Task[None] | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._qmp = Qmp(events)
        self._tasks: set[asyncio.Task[None]] = set()
        self._input = b""

    async def run(self) -> None:
        """Come back when qemu has ended and everything it said has been passed on."""
        loop = asyncio.get_running_loop()
        self._events.attach(loop)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop, number.name)
        # not a pidfd: kernels before 5.3, as on RHEL 8, have none
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._reap()
        try:
            loop.add_reader(sys.stdin.fileno(), self._read_commands)
        except PermissionError:  # a file or /dev/null, which epoll(7) does not take: nobody is there to command
            self.stop("no commands to wait for")
        if self._options.qmp_fd is not None:
            self._greeting = asyncio.create_task(self._qmp.connect(self._options.qmp_fd))
        await self._exited.wait()
        if self._greeting:
            await asyncio.wait([self._greeting], timeout=LAST_WORDS_S)
        await self._qmp.finish()
        self._events.attach(None)

    @property
    def stopped(self) -> bool:
        """It was told to stop, or the rank is gone."""
        return self._ladder is not None

    def stop(self, why: str) -> None:
        """Go down the ladder; once."""
        if not self._ladder and not self._exited.is_set():
            self._ladder = asyncio.create_task(self._step_down(why))

    def kill(self, why: str) -> None:
        self._step("sigkill", why)
        self._signal(signal.SIGKILL)

    async def _step_down(self, why: str) -> None:
        self._step("eof", why)
        assert self._program.stdin
        self._program.stdin.close()
        if await self._gone_within(self._options.eof_s):
            return
        if self._qmp.ready and self._options.powerdown_s:
            self._step("powerdown", why)
            self._perform({"execute": "system_powerdown"}, "powerdown")
            if await self._gone_within(self._options.powerdown_s):
                return
        if self._options.term_s:
            self._step("sigterm", why)
            self._signal(signal.SIGTERM)
            if await self._gone_within(self._options.term_s):
                return
        self.kill(why)

    def _step(self, step: str, why: str) -> None:
        note(f"stopping: {step} ({why})")
        self._events.send("stopping", step=step, why=why)

    async def _gone_within(self, seconds: float) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._exited.wait(), seconds)
        return self._exited.is_set()

    def _signal(self, number: int) -> None:
        """To the whole group: qemu.binary may be a script that waits for qemu."""
        if not self._exited.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self._program.pid, number)

    def _reap(self) -> None:
        pid = self._program.pid
        if self._exited.is_set() or not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        self._signal(signal.SIGKILL)  # what a script left behind; not yet reaped, so the number is still ours
        self._program.wait()
        self._exited.set()

    # -- commands ------------------------------------------------------------------------------------------------------

    def _read_commands(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.stop("standard input ended")
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._obey(line.decode(errors="replace").strip())

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "stop":
            self.stop("asked to")
        elif word == "kill":
            self.kill("asked to")
        elif word in ("powerdown", "reset"):
            self._perform({"execute": f"system_{word}"}, line)
        elif word == "qmp":
            self._pass_on(rest, line)
        elif word == "save":
            self._save(rest, line)
        else:
            self._refuse(line, "no such command")

    def _refuse(self, line: str, reason: str) -> None:
        note(f"refused: {line}: {reason}")
        self._events.send("refused", command=line, reason=reason)

    def _perform(self, message: dict[str, Any], line: str) -> None:
        self._run(self._performed(message, line))

    async def _performed(self, message: dict[str, Any], line: str) -> None:
        if error := (await self._qmp.execute(message)).get("error"):
            self._refuse(line, error["desc"])

    def _pass_on(self, text: str, line: str) -> None:
        try:
            message = json.loads(text)
        except ValueError as error:
            return self._refuse(line, f"not JSON: {error}")
        if not isinstance(message, dict) or not isinstance(message.get("execute"), str):
            return self._refuse(line, "not a QMP command: an object with execute and perhaps arguments and id")
        self._run(self._passed_on(message))

    async def _passed_on(self, message: dict[str, Any]) -> None:
        self._events.send("reply", id=message.pop("id", None), **await self._qmp.execute(message))

    def _save(self, text: str, line: str) -> None:
        try:
            asked = json.loads(text)
            path = Path(asked["path"])
        except (ValueError, TypeError, KeyError) as error:
            return self._refuse(line, f"no path to save to: {error!r}")
        self._run(self._saved(path, asked.get("id")))

    async def _saved(self, path: Path, number: object) -> None:
        self._events.send("reply", id=number, **await self._qmp.begin_to_save(path))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)


def remove(folders: Sequence[Path], events: EventPipe) -> None:
    """Delete the folders and all that is in them; what cannot be deleted is reported."""
    for folder in folders:
        try:
            shutil.rmtree(folder)
            note(f"removed {folder}")
        except FileNotFoundError:
            pass
        except OSError as error:
            note(f"left {folder}: {error}")
            events.send("left", folder=str(folder), reason=str(error))


def note(text: str) -> None:
    """A line for --log, which standard error has been turned to."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} monwrap[{os.getpid()}] {text}", file=sys.stderr, flush=True)


def leave_home(log: Path | None) -> None:
    """Get out of the rank's session and off its standard error, so that neither outlives it through us."""
    with suppress(PermissionError):  # a group leader cannot; one that leads a session need not
        os.setsid()
    with (log or Path(os.devnull)).open("ab") as sink:
        os.dup2(sink.fileno(), sys.stderr.fileno())


def wrap(options: Options, events: EventPipe) -> int:
    """Run the program to its end, and say how it ended. Returns monwrap's exit status."""
    try:
        program = start_program(options)
    except OSError as error:
        return could_not_start(options, events, error)
    note(f"started {program.pid}: {' '.join(options.command)}")
    events.send("started", pid=program.pid)
    for fd in options.pass_fds:  # so that qemu's end of a socket is the only one, and its peer sees it close
        os.close(fd)
    wrapper = Wrapper(options, events, program)
    asyncio.run(wrapper.run())
    if wrapper.stopped or not options.keep_on_death:
        remove(options.remove, events)
    code = program.returncode
    note(f"ended: {code}")
    events.send("exited", code=code if code >= 0 else None, signal=-code if code < 0 else None)
    return code if code >= 0 else 128 - code


def could_not_start(options: Options, events: EventPipe, error: OSError) -> int:
    part = "log" if options.qemu_log and error.filename == str(options.qemu_log) else "program"
    name = options.qemu_log if part == "log" else options.command[0]
    reason = f"{name}: {error.strerror}"
    note(f"failed: {reason}")
    events.send("failed", part=part, reason=reason)
    remove(options.remove, events)
    return 127 if isinstance(error, FileNotFoundError) else 126


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # held back until there is a loop to take them: a stop that comes earlier must not end us without the ladder
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        leave_home(options.log)
    except OSError as error:
        print(f"monwrap: --log {options.log}: {error.strerror}", file=sys.stderr)
        return 2
    events = EventPipe(sys.stdout.fileno())
    status = wrap(options, events)
    events.finish()
    return status


if __name__ == "__main__":
    sys.exit(main())
