"""The supervisor, a real monwrap, and the stand-in in qemu's place: each life that a guest can have, state by state."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mvpnet.guest.monwrap_client import GuestLaunch, monwrap_argv
from mvpnet.guest.states import Ending, GuestState
from mvpnet.guest.supervisor import Guest
from mvpnet.runtime.loop import Loop
from waiting import PATIENCE_S, eventually, run_until

STANDIN = str(Path(__file__).parent.parent / "standin.py")
LONG_S, SHORT_S = 600.0, 0.2  # a step that is to be enough, and one that is to pass in vain

PREPARED, STARTING, BOOTING, LOADING, LOADED, CONFIGURING, UP, RUNNING, STOPPING, GONE = GuestState
TO_BOOTING = [STARTING, BOOTING]
TO_UP = [*TO_BOOTING, UP]


@dataclass
class Life:
    """A guest and what was heard of it."""

    guest: Guest
    loop: Loop
    folder: Path
    states: list[GuestState] = field(default_factory=list)

    def reach(self, state: GuestState) -> None:
        run_until(self.loop, lambda: self.guest.state is state or self.guest.state is GONE, what=state.value)
        assert self.guest.state is state, f"{self.states}: {self.guest.end}"

    def end(self) -> tuple[Ending, str]:
        self.reach(GONE)
        assert self.guest.end
        return self.guest.end.how, self.guest.end.reason


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    """live(behaviour="normal", linked=…, **launch) starts a guest; program= or argv= replace or add to the stand-in."""
    with ExitStack() as stack:

        def begin(
            behaviour: str = "normal",
            *,
            start: bool = True,
            linked: Callable[[], bool] = lambda: True,
            argv: tuple[str, ...] = (),
            program: str = STANDIN,
            port: int | None = None,
            link_fd: int | None = None,
            env: dict[str, str] | None = None,
            **more: Any,
        ) -> Life:
            loop = Loop()
            port = port or free_port()
            ours, qemus = (end.detach() for end in socket.socketpair())
            launch = GuestLaunch(
                qemu_argv=(
                    program,
                    *("-chardev", f"socket,id=qmp,fd={qemus}", "-mon", "chardev=qmp,mode=control"),
                    *("-netdev", f"user,id=usernet,hostfwd=tcp:127.0.0.1:{port}-:22"),
                    *argv,
                ),
                ssh_port=port,
                qmp_fd=ours,
                qemu_fds=(qemus, *([] if link_fd is None else [link_fd])),
                env={**os.environ, "STANDIN_BEHAVIOUR": behaviour, "STANDIN_DIR": str(tmp_path), **(env or {})},
                **{"qemu_log": tmp_path / "qemu.log", "powerdown_s": LONG_S, "term_s": LONG_S, **more},
            )
            states: list[GuestState] = []
            guest = stack.enter_context(Guest(loop, launch, on_state=states.append, link_connected=linked))
            # a test that failed half-way has no use for the long ladder
            stack.callback(guest.kill)
            life = Life(guest, loop, tmp_path, states)
            if start:
                guest.start()
            return life

        yield begin


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A qemu that is slow to die, on a busy machine, is not taken for one that runs and speaks no QMP."""
    monkeypatch.setattr("mvpnet.guest.supervisor.SETTLED_S", LONG_S)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def alive(pid: int | None) -> bool:
    """Not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- lives that end in order -------------------------------------------------------------------------------------------


def test_a_whole_life(live):
    life = live()
    life.reach(UP)
    assert life.guest.qemu_version == "7.2.0"
    life.guest.announce_running()
    assert life.guest.state is RUNNING
    life.guest.stop()
    assert life.guest.state is STOPPING
    assert life.end() == (Ending.stopped, "stopped (guest-shutdown)")
    assert life.states == [*TO_UP, RUNNING, STOPPING, GONE]
    assert life.guest.end.exit_code == 0
    assert list(life.guest.times) == [PREPARED, *life.states]
    assert list(life.guest.times.values()) == sorted(life.guest.times.values())
    assert not alive(life.guest.qemu_pid)
    assert not alive(life.guest.monwrap_pid)


def test_a_guest_that_goes_on_from_saved_memory(live, tmp_path):
    """Its memory is the rank's 0, as the stand-in without a MAC takes itself for that."""
    (tmp_path / "memory").write_text("memory of rank 0\nwhat it had in mind")
    fd = os.open(tmp_path / "memory", os.O_RDONLY)
    life = live(argv=("-S", "-incoming", f"fd:{fd}"), link_fd=fd, loads=True)
    life.reach(LOADED)
    assert (tmp_path / "loaded.0").read_text() == "what it had in mind"
    life.guest.announce_running()
    assert life.guest.state is LOADED
    life.guest.go_on()
    life.reach(UP)
    assert life.states == [*TO_BOOTING, LOADING, LOADED, UP]
    saved: list[dict[str, Any]] = []
    life.guest.save_memory(tmp_path / "memory", saved.append)
    life.guest.save_memory(tmp_path / "new", saved.append)
    run_until(life.loop, lambda: len(saved) == 2, what="two answers")
    assert ["error" in reply for reply in saved] == [True, False]


