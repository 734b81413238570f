"""monwrap with real processes under it: each step of its ladder, each thing that sets it going, and what it leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mvpnet.guest import monwrap
from waiting import PATIENCE_S, eventually

MONWRAP = [sys.executable, "-P", monwrap.__file__]
STANDIN = str(Path(__file__).parent.parent / "standin.py")
LONG_S, SHORT_S = "600", "0.2"  # a step that is to be enough, and one that is to pass in vain

# Ignores SIGTERM and the end of its standard input, and says when it has begun to.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]
SLEEP = ["sleep", "600"]


def alive(pid: int) -> bool:
    """Not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Monwrap:
    """A running monwrap, and the events that came from it."""

    def __init__(self, folder: Path, *options: str, program: list[str], fds: tuple[int, ...] = (), **how: Any) -> None:
        self.qemu_log = folder / "qemu.log"
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*MONWRAP, "--qemu-log", str(self.qemu_log), *options, "--", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=fds,
            **how,
        )

    def read_until(self, name: str) -> dict[str, Any]:
        """The next event of that name, which is to come."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"{name} never came: {self.events}")

    def pid(self) -> int:
        return int(self.read_until("started")["pid"])

    def ready(self) -> None:
        """Wait until a STUBBORN program is stubborn."""
        eventually(lambda: self.qemu_log.exists() and "ready" in self.qemu_log.read_text())

    def say(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command.encode() + b"\n")

    def end_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def finish(self) -> int:
        """Read on to the last event, and give the exit status."""
        self.read_until("exited")
        assert self.process.stdout
        assert self.process.stdout.read() == b""
        return self.process.wait(PATIENCE_S)

    def steps(self) -> list[str]:
        return [event["step"] for event in self.events if event["event"] == "stopping"]

    def qmp_events(self) -> list[str]:
        return [event["name"] for event in self.events if event["event"] == "qmp"]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Monwrap]]:
    running: list[Monwrap] = []

    def begin(*options: str, **how: Any) -> Monwrap:
        running.append(Monwrap(tmp_path, *options, **how))
        return running[-1]

    yield begin
    for each in running:
        each.close()


@pytest.fixture
def start_standin(start: Callable[..., Monwrap]) -> Callable[..., Monwrap]:
    """A monwrap with the stand-in for qemu under it, which greets on QMP unless told not to."""

    def begin(*options: str, behaviour: str = "normal", argv: tuple[str, ...] = (), **env: str) -> Monwrap:
        ours, qemus = socket.socketpair()
        with ours, qemus:
            fds = ours.fileno(), qemus.fileno()
            return start(
                *options,
                *("--qmp-fd", str(fds[0]), "--pass-fd", str(fds[1])),
                program=[STANDIN, "-chardev", f"socket,id=qmp,fd={fds[1]}", "-mon", "chardev=qmp,mode=control", *argv],
                fds=fds,
                env={**os.environ, "STANDIN_BEHAVIOUR": behaviour, **env},
            )

    return begin


# -- the ladder --------------------------------------------------------------------------------------------------------


def test_power_down_is_enough_for_a_guest_that_obeys(start_standin):
    wrap = start_standin("--powerdown-s", LONG_S)
    assert wrap.read_until("qmp-ready") == {"event": "qmp-ready", "version": "7.2.0", "status": "running"}
    wrap.end_input()
    assert wrap.finish() == 0
    assert wrap.steps() == ["eof", "powerdown"]
    assert wrap.qmp_events() == ["POWERDOWN", "SHUTDOWN"]
    assert wrap.events[-1] == {"event": "exited", "code": 0, "signal": None}
    assert {"event": "qmp", "name": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}} in wrap.events


def test_sigterm_for_a_guest_that_ignores_the_power_button(start_standin):
    wrap = start_standin("--powerdown-s", SHORT_S, "--term-s", LONG_S, behaviour="ignore-powerdown")
    wrap.read_until("qmp-ready")
    wrap.end_input()
    assert wrap.finish() == 0
    assert wrap.steps() == ["eof", "powerdown", "sigterm"]
    assert wrap.qmp_events() == ["POWERDOWN", "SHUTDOWN"]


def test_sigkill_for_a_qemu_that_ignores_all(start_standin):
    wrap = start_standin("--powerdown-s", SHORT_S, "--term-s", SHORT_S, behaviour="ignore-powerdown+ignore-term")
    wrap.read_until("qmp-ready")
    wrap.end_input()
    assert wrap.finish() == 128 + signal.SIGKILL
    assert wrap.steps() == ["eof", "powerdown", "sigterm", "sigkill"]
    assert wrap.events[-1] == {"event": "exited", "code": None, "signal": signal.SIGKILL}


def test_without_qmp_there_is_no_power_down(start_standin):
    wrap = start_standin("--powerdown-s", LONG_S, "--term-s", LONG_S, behaviour="no-qmp")
    wrap.pid()
    wrap.end_input()
    wrap.finish()
    assert wrap.steps() == ["eof", "sigterm"]


def test_a_qemu_that_hangs_is_killed(start_standin):
    wrap = start_standin("--powerdown-s", SHORT_S, "--term-s", SHORT_S)
    pid = wrap.pid()
    wrap.read_until("qmp-ready")
    os.kill(pid, signal.SIGSTOP)
    wrap.end_input()
    assert wrap.finish() == 128 + signal.SIGKILL
    assert wrap.steps() == ["eof", "powerdown", "sigterm", "sigkill"]


def test_a_program_may_leave_when_its_input_ends(start):
    wrap = start("--eof-s", LONG_S, program=["cat"])
    wrap.pid()
    wrap.end_input()
    assert wrap.finish() == 0
    assert wrap.steps() == ["eof"]


def test_steps_of_no_time_are_left_out(start):
    wrap = start("--term-s", "0", program=SLEEP)
    wrap.pid()
    wrap.end_input()
    assert wrap.finish() == 128 + signal.SIGKILL
    assert wrap.steps() == ["eof", "sigkill"]


def test_sigterm_reaches_a_qemu_behind_a_script(start):
    wrap = start("--term-s", LONG_S, program=["sh", "-c", "sleep 600; true"])
    pid = wrap.pid()
    eventually(lambda: children(pid))
    (child,) = children(pid)
    wrap.end_input()
    assert wrap.finish() == 128 + signal.SIGTERM
    assert not alive(child)


def test_what_a_script_leaves_behind_is_killed(start):
    wrap = start(program=["sh", "-c", "trap '' TERM; sleep 600 & echo $!"])
    assert wrap.finish() == 0
    eventually(lambda: not alive(int(wrap.qemu_log.read_text())))


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- what sets it going ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_set_the_ladder_going(start, number):
    wrap = start("--term-s", LONG_S, program=SLEEP)
    wrap.pid()
    wrap.process.send_signal(number)
    assert wrap.finish() == 128 + signal.SIGTERM
    assert wrap.steps() == ["eof", "sigterm"]
    assert {event["why"] for event in wrap.events if event["event"] == "stopping"} == {number.name}


def test_a_signal_to_the_whole_slurm_job_is_the_ranks_to_act_on(start_standin):
    wrap = start_standin("--powerdown-s", LONG_S)
    qemu = wrap.pid()
    wrap.read_until("qmp-ready")
    for pid in (wrap.process.pid, qemu):
        os.kill(pid, signal.SIGUSR1)
    wrap.say("powerdown")
    assert wrap.finish() == 0
    assert "SHUTDOWN" in wrap.qmp_events()


def test_a_second_call_to_stop_does_not_start_a_second_ladder(start):
    wrap = start("--term-s", SHORT_S, program=STUBBORN)
    wrap.ready()
    wrap.say("stop")
    wrap.read_until("stopping")
    wrap.process.send_signal(signal.SIGTERM)
    wrap.say("stop")
    wrap.end_input()
    assert wrap.finish() == 128 + signal.SIGKILL
    assert wrap.steps() == ["eof", "sigterm", "sigkill"]


def test_kill_cuts_the_ladder_short(start):
    wrap = start("--term-s", LONG_S, program=STUBBORN)
    wrap.ready()
    wrap.say("stop")
    while wrap.read_until("stopping")["step"] != "sigterm":
        pass
    wrap.say("kill")
    assert wrap.finish() == 128 + signal.SIGKILL


def test_input_that_nobody_holds_is_an_end(tmp_path):
    done = subprocess.run(
        [*MONWRAP, "--term-s", LONG_S, "--", *SLEEP], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["started", *["stopping"] * 2, "exited"]


RANK = """
import os, signal, subprocess, sys, time
wrap = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
sys.stdout.write(wrap.stdout.readline().decode())
sys.stdout.flush()
time.sleep(600)
"""


def test_a_rank_killed_takes_qemu_along(tmp_path):
    """What ends the rank leaves it no time to do anything: the end of the pipe must be enough."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    argv = [*MONWRAP, "--term-s", SHORT_S, "--remove", str(scratch), "--", *STUBBORN]
    rank = subprocess.Popen([sys.executable, "-c", RANK, *argv], stdout=subprocess.PIPE)
    with rank:
        assert rank.stdout
        pid = json.loads(rank.stdout.readline())["pid"]
        assert alive(pid)
        rank.kill()
    eventually(lambda: not alive(pid))
    eventually(lambda: not scratch.exists())


