"""The phases of a step in guests, with a program in place of ssh."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.running import Running
from mvpnet.spec import schema
from waiting import run_until

SSH = """#!/bin/sh
# In place of ssh: runs the command in a folder of this machine, but hangs up on some of those who come.
for command do :; done
came=$(cat came 2> /dev/null || echo 0)
echo $((came + 1)) > came
case " $HANGS_UP_ON " in *" $came "*) echo "kex_exchange_identification: Connection closed" >&2; exit 255;; esac
cd guest && exec sh -c "$command"
"""


CROWD = """#!/bin/sh
# In place of ssh: counts how many are on their way in, until what they run begins.
for command do :; done
echo in >> came
sleep 0.2
(flock 9; now=$(($(grep -c in came) - $(grep -c out came))); [ $now -le $(cat most 2> /dev/null || echo 0) ] ||
    echo $now > most; echo out >> came) 9> lock
cd guest && exec sh -c "$command"
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user in a guest that a program called ssh leads to."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    (tmp_path / "guest").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "guest"


@pytest.mark.parametrize("hangs_up_on", ["", "0 2 4 6", "0 1 3 4 6 7 9 10"])
def test_a_guest_that_hangs_up_on_some_is_tried_again(
    running: Running, guest: Path, monkeypatch: pytest.MonkeyPatch, hangs_up_on: str
) -> None:
    monkeypatch.setenv("HANGS_UP_ON", hangs_up_on)
    (guest.parent / "data").write_text("data\n")
    code = running.run_app(
        kind=schema.AppKind.guest,
        push={"there": str(guest.parent / "data")},
        command=["sh", "-c", "echo ran; cat there; echo once >> count"],
        collect=["count"],
    )
    assert code == 0, running.ends
    assert running.run_folder.app_log(0, None).read_text() == "ran\ndata\n"
    assert (running.run_folder.collected(0, None) / "count").read_text() == "once\n"


def test_a_program_that_ends_as_ssh_does_when_it_fails_runs_once(running: Running, guest: Path) -> None:
    assert running.run_app(kind=schema.AppKind.guest, command=["sh", "-c", "echo once >> count; exit 255"]) == 255
    assert (guest / "count").read_text() == "once\n"
    assert "ssh lost the guest, or the program ended with 255" in running.ends[0][1]


@pytest.mark.parametrize(
    ("line", "mode", "code", "what"),
    [
        ("#!/no/such/interpreter", 0o755, 127, "./.mvpnet/run.sh, or the interpreter that its first line (#!) names"),
        ("#!/etc", 0o755, 126, "./.mvpnet/run.sh cannot be run"),
    ],
)
def test_a_script_that_the_guest_cannot_run_is_explained(
    running: Running, guest: Path, line: str, mode: int, code: int, what: str
) -> None:
    (guest.parent / "run.sh").write_text(f"{line}\n")
    (guest.parent / "run.sh").chmod(mode)
    assert running.run_app(kind=schema.AppKind.guest, script=[str(guest.parent / "run.sh")]) == code
    assert f"app: n0000: exit code {code}: {what}" in running.ends[0][1]


def test_a_program_that_the_guest_lacks_is_explained(running: Running, guest: Path) -> None:
    assert running.run_app(kind=schema.AppKind.guest, command=["no-such-program"]) == 127
    assert "exit code 127: no-such-program, or the interpreter" in running.ends[0][1]


def test_home_and_wildcards_are_fetched(running: Running, guest: Path) -> None:
    (guest.parent / "data").write_text("data\n")
    code = running.run_app(
        kind=schema.AppKind.guest,
        push={"~/in/": str(guest.parent / "data")},
        command=["sh", "-c", "cp in/data out.txt; touch a.log b.log"],
        collect=["~/out.txt", "*.log"],
    )
    assert code == 0, running.ends
    collected = running.run_folder.collected(0, None)
    assert sorted(path.name for path in collected.iterdir()) == ["a.log", "b.log", "out.txt"]
    assert (collected / "out.txt").read_text() == "data\n"


def test_stopping_ends_what_runs_in_a_guest_and_fetches_its_files(running: Running, guest: Path) -> None:
    script = "trap 'echo asked > told; exit' TERM; echo ready; while :; do sleep 0.1; done"
    running.start_app(kind=schema.AppKind.guest, command=["sh", "-c", script], collect=["told"])
    log = running.run_folder.app_log(0, None)
    run_until(running.loop, lambda: log.exists() and log.read_text(), what="the app to run")
    running.stop()
    running.end()
    assert (running.run_folder.collected(0, None) / "told").read_text() == "asked\n"


def test_an_app_that_takes_too_long_in_a_guest_is_ended(running: Running, guest: Path) -> None:
    asked = {"kind": schema.AppKind.guest, "command": "sleep 300", "timeout_s": 0.5}
    assert running.run_app(**asked) == 124
    assert "app.timeout_s: n0000: not done after 0.5 s" in running.ends[0][1]


def test_many_guests_are_served_a_few_at_a_time_and_run_side_by_side(running: Running, guest: Path) -> None:
    (guest.parent / "bin/ssh").write_text(CROWD)
    together = "echo here >> running; while [ $(wc -l < running) -lt 7 ]; do sleep 0.05; done; echo done"
    code = running.run_app(
        kind=schema.AppKind.guest, on="all", max_parallel_ssh=2, command=["sh", "-c", together], ranks=7
    )
    assert code == 0, running.ends
    assert [running.run_folder.app_log(rank, None).read_text() for rank in range(7)] == ["done\n"] * 7
    assert int((guest.parent / "most").read_text()) <= 2