def test_a_guest_that_cannot_load_its_memory(live, tmp_path):
    (tmp_path / "memory").write_text("memory of rank 9\n")
    fd = os.open(tmp_path / "memory", os.O_RDONLY)
    life = live(argv=("-S", "-incoming", f"fd:{fd}"), link_fd=fd, loads=True)
    how, reason = life.end()
    assert how is Ending.crashed and "load of migration failed" in reason
    assert UP not in life.states


def test_a_guest_that_is_up_when_cloud_init_is_done(live, tmp_path):
    script = f"while [ ! -e {tmp_path}/done ]; do sleep 0.05; done; echo status: done"
    life = live(ask_setup=("sh", "-c", script))
    life.reach(CONFIGURING)
    assert "still at work" in life.guest.failure().cause
    (tmp_path / "done").touch()
    life.reach(UP)
    life.guest.stop()
    assert life.end()[0] is Ending.stopped
    assert life.states == [*TO_BOOTING, CONFIGURING, UP, STOPPING, GONE]
    assert life.guest.setup_failure is None


def test_a_guest_whose_cloud_init_fails_is_stopped(live):
    life = live(ask_setup=("sh", "-c", "echo status: error; echo detail:; echo no package nosuch; exit 1"))
    assert life.end()[0] is Ending.stopped
    assert life.states == [*TO_BOOTING, CONFIGURING, STOPPING, GONE]
    assert life.guest.setup_failure == "cloud-init in the guest failed: no package nosuch"
    assert "boot.wait_for=ssh" in life.guest.failure().cause


def test_a_guest_that_is_stopped_while_cloud_init_works(live):
    life = live(ask_setup=("sh", "-c", "exec sleep 600"))
    life.reach(CONFIGURING)
    life.guest.stop()
    assert life.end()[0] is Ending.stopped
    assert life.states == [*TO_BOOTING, CONFIGURING, STOPPING, GONE]


def test_a_guest_that_powers_itself_off(live):
    life = live()
    life.reach(UP)
    life.guest.announce_running()
    (life.folder / "poweroff.0").touch()
    assert life.end() == (Ending.powered_off, "the guest powered off (guest-shutdown)")
    assert life.states == [*TO_UP, RUNNING, STOPPING, GONE]


def test_a_guest_that_powers_off_while_it_boots(live):
    life = live("no-ssh")
    life.reach(BOOTING)
    (life.folder / "poweroff.0").touch()
    assert life.end()[0] is Ending.powered_off
    assert life.states == [*TO_BOOTING, STOPPING, GONE]