def test_monwrap_killed_takes_qemu_along(start):
    wrap = start(program=STUBBORN)
    pid = wrap.pid()
    wrap.ready()
    wrap.process.kill()
    eventually(lambda: not alive(pid))


# -- what is passed on -------------------------------------------------------------------------------------------------


def test_commands_of_the_rank(start_standin):
    wrap = start_standin(behaviour="ignore-powerdown")
    wrap.read_until("qmp-ready")
    wrap.say("powerdown")
    assert wrap.read_until("qmp")["name"] == "POWERDOWN"
    wrap.say("reset")
    assert wrap.read_until("qmp")["name"] == "RESET"
    wrap.say('qmp {"execute": "query-status", "id": 7}')
    assert wrap.read_until("reply") == {
        "event": "reply",
        "id": 7,
        "return": {"status": "running", "running": True},
    }
    wrap.say('qmp {"execute": "fly", "arguments": {}}')
    assert wrap.read_until("reply") == {
        "event": "reply",
        "id": None,
        "error": {"class": "CommandNotFound", "desc": "The command fly has not been found"},
    }
    wrap.say('qmp {"execute": "quit", "id": "q"}')
    assert wrap.finish() == 0
    assert wrap.steps() == []


def test_memory_is_saved_into_a_new_file(start_standin, tmp_path):
    wrap = start_standin()
    wrap.read_until("qmp-ready")
    saved = tmp_path / "memory"
    wrap.say(f'save {{"path": "{saved}", "id": 1}}')
    assert wrap.read_until("reply") == {"event": "reply", "id": 1, "return": {}}
    wrap.say('qmp {"execute": "query-migrate", "id": 2}')
    assert wrap.read_until("reply")["return"]["status"] == "completed"
    assert saved.read_text() == "memory of rank 0\n"
    assert saved.stat().st_mode & 0o777 == 0o600
    wrap.say(f'save {{"path": "{saved}", "id": 3}}')
    assert "File exists" in wrap.read_until("reply")["error"]["desc"]
    wrap.say(f'save {{"path": "{tmp_path}/none/memory", "id": 4}}')
    assert "No such file" in wrap.read_until("reply")["error"]["desc"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("dance", "no such command"),
        ("", "no such command"),
        ("qmp", "not JSON"),
        ("qmp [1]", "not a QMP command"),
        ('qmp {"arguments": {}}', "not a QMP command"),
        ("save", "no path to save to"),
        ("save []", "no path to save to"),
        ("powerdown", "qemu has not greeted on QMP"),
    ],
)
def test_commands_that_cannot_be_obeyed(start, command, reason):
    wrap = start(program=SLEEP)
    wrap.say(command)
    refused = wrap.read_until("refused")
    assert refused["command"] == command
    assert reason in refused["reason"]
    wrap.say('qmp {"execute": "query-status", "id": 1}')
    assert wrap.read_until("reply")["error"]["class"] == "NotConnected"


