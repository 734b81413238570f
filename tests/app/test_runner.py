"""The app: what is asked for, checked; and its steps on rank 0's host: real programs, watched by a real loop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.running import Running
from mvpnet.errors import ConfigError
from mvpnet.spec import schema
from mvpnet.spec.app_steps import Step, app_argv, check_steps, steps_of
from support import Process, poll_until
from waiting import run_until


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


def test_all_of_a_long_output_is_kept_and_shown(running: Running, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    script = "import sys; sys.stdout.write('0123456789abcde\\n' * 100_000)"
    assert running.run_app(command=[sys.executable, "-c", script], show_output=True) == 0
    assert running.log.read_bytes() == b"0123456789abcde\n" * 100_000
    assert capfdbinary.readouterr().out == b"0123456789abcde\n" * 100_000


def test_a_full_disk_costs_the_rest_of_the_log_and_no_more(running: Running) -> None:
    running.log.symlink_to("/dev/full")  # full(4): every write fails with ENOSPC
    assert running.run("print('x' * 100_000); raise SystemExit(3)") == 3


@pytest.mark.parametrize("program", ["/nonexistent/app", "/etc/passwd"])
def test_what_cannot_be_run_is_named(running: Running, program: str) -> None:
    running.start(program)
    assert running.end() == 3
    assert f"app.command: cannot run '{program}'" in running.ends[0][1]


def test_a_log_that_cannot_be_written_is_named(running: Running) -> None:
    running.log.mkdir()
    running.start("true")
    assert running.end() == 3
    assert f"cannot write {running.log}" in running.ends[0][1]


def test_stop_asks_the_app_and_what_it_started(running: Running) -> None:
    child = "trap 'echo too; exit' TERM; echo a; while :; do sleep 0.1; done"
    script = f'trap "echo asked; wait; exit 3" TERM; sh -c "{child}" & echo b; wait'
    running.start("sh", "-c", script)
    run_until(running.loop, lambda: set(running.log.read_text().split()) == {"a", "b"}, what="both to run")
    running.stop()
    assert running.end() == 3
    assert {"asked", "too"} <= set(running.log.read_text().split())


def test_close_kills_what_the_app_left_behind(running: Running, leaks: Callable[[], list[Process]]) -> None:
    running.start("sh", "-c", "sleep 300 & echo started; exit 0")
    assert running.end() == 0
    assert [process.command for process in leaks() if "sleep 300" in process.command]
    running.close()
    poll_until(lambda: not [p for p in leaks() if "sleep 300" in p.command], 30, "the sleeper to end")


def test_the_number_of_an_ended_app_stays_its_own_until_it_is_closed(running: Running) -> None:
    running.start("sh", "-c", "echo $$; exit 0")
    running.end()
    group = int(running.log.read_text())
    assert os.getpgid(group) == group, "a zombie holds it"
    running.close()
    with pytest.raises(ProcessLookupError):
        os.getpgid(group)


def test_closing_is_harmless_at_any_time(running: Running) -> None:
    running.start("sleep", "300")
    running.close()
    running.stop()
    running.close()
    assert running.ends == []


def test_an_app_that_takes_too_long_is_ended(running: Running) -> None:
    assert running.run_app(command="sleep 300", timeout_s=0.2) == 124
    assert "app.timeout_s: the host: not done after 0.2 s" in running.ends[0][1]


def test_steps_run_in_order_and_the_first_that_fails_is_the_last(running: Running) -> None:
    steps = {
        "make": {"command": ["sh", "-c", "echo made > $RUN/made"]},
        "use": {"command": ["sh", "-c", "cat $RUN/made; exit 4"]},
        "never": {"command": ["true"]},
    }
    assert running.run_app(steps=steps) == 4
    assert running.ends == [(4, "step use ended with exit code 4")]
    assert running.run_folder.app_log(None, "use").read_text() == "made\n"
    assert running.app
    assert [(one.name, one.exit_code) for one in running.app.results] == [("make", 0), ("use", 4), ("never", None)]
    assert running.said == ["step make (1 of 3): sh", "step use (2 of 3): sh"]


def test_metrics_are_printed_and_written(running: Running) -> None:
    script = "echo metric ms 1.5; echo metric ms 2.5; echo metric n 3; echo '{\"bytes\": 7}' > $RUN/metrics.json"
    assert running.run_app(command=["sh", "-c", script]) == 0
    assert running.app and running.app.metrics.values == {"ms": 2.5, "n": 3, "bytes": 7}


def test_a_line_that_is_no_metric_is_warned_of(running: Running) -> None:
    assert running.run_app(command=["sh", "-c", "echo metric ms fast; echo metric; echo metric a b c; echo x"]) == 0
    assert running.app and running.app.metrics.values == {}
    assert running.said[1:] == [
        "warning: app: the host printed 'metric ms fast': 'fast' is not a number; not taken as a metric",
        "warning: app: the host printed 'metric a b c': is no line `metric NAME VALUE`; not taken as a metric",
    ]


@pytest.mark.parametrize("wrong", ['{"ms": "fast", "n": 1}', '{"ms": NaN, "n": 1}', '{"ms": true, "n": 1}'])
def test_a_metrics_file_with_what_is_no_number_fails_the_app_and_loses_nothing(running: Running, wrong: str) -> None:
    assert running.run_app(command=["sh", "-c", f"echo '{wrong}' > $RUN/metrics.json"]) == 7
    assert "metrics.json" in running.ends[0][1] and "ms is" in running.ends[0][1]
    assert running.app and running.app.metrics.values == {"n": 1}


def test_a_metrics_file_that_is_no_json_fails_the_app(running: Running) -> None:
    assert running.run_app(command=["sh", "-c", "echo '{' > $RUN/metrics.json"]) == 7
    assert "cannot be read as JSON" in running.ends[0][1]


def test_a_step_for_no_guest_at_a_time_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"app\.max_parallel_ssh"):
        the_step(kind=schema.AppKind.guest, command="true", max_parallel_ssh=0)


def the_step(**asked: Any) -> Step:
    [step] = steps_of(schema.App(**asked))
    return step


def test_a_guest_step_knows_its_guests_and_its_script() -> None:
    step = the_step(kind=schema.AppKind.guest, script="/data/run.sh --quick", on="0,2-9", push={"/opt/": "/data/lib"})
    assert step.ranks(4) == [0, 2, 3]
    assert step.argv == ("./.mvpnet/run.sh", "--quick")
    assert step.push == {".mvpnet/run.sh": Path("/data/run.sh"), "/opt/lib": Path("/data/lib")}


def test_steps_take_what_they_do_not_say_from_the_app() -> None:
    asked = schema.App(
        kind=schema.AppKind.guest,
        on="all",
        user="alice",
        timeout_s=9,
        steps={"a": {"command": "true"}, "b": {"command": "true", "on": "1"}, "c": {"kind": "host", "command": "true"}},
    )
    a, b, c = steps_of(asked)
    assert [(step.ranks(2), step.user, step.timeout_s) for step in (a, b, c)] == [
        ([0, 1], "alice", 9),
        ([1], "alice", 9),
        ([], None, 9),
    ]


GUEST = {"kind": schema.AppKind.guest, "command": "true"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"command": "true", "on": "1"}, "app.on: is for guests"),
        ({"command": "true", "collect": ["/tmp/x"]}, "app.collect: is for guests"),
        ({**GUEST, "script": "x.sh"}, "app.script: there is app.command too"),
        ({**GUEST, "on": "first"}, "app.on: 'first' is no rank"),
        ({**GUEST, "user": "-oProxyCommand=x"}, "app.user"),
        ({**GUEST, "timeout_s": 0}, "app.timeout_s"),
        ({**GUEST, "collect": ["/tmp/../.."]}, "leads outside"),
        ({**GUEST, "collect": ["/"]}, "names no file"),
        ({**GUEST, "collect": ["/a/x", "/b/x"]}, "would both be kept as 'x'"),
        ({**GUEST, "push": {"../x": "x"}}, "app.push: '../x'"),
        ({**GUEST, "push": {"": "x"}}, "app.push: ''"),
        ({**GUEST, "push": {"~bob/x": "x"}}, "app.push: '~bob/x'"),
        ({**GUEST, "push": {"~/x": "a", "x": "b"}}, "app.push: a and b would both be sent to 'x'"),
        ({"command": "true", "steps": {"a": {"command": "true"}}}, "app.command: is for an app without steps"),
        ({"steps": {"a": {}}}, "app.steps.a: has nothing to do"),
        ({"steps": {"a/b": {"command": "true"}}}, "cannot be used in file names"),
        ({"steps": {"a": {"command": []}}}, "app.steps.a.command: is empty"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        steps_of(schema.App(**asked))
    assert says in str(caught.value)


def test_steps_for_nobody_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"app\.on: no rank of this world of 2 is in '2-3'"):
        check_steps([the_step(**GUEST, on="2-3")], 2)
    with pytest.raises(ConfigError, match=r"app\.push: there is no file or folder .*nothing"):
        check_steps([the_step(**GUEST, push={"/x": str(tmp_path / "nothing")})], 2)
    with pytest.raises(ConfigError, match=r"app\.script: there is no file or folder .*nothing"):
        check_steps([the_step(kind=schema.AppKind.guest, script=str(tmp_path / "nothing"))], 2)


@pytest.mark.parametrize(
    ("written", "becomes"),
    [("~/x", "x"), ("~", "lib"), ("~/", "lib"), ("a/b", "a/b"), ("a/", "a/lib"), ("/opt/a=b, c#", "/opt/a=b, c#")],
)
def test_a_pushed_file_counts_from_the_home_as_for_ssh(written: str, becomes: str) -> None:
    assert the_step(**GUEST, push={written: "/data/lib"}).push == {becomes: Path("/data/lib")}