def test_power_down_asked_for(live):
    life = live()
    life.reach(UP)
    life.guest.power_down()
    assert life.end() == (Ending.stopped, "stopped (guest-shutdown)")
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_power_down_that_is_ignored_then_stop(live):
    life = live("ignore-powerdown", powerdown_s=SHORT_S)
    life.reach(UP)
    life.guest.power_down()
    life.guest.stop()
    assert life.end() == (Ending.stopped, "stopped by SIGTERM")
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_a_guest_that_must_be_killed(live):
    life = live("ignore-powerdown+ignore-term", powerdown_s=SHORT_S, term_s=SHORT_S)
    life.reach(UP)
    life.guest.stop()
    assert life.end() == (Ending.killed, "qemu was killed, as nothing gentler ended it")
    assert life.states == [*TO_UP, STOPPING, GONE]
    assert (life.guest.end.exit_code, life.guest.end.signal) == (None, signal.SIGKILL)


def test_kill(live):
    life = live("ignore-powerdown+ignore-term")
    life.reach(UP)
    life.guest.kill()
    assert life.end() == (Ending.killed, "qemu was killed")
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_kill_while_it_stops(live):
    life = live("ignore-powerdown+ignore-term")
    life.reach(UP)
    life.guest.stop()
    life.guest.kill()
    assert life.end()[0] is Ending.killed
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_stop_from_outside_by_qmp(live):
    life = live()
    life.reach(UP)
    replies: list[dict[str, Any]] = []
    life.guest.qmp({"execute": "quit"}, replies.append)
    assert life.end() == (Ending.stopped, "stopped (host-qmp-quit)")
    assert replies == [{"return": {}}]
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_stop_from_outside_by_a_signal_to_monwrap(live):
    life = live("no-qmp")
    life.reach(UP)
    os.kill(life.guest.monwrap_pid, signal.SIGTERM)
    assert life.end() == (Ending.stopped, "stopped by SIGTERM")
    assert life.states == [*TO_UP, STOPPING, GONE]


@pytest.mark.usefixtures("no_hurry")
def test_stop_at_once(live):
    """Before monwrap has so much as read its command line."""
    life = live()
    life.guest.stop()
    assert life.end()[0] is Ending.stopped
    assert life.states == [STARTING, STOPPING, GONE]


def test_a_qemu_without_qmp(live):
    life = live("no-qmp")
    life.reach(UP)
    life.guest.stop()
    assert life.end() == (Ending.stopped, "stopped by SIGTERM")
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_a_guest_that_never_answers(live):
    life = live("mute-ssh", console_log=None)
    life.reach(BOOTING)
    life.guest.announce_running()
    assert life.guest.state is BOOTING
    assert life.guest.failure().reached is BOOTING
    assert life.guest.failure().reason == "it is booting"
    life.guest.stop()
    assert life.end()[0] is Ending.stopped
    assert life.states == [*TO_BOOTING, STOPPING, GONE]
    assert life.guest.failure().reached is BOOTING


def test_up_only_when_the_link_is_connected(live):
    asked: list[bool] = []

    def linked() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    life = live(linked=linked)
    life.reach(UP)
    assert asked == [False, False, True]


def test_reset_and_other_commands_while_it_runs(live):
    life = live()
    life.reach(UP)
    replies: list[dict[str, Any]] = []
    life.guest.reset()
    life.guest.qmp({"execute": "query-status"}, replies.append)
    life.guest.qmp({"execute": "fly"}, replies.append)
    run_until(life.loop, lambda: len(replies) == 2)
    assert replies[0] == {"return": {"status": "running", "running": True}}
    assert replies[1]["error"]["class"] == "CommandNotFound"
    life.guest.qmp({"execute": "x" * 5000}, replies.append)
    assert "too long" in replies[2]["error"]["desc"]
    assert life.guest.state is UP


def test_no_reply_is_left_open(live):
    life = live("no-ssh+ignore-powerdown")
    life.reach(BOOTING)
    replies: list[dict[str, Any]] = []
    os.kill(life.guest.qemu_pid, signal.SIGSTOP)
    life.guest.qmp({"execute": "query-status"}, replies.append)
    life.guest.kill()
    life.reach(GONE)
    life.guest.qmp({"execute": "query-status"}, replies.append)
    assert [set(reply) for reply in replies] == [{"error"}, {"error"}]


