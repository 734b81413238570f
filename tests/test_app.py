"""The app on rank 0's host: real programs, watched by a real loop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mvpnet.errors import ConfigError, HostError
from mvpnet.experiment.app import HostApp, app_argv
from mvpnet.loop import Loop
from support import Process, poll_until
from waiting import run_until


class Running:
    """An app, the loop it hangs on, and the exit codes that it told."""

    def __init__(self, log: Path, show_output: bool = False) -> None:
        self.loop = Loop()
        self.log = log
        self.codes: list[int] = []
        self.app = HostApp(self.loop, log, show_output, self.codes.append)

    def start(self, *argv: str) -> None:
        self.app.start(list(argv), os.environ)

    def end(self) -> int:
        run_until(self.loop, lambda: self.codes, what="the app to end")
        assert len(self.codes) == 1 and not self.app.running
        return self.codes[0]

    def run(self, script: str) -> int:
        self.start(sys.executable, "-c", script)
        assert self.app.running
        return self.end()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path / "app.log")
    yield one
    one.app.close()


def test_a_command_is_a_list_or_a_string_split_as_a_shell_would() -> None:
    assert app_argv(None) is None
    assert app_argv(["run", "a b", 3]) == ["run", "a b", "3"]
    assert app_argv("run 'a b' $HOME | tee") == ["run", "a b", "$HOME", "|", "tee"]


@pytest.mark.parametrize("command", ["", [], "it's", 7, ["sh", True], ["sh", None]])
def test_what_is_no_command_is_refused(command: object) -> None:
    with pytest.raises(ConfigError, match=r"app\.command"):
        app_argv(command)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
        ("import os; os.kill(os.getpid(), 15)", 128 + signal.SIGTERM),
    ],
)
def test_its_exit_code_is_that_of_a_shell(running: Running, script: str, code: int) -> None:
    assert running.run(script) == code


def test_both_its_outputs_are_kept_and_nobody_sees_them(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert running.run("import sys; print('out', flush=True); print('err', file=sys.stderr)") == 0
    assert running.log.read_text() == "out\nerr\n"
    assert capfd.readouterr() == ("", "")


def test_all_of_a_long_output_is_kept_and_shown(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    shown = Running(tmp_path / "app.log", show_output=True)
    assert shown.run("import sys; sys.stdout.write('0123456789abcde\\n' * 100_000)") == 0
    shown.app.close()
    assert (tmp_path / "app.log").read_bytes() == b"0123456789abcde\n" * 100_000
    assert capfdbinary.readouterr().out == b"0123456789abcde\n" * 100_000


def test_a_full_disk_costs_the_rest_of_the_log_and_no_more() -> None:
    full = Running(Path("/dev/full"))  # full(4): every write fails with ENOSPC
    assert full.run("print('x' * 100_000); raise SystemExit(3)") == 3
    full.app.close()


@pytest.mark.parametrize("program", ["/nonexistent/app", "/etc/passwd"])
def test_what_cannot_be_run_is_named(running: Running, program: str) -> None:
    with pytest.raises(HostError, match=rf"app\.command: cannot run '{program}'"):
        running.start(program)
    assert not running.app.running


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.log").mkdir()
    with pytest.raises(HostError, match=r"cannot write .*app\.log"):
        Running(tmp_path / "app.log").start("true")


def test_stop_asks_the_app_and_what_it_started(running: Running) -> None:
    child = "trap 'echo too; exit' TERM; echo a; while :; do sleep 0.1; done"
    script = f'trap "echo asked; wait; exit 3" TERM; sh -c "{child}" & echo b; wait'
    running.start("sh", "-c", script)
    run_until(running.loop, lambda: set(running.log.read_text().split()) == {"a", "b"}, what="both to run")
    running.app.stop()
    assert running.end() == 3
    assert {"asked", "too"} <= set(running.log.read_text().split())


def test_close_kills_what_the_app_left_behind(running: Running, leaks: Callable[[], list[Process]]) -> None:
    running.start("sh", "-c", "sleep 300 & echo started; exit 0")
    assert running.end() == 0
    assert [process.command for process in leaks() if "sleep 300" in process.command]
    running.app.close()
    poll_until(lambda: not [p for p in leaks() if "sleep 300" in p.command], 30, "the sleeper to end")


def test_the_number_of_an_ended_app_stays_its_own_until_it_is_closed(running: Running) -> None:
    running.start("sh", "-c", "echo $$; exit 0")
    running.end()
    group = int(running.log.read_text())
    assert os.getpgid(group) == group, "a zombie holds it"
    running.app.close()
    with pytest.raises(ProcessLookupError):
        os.getpgid(group)


def test_closing_is_harmless_at_any_time(running: Running) -> None:
    running.app.stop()
    running.app.close()
    running.start("sleep", "300")
    running.app.close()
    running.app.close()
    assert running.codes == []