def test_a_guest_that_powers_itself_off(start_standin):
    wrap = start_standin(behaviour="poweroff=0")
    assert wrap.finish() == 0
    assert wrap.steps() == []
    assert wrap.events[-1]["code"] == 0


def test_the_last_events_come_before_the_exit(start_standin, tmp_path):
    wrap = start_standin(STANDIN_DIR=str(tmp_path))
    wrap.read_until("qmp-ready")
    (tmp_path / "poweroff.0").touch()
    wrap.finish()
    assert [event["event"] for event in wrap.events] == ["started", "qmp-ready", "qmp", "exited"]


def test_exit_status_and_output_are_the_programs(start):
    wrap = start(program=["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert wrap.finish() == 7
    assert wrap.qemu_log.read_text() == "out\nerr\n"


def test_only_the_descriptors_named_reach_the_program(start):
    passed, kept = os.memfd_create("passed"), os.memfd_create("kept")
    wrap = start("--pass-fd", str(passed), program=["sh", "-c", "ls -l /proc/$$/fd"], fds=(passed, kept))
    os.close(passed), os.close(kept)
    wrap.finish()
    listing = wrap.qemu_log.read_text()
    assert f"{passed} -> /memfd:passed" in listing
    assert "memfd:kept" not in listing
    assert "socket" not in listing


def test_a_rank_that_does_not_read_holds_nothing_up(start_standin):
    """Neither the guest's end nor monwrap's: events that do not fit are kept for a while, then dropped."""
    wrap = start_standin("--term-s", SHORT_S)
    assert wrap.process.stdin
    for _ in range(4000):
        wrap.say("nonsense " + "x" * 500)
    wrap.end_input()
    assert wrap.process.wait(PATIENCE_S) in (0, 128 + signal.SIGTERM)


def test_it_leaves_the_session_and_the_standard_error_of_the_rank(start, tmp_path):
    log = tmp_path / "monwrap.log"
    wrap = start("--log", str(log), program=SLEEP, stderr=subprocess.PIPE, process_group=0)
    pid = wrap.pid()
    wrap.close()
    session = start("--log", str(log), program=SLEEP, stderr=subprocess.PIPE)
    pid = session.pid()
    assert os.getsid(pid) == session.process.pid
    assert os.getpgid(pid) == pid
    for process in (wrap.process, session.process):
        with process.stderr:
            assert process.stderr.read() == b""  # its end: monwrap does not hold it any more
    assert "started" in log.read_text()


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_folders_are_removed_after_the_end_and_before_it_is_told(start, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "disk.qcow2").write_bytes(b"x")
    wrap = start(*(word for folder in folders for word in ("--remove", str(folder))), program=SLEEP)
    wrap.pid()
    assert all(folder.exists() for folder in folders)
    wrap.end_input()
    wrap.read_until("exited")
    assert not any(folder.exists() for folder in folders)


def test_a_folder_already_gone_is_no_trouble(start, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    wrap = start("--remove", str(folder), program=SLEEP)
    wrap.pid()
    shutil.rmtree(folder)
    wrap.end_input()
    wrap.finish()
    assert "left" not in [event["event"] for event in wrap.events]


@pytest.mark.parametrize(
    ("end", "is_kept"), [("died", True), ("kill", True), ("stop", False), ("closed", False), ("SIGTERM", False)]
)
def test_folders_are_kept_for_a_rank_that_is_to_start_a_program_again(start, tmp_path, end, is_kept):
    folder = tmp_path / "scratch"
    folder.mkdir()
    wrap = start("--remove", str(folder), "--keep-on-death", "--term-s", LONG_S, program=SLEEP)
    pid = wrap.pid()
    if end == "died":
        os.kill(pid, signal.SIGKILL)
    elif end == "closed":
        wrap.process.stdin.close()
    elif end == "SIGTERM":
        wrap.process.send_signal(signal.SIGTERM)
    else:
        wrap.process.stdin.write(end.encode() + b"\n")
    wrap.read_until("exited")
    assert folder.exists() == is_kept


def test_a_folder_that_cannot_be_removed_is_told(start, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    wrap = start("--remove", str(folder), program=SLEEP)
    wrap.pid()
    folder.rmdir()
    folder.symlink_to(tmp_path)  # rmtree does not follow it
    wrap.end_input()
    wrap.finish()
    (left,) = [event for event in wrap.events if event["event"] == "left"]
    assert left["folder"] == str(folder)
    assert tmp_path.exists()


def test_the_lock_is_held_until_the_very_end(start, tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    wrap = start("--term-s", SHORT_S, program=STUBBORN, fds=(lock,))
    os.close(lock)
    wrap.ready()
    wrap.end_input()
    wrap.read_until("stopping")
    assert is_locked(tmp_path / "lock")
    wrap.finish()
    assert not is_locked(tmp_path / "lock")


def test_the_lock_is_not_kept_by_qemu(start, tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    wrap = start(program=["sh", "-c", "ls -l /proc/self/fd"], fds=(lock,))
    os.close(lock)
    wrap.finish()
    assert str(tmp_path / "lock") not in wrap.qemu_log.read_text()


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_no_such_program(start, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    wrap = start("--remove", str(folder), program=["/nowhere/qemu-system-x86_64", "-m", "1G"])
    assert wrap.read_until("failed") == {
        "event": "failed",
        "part": "program",
        "reason": "/nowhere/qemu-system-x86_64: No such file or directory",
    }
    assert wrap.process.wait(PATIENCE_S) == 127
    assert not folder.exists()


def test_a_program_that_is_none(start, tmp_path):
    wrap = start(program=[str(tmp_path)])
    assert wrap.read_until("failed")["reason"] == f"{tmp_path}: Permission denied"
    assert wrap.process.wait(PATIENCE_S) == 126


def test_a_log_that_cannot_be_written(tmp_path):
    log = tmp_path / "no-such-folder" / "qemu.log"
    done = run("--qemu-log", str(log), "--", *SLEEP)
    assert json.loads(done.stdout) == {"event": "failed", "part": "log", "reason": f"{log}: No such file or directory"}


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "no program"),
        (["--term-s", "5", "--"], "no program"),
        (["--term-s", "-1", "--", "true"], "not a number of seconds"),
        (["--term-s", "soon", "--", "true"], "invalid"),
        (["--powerdown-s", "nan", "--", "true"], "not a number of seconds"),
        (["--remove", "/", "--", "true"], "not a folder to delete"),
        (["--remove", "/home", "--", "true"], "not a folder to delete"),
        (["--remove", "relative", "--", "true"], "not a folder to delete"),
        (["--remove", str(Path.home()), "--", "true"], "not a folder to delete"),
        (["--remove", "/proc/1/fd/none", "--", "true"], "not a folder of your own"),
        (["--log", "/nowhere/monwrap.log", "--", "true"], "No such file or directory"),
        (["--frobnicate", "--", "true"], "unrecognized arguments"),
    ],
)
def test_command_lines_that_are_refused(argv, error):
    done = run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MONWRAP, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_the_short_options_are_the_c_programs(tmp_path):
    options = monwrap.parse(["-e", "1", "-t", "2", "-l", str(tmp_path / "log"), "--", "qemu", "--", "-m", "1G"])
    assert (options.eof_s, options.term_s, options.log) == (1.0, 2.0, tmp_path / "log")
    assert options.command == ("qemu", "--", "-m", "1G")


# -- qemu itself -------------------------------------------------------------------------------------------------------


@pytest.mark.boot
@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu")
def test_the_real_qemu(start):
    """A machine with nothing but firmware: it does not care for the power button, and SIGTERM ends it."""
    ours, qemus = socket.socketpair()
    with ours, qemus:
        fds = ours.fileno(), qemus.fileno()
        wrap = start(
            *("--powerdown-s", SHORT_S, "--term-s", LONG_S),
            *("--qmp-fd", str(fds[0]), "--pass-fd", str(fds[1])),
            program=[
                "qemu-system-x86_64",
                *("-accel", "tcg", "-m", "64M", "-nodefaults", "-display", "none", "-S"),
                *("-chardev", f"socket,id=qmp,fd={fds[1]}", "-mon", "chardev=qmp,mode=control"),
            ],
            fds=fds,
        )
    assert wrap.read_until("qmp-ready")["status"] == "prelaunch"
    wrap.say('qmp {"execute": "cont", "id": 1}')
    assert wrap.read_until("reply") == {"event": "reply", "id": 1, "return": {}}
    wrap.end_input()
    assert wrap.finish() == 0
    assert wrap.steps() == ["eof", "powerdown", "sigterm"]
    assert {"event": "qmp", "name": "SHUTDOWN", "data": {"guest": False, "reason": "host-signal"}} in wrap.events