# -- lives that end otherwise ------------------------------------------------------------------------------------------


def test_no_such_qemu(live):
    life = live(program="/nowhere/qemu-system-x86_64")
    assert life.end() == (
        Ending.failed_to_start,
        "qemu could not be started: /nowhere/qemu-system-x86_64: No such file or directory; see the key qemu.binary",
    )
    assert life.states == [STARTING, GONE]


def test_no_such_monwrap(live):
    life = live(monwrap="/nowhere/monwrap")
    assert life.end() == (
        Ending.failed_to_start,
        "monwrap could not be started: /nowhere/monwrap: No such file or directory; see the key qemu.monwrap",
    )
    assert life.states == [STARTING, GONE]


def test_a_monwrap_that_is_none(live):
    """Such as the C program's, which has other options."""
    life = live(monwrap="ls")
    how, reason = life.end()
    assert how is Ending.failed_to_start
    assert reason.startswith("monwrap ended with exit code 2: ")
    assert reason.endswith("; see the key qemu.monwrap")
    assert life.states == [STARTING, GONE]


def test_no_folder_for_the_log(live, tmp_path):
    log = tmp_path / "none" / "qemu.log"
    life = live(qemu_log=log)
    assert life.end() == (
        Ending.failed_to_start,
        f"qemu could not be started: {log}: No such file or directory; see the key logging.dir",
    )
    assert life.states == [STARTING, GONE]


@pytest.mark.usefixtures("no_hurry")
def test_a_qemu_that_dies_at_once(live):
    life = live("die", env={"STANDIN_MESSAGE": "-bogus: invalid option"})
    assert life.end() == (
        Ending.crashed,
        "qemu ended with exit code 1: qemu-system-x86_64: -bogus: invalid option",
    )
    assert life.states == [STARTING, GONE]
    assert life.guest.end.last_lines == ("qemu-system-x86_64: -bogus: invalid option",)
    failure = life.guest.failure()
    assert (failure.reached, failure.cause) == (STARTING, "qemu refused an option; see qemu.extra_args")


@pytest.mark.usefixtures("no_hurry")
def test_a_qemu_that_ends_before_it_ran_is_no_guest_that_powered_off(live):
    life = live(argv=("--version",))
    assert life.end()[0] is Ending.crashed
    assert life.states == [STARTING, GONE]


@pytest.mark.usefixtures("no_hurry")
def test_an_ssh_port_that_is_taken(live):
    with socket.create_server(("127.0.0.1", 0)) as other:
        life = live(port=other.getsockname()[1])
        assert life.end()[0] is Ending.crashed
    assert life.states == [STARTING, GONE]
    assert "net.ssh_port" in life.guest.failure().cause


def test_a_crash_while_it_runs(live):
    life = live(env={"STANDIN_MESSAGE": "virtio: bogus descriptor"})
    life.reach(UP)
    life.guest.announce_running()
    (life.folder / "crash.0").touch()
    assert life.end() == (Ending.crashed, "qemu ended with exit code 1: qemu-system-x86_64: virtio: bogus descriptor")
    assert life.states == [*TO_UP, RUNNING, GONE]
    assert life.guest.failure().reached is RUNNING


@pytest.mark.parametrize("told", ["tell", ""], ids=["by the panic device", "on the console"])
def test_a_kernel_panic(live, tmp_path, told):
    log = tmp_path / "console.log"
    log.write_text("---[ end Kernel panic - not syncing: of a guest before ]---\n")
    life = live(console_log=log, argv=("-chardev", f"file,id=console,path={log}"))
    life.reach(UP)
    (tmp_path / "panic.0").write_text(told)
    assert life.end() == (Ending.panicked, "the guest panicked (kernel panic): sysrq triggered crash")
    assert life.states == [*TO_UP, STOPPING, GONE]
    assert "Kernel panic" in life.guest.failure().console_lines[0]
    assert not alive(life.guest.qemu_pid)


