"""Whether cloud-init is done: what its words mean, and the asking, with real processes in ssh's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mvpnet.cloudinit.status import Answer, Readiness, answer, ask_argv, script
from mvpnet.runtime.loop import Loop
from support import Process
from waiting import eventually, run_until

DONE_22 = """....
status: done
boot_status_code: enabled-by-generator
last_update: Tue, 24 Nov 2026 12:51:01 +0000
detail:
DataSourceNoCloud [seed=cmdline,/dev/vdb][dsmode=local]
"""
ERROR_22 = """......................
status: error
boot_status_code: enabled-by-generator
last_update: Tue, 24 Nov 2026 12:51:01 +0000
detail:
('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))
--- /var/log/cloud-init-output.log
E: Unable to locate package nosuch
Cloud-init v. 22.4.2 finished
"""
ERROR_24 = """
status: error
extended_status: error - done
boot_status_code: enabled-by-kernel-command-line
last_update: Tue, 24 Nov 2026 12:51:01 +0000
detail: DataSourceNoCloud [seed=/dev/vdb]
errors:
\t- ('package_update_upgrade_install', ProcessExecutionError("Exit code: 100
\tReason: -"))
recoverable_errors:
WARNING:
\t- Failed to install packages
"""
DEGRADED_24 = """
status: done
extended_status: degraded done
detail: DataSourceNoCloud [seed=/dev/vdb]
errors: []
recoverable_errors:
WARNING:
\t- bad locale
"""


@pytest.mark.parametrize(
    ("code", "output"),
    [(0, DONE_22), (0, "status: done\n"), (0, "status: disabled\n"), (0, "\nstatus: done\nerrors: []\n")],
)
def test_done(code: int, output: str) -> None:
    assert answer(code, output) == Answer(True)


def test_done_with_errors_that_it_got_over() -> None:
    told = answer(2, DEGRADED_24)
    assert told.done and told.reason and "bad locale" in told.reason


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (ERROR_22, ["1 failures (runcmd)", "output.log ends with: E: Unable to locate package nosuch"]),
        (ERROR_24, ["package_update_upgrade_install", "Exit code: 100"]),
        ("status: error\n", ["does not say why"]),
    ],
)
def test_errors_are_told_with_their_reason(output: str, says: list[str]) -> None:
    told = answer(1, output)
    assert told.failed
    assert all(part in str(told.reason) for part in says), told
    assert "WARNING" not in str(told.reason)


def test_a_guest_without_cloud_init() -> None:
    told = answer(127, "sh: 2: cloud-init: not found\n--- /var/log/cloud-init-output.log\n")
    assert told.failed and "no program cloud-init" in str(told.reason)


@pytest.mark.parametrize(
    ("code", "output"),
    [
        (255, "alice@127.0.0.1: Permission denied (publickey).\n"),
        (255, "......"),  # the guest went down for a reboot
        (0, ""),
        (1, "Traceback (most recent call last):\n"),
        (255, "status: running\n"),
    ],
)
def test_what_tells_nothing_is_asked_again(code: int, output: str) -> None:
    told = answer(code, output)
    assert not told.done and not told.failed


def test_the_question_needs_no_configuration_of_the_users(tmp_path: Path) -> None:
    argv = ask_argv(2200, "alice", tmp_path / "key")
    assert argv[:3] == ("ssh", "-F", "none") and "cloud-init status --wait" in argv[-1]


RESULT_22 = """{
 "v1": {
  "datasource": "DataSourceNoCloud [seed=cmdline,/dev/vdb][dsmode=local]",
  "errors": []
 }
}
"""
STATUS_24 = """{
 "v1": {
  "init": {
   "errors": [],
   "recoverable_errors": {},
   "start": 1
  },
  "modules-final": {
   "errors": [],
   "recoverable_errors": {}
  }
 }
}
"""
GOT_OVER_24 = STATUS_24.replace("{}\n  }\n", '{\n    "WARNING": [\n     "bad locale"\n    ]\n   }\n  }\n')
FAILED_22 = RESULT_22.replace("[]", "[\n   \"('scripts_user', RuntimeError(1))\"\n  ]")


def said_in_the_guest(folder: Path, files: dict[str, str], wait_s: int = 30) -> subprocess.Popen[str]:
    """The guest's side, with a cloud-init that says that it was asked, and ends with 1."""
    program = folder / "bin/cloud-init"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "status: error, asked with $*"; exit 1\n')
    program.chmod(0o755)
    run = folder / "run"
    run.mkdir()
    for name, text in files.items():
        (run / name).write_text(text)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    return subprocess.Popen(["sh", "-c", script(str(run), wait_s)], stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize(
    "files",
    [
        {"enabled": "", "result.json": RESULT_22},
        {"enabled": "", "result.json": RESULT_22, "status.json": STATUS_24},
    ],
)
def test_the_file_that_tells_of_the_end_without_errors_is_enough(tmp_path: Path, files: dict[str, str]) -> None:
    process = said_in_the_guest(tmp_path, files)
    assert process.communicate(timeout=30) == ("status: done\n", None)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "files",
    [
        {},  # another init than systemd, or no cloud-init
        {"disabled": ""},
        {"enabled": "", "result.json": FAILED_22},
        {"enabled": "", "result.json": RESULT_22, "status.json": GOT_OVER_24},
        {"enabled": ""},  # the file does not come
    ],
)
def test_of_anything_else_cloud_init_itself_is_asked(tmp_path: Path, files: dict[str, str]) -> None:
    process = said_in_the_guest(tmp_path, files, wait_s=0)
    assert process.communicate(timeout=30)[0].startswith("status: error, asked with status --wait --long\n---")
    assert process.returncode == 1


def test_the_file_is_waited_for(tmp_path: Path) -> None:
    process = said_in_the_guest(tmp_path, {"enabled": ""})
    eventually(lambda: "sleep" in children(process.pid), what="the shell to wait")
    (tmp_path / "result.json").write_text(RESULT_22)
    (tmp_path / "result.json").rename(tmp_path / "run/result.json")
    assert process.communicate(timeout=30)[0] == "status: done\n"


def children(pid: int) -> str:
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    with suppress(OSError):  # one has ended meanwhile
        return " ".join(Path(f"/proc/{child}/cmdline").read_text() for child in pids)
    return ""


def asked(script: str, *, pause_s: float = 0.01) -> tuple[Answer, Readiness]:
    loop, answers = Loop(), []
    readiness = Readiness(loop, ("sh", "-c", script), answers.append)
    readiness._pause_s = pause_s
    readiness.start()
    run_until(loop, lambda: answers, what="an answer")
    assert len(answers) == 1
    return answers[0], readiness


def test_it_is_asked_until_it_answers(tmp_path: Path) -> None:
    script = f"echo . >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -lt 3 ] && exit 255; echo status: done"
    told, readiness = asked(script)
    assert told == Answer(True)
    assert (tmp_path / "tries").read_text() == ".\n" * 3
    assert readiness.last_words == "ssh ended with exit code 255"


def test_no_ssh_is_told() -> None:
    loop, answers = Loop(), []
    Readiness(loop, ("/no/such/ssh",), answers.append).start()
    assert answers[0].failed and "cannot run '/no/such/ssh'" in answers[0].reason


@pytest.mark.parametrize("script", ["sleep 600", "exit 255"])
def test_cancelled_it_leaves_nothing(script: str, leaks: Callable[[], list[Process]]) -> None:
    loop, answers = Loop(), []
    readiness = Readiness(loop, ("sh", "-c", f"exec {script}" if "sleep" in script else script), answers.append)
    readiness.start()
    if script == "exit 255":
        run_until(loop, lambda: readiness.last_words, what="the first try")
    else:
        assert leaks()
    readiness.cancel()
    assert leaks() == []
    loop.call_later(0.0, loop.stop)
    loop.run()
    assert answers == []


def test_much_output_is_not_kept() -> None:
    told, _ = asked(f"{sys.executable} -c 'print(\".\" * 10**6)'; echo status: done")
    assert told == Answer(True)


def test_one_that_ends_does_not_make_another_wait_for_ever() -> None:
    """They share the signal that tells of a program's end."""
    loop, first, second = Loop(), [], []
    one = Readiness(loop, ("sh", "-c", "echo status: done"), first.append)
    other = Readiness(loop, ("sh", "-c", "sleep 0.5; echo status: done"), second.append)
    one.start()
    other.start()
    run_until(loop, lambda: first, what="the first answer")
    one.cancel()
    run_until(loop, lambda: second, what="the second answer")
    other.cancel()