def test_qemu_killed_from_outside(live):
    life = live()
    life.reach(UP)
    os.kill(life.guest.qemu_pid, signal.SIGKILL)
    assert life.end() == (
        Ending.crashed,
        "qemu was killed from outside (SIGKILL), perhaps for want of memory",
    )
    assert life.states == [*TO_UP, GONE]


def test_monwrap_killed(live):
    life = live("ignore-powerdown+ignore-term")
    life.reach(UP)
    os.kill(life.guest.monwrap_pid, signal.SIGKILL)
    assert life.end() == (Ending.crashed, "monwrap was killed by SIGKILL, and qemu with it")
    assert life.states == [*TO_UP, GONE]
    eventually(lambda: not alive(life.guest.qemu_pid))


def test_monwrap_killed_while_it_stops(live):
    life = live("ignore-powerdown+ignore-term")
    life.reach(UP)
    life.guest.stop()
    os.kill(life.guest.monwrap_pid, signal.SIGKILL)
    assert life.end()[0] is Ending.crashed
    assert life.states == [*TO_UP, STOPPING, GONE]
    eventually(lambda: not alive(life.guest.qemu_pid))


def test_last_words_on_the_console(live, tmp_path):
    console = tmp_path / "console.log"
    console.write_text("login: from an earlier job in the same folder\n")
    life = live(
        "no-ssh",
        console_log=console,
        argv=("-chardev", f"socket,id=console,path={tmp_path}/c,server=on,wait=off,logfile={console},logappend=on"),
        env={"STANDIN_CONSOLE": "\x1b[1mVFS: Unable to mount root fs\x1b[0m\r\n\r\nKernel panic - not syncing\r\n"},
    )
    life.reach(BOOTING)
    failure = run_until(life.loop, lambda: life.guest.failure() if life.guest.failure().console_lines else None)
    assert failure.console_lines == ("VFS: Unable to mount root fs", "Kernel panic - not syncing")
    assert failure.cause == "the guest's kernel did not find its root disk; see image.path and image.kernel_args"


# -- closing, and what is left -----------------------------------------------------------------------------------------


def test_close_waits_for_the_ladder(live, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    life = live("ignore-powerdown+ignore-term", powerdown_s=SHORT_S, term_s=SHORT_S, remove=(scratch,))
    life.reach(UP)
    life.guest.close()
    assert life.states == [*TO_UP, STOPPING, GONE]
    assert life.guest.end.how is Ending.killed
    assert not scratch.exists()
    assert not alive(life.guest.monwrap_pid)
    life.guest.close()
    assert life.states == [*TO_UP, STOPPING, GONE]


def test_close_after_it_is_gone(live):
    life = live("poweroff=0")
    life.reach(GONE)
    end = life.guest.end
    life.guest.close()
    assert life.guest.end is end


def test_close_of_a_guest_that_was_never_started(live):
    life = live(start=False)
    fds = [life.guest.launch.qmp_fd, *life.guest.launch.qemu_fds]
    life.guest.close()
    assert life.states == [GONE]
    assert (life.guest.end.how, life.guest.end.reason) == (Ending.stopped, "stopped before it was started")
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_a_monwrap_that_does_not_end_is_killed(live, monkeypatch):
    monkeypatch.setattr("mvpnet.guest.monwrap_client.CLOSE_MARGIN_S", 0.0)
    life = live(powerdown_s=SHORT_S, term_s=SHORT_S)
    life.reach(UP)
    os.kill(life.guest.monwrap_pid, signal.SIGSTOP)
    life.guest.close()
    assert life.guest.end.how is Ending.crashed
    assert life.states == [*TO_UP, STOPPING, GONE]
    eventually(lambda: not alive(life.guest.qemu_pid))


def test_stack_unwound_by_an_error(live):
    life = live()
    with pytest.raises(ZeroDivisionError), life.guest:
        life.reach(UP)
        raise ZeroDivisionError
    assert life.guest.end.how is Ending.stopped
    assert not alive(life.guest.qemu_pid)


def test_the_link_closes_with_qemu(live):
    """As nobody but qemu holds its end any more: neither we nor monwrap."""
    ours, qemus = socket.socketpair()
    fd = qemus.detach()
    with ours:
        life = live(link_fd=fd, argv=("-netdev", f"stream,id=mvpnet,addr.type=fd,addr.str={fd}"))
        life.reach(UP)
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)
        os.kill(life.guest.monwrap_pid, signal.SIGSTOP)
        os.kill(life.guest.qemu_pid, signal.SIGKILL)
        ours.settimeout(PATIENCE_S)
        assert ours.recv(1) == b""
        os.kill(life.guest.monwrap_pid, signal.SIGCONT)
        life.reach(GONE)


def test_the_lock_tells_whether_the_folder_is_in_use(live, tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    life = live("ignore-powerdown+ignore-term", lock_fd=lock)
    os.close(lock)
    life.reach(UP)
    assert is_locked(tmp_path / "lock")
    life.guest.kill()
    life.reach(GONE)
    assert not is_locked(tmp_path / "lock")


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# -- monwrap's command line --------------------------------------------------------------------------------------------


def test_monwrap_argv_in_full():
    launch = GuestLaunch(
        qemu_argv=("qemu-system-x86_64", "-m", "1G"),
        ssh_port=2200,
        qemu_log=Path("/run/qemu.log"),
        qmp_fd=7,
        qemu_fds=(8, 9),
        lock_fd=10,
        remove=(Path("/tmp/mvpnet-0/job.0"),),
        keep_on_death=True,
        monwrap="/opt/bin/monwrap",
        monwrap_log=Path("/run/monwrap.log"),
        powerdown_s=1.5,
        term_s=0,
    )
    assert monwrap_argv(launch) == [
        "/opt/bin/monwrap",
        *("--powerdown-s", "1.5"),
        *("--term-s", "0"),
        *("--qemu-log", "/run/qemu.log"),
        *("--log", "/run/monwrap.log"),
        *("--qmp-fd", "7"),
        *("--pass-fd", "8"),
        *("--pass-fd", "9"),
        *("--remove", "/tmp/mvpnet-0/job.0"),
        "--keep-on-death",
        *("--", "qemu-system-x86_64", "-m", "1G"),
    ]


def test_monwrap_argv_by_default():
    python, safe_path, script, *rest = monwrap_argv(GuestLaunch(("qemu",), 2200, Path("/run/qemu.log")))
    assert (python, safe_path, Path(script).name) == (sys.executable, "-P", "monwrap.py")
    assert Path(script).is_file()
    assert rest == ["--powerdown-s", "20", "--term-s", "5", "--qemu-log", "/run/qemu.log", "--", "qemu"]


def test_a_signal_to_all_of_our_group_does_not_end_a_monwrap_that_is_just_starting(live):
    """It begins with them held back, and takes them when it can obey; qemu has none held back, and is deaf to one."""
    life = live("ignore-powerdown")
    life.reach(UP)
    held, ignored = (masks(life.guest.monwrap_pid)[name] for name in ("SigBlk", "SigIgn"))
    assert held == {signal.SIGUSR1}
    assert signal.SIGUSR1 in ignored
    assert masks(life.guest.qemu_pid)["SigBlk"] == set()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    os.kill(life.guest.monwrap_pid, signal.SIGTERM)
    life.reach(STOPPING)


def masks(pid):
    """Of a process's signals, by what is done with them (proc(5), /proc/PID/status)."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return {
        name: {number for number in signal.Signals if int(lines[name], 16) >> (number - 1) & 1}
        for name in ("SigBlk", "SigIgn")
    }
