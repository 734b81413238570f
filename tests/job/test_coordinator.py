"""Rank 0's view of a job, told in messages: when it runs, what ends it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mvpnet.job.coordinator import Coordinator, JobOutcome, Phase


@dataclass
class Heard:
    """What a conductor did."""

    told: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    app_runs: bool = False

    def conductor(self, world_size: int = 2, *, has_app: bool = False, stop_on_guest_exit: bool = False) -> Coordinator:
        def running() -> None:
            self.events.append("running")
            self.app_runs = has_app

        def stop_app() -> bool:
            self.events.append("stop app")
            return self.app_runs

        return Coordinator(
            world_size,
            has_app=has_app,
            stop_on_guest_exit=stop_on_guest_exit,
            tell_all=self.told.append,
            on_running=running,
            stop_app=stop_app,
            on_over=lambda: self.events.append("over"),
        )


def end(how: str = "stopped", phase: str = "running", reason: str = "stopped") -> dict[str, Any]:
    return {
        "end": {"host": "h", "how": how, "phase": phase, "reason": reason, "cause": None, "console": ["last words"]}
    }


def all_up(conductor: Coordinator) -> None:
    for rank in range(len(conductor.states)):
        for state in ("starting", "booting", "up"):
            conductor.heard(rank, {"state": state})


def all_end(conductor: Coordinator, how: str = "stopped") -> None:
    for rank in range(len(conductor.states)):
        if rank not in conductor.reports:
            conductor.heard(rank, end(how))


def test_guests_go_on_together_once_all_have_loaded_their_memory() -> None:
    heard = Heard()
    conductor = heard.conductor()
    for rank in range(2):
        assert heard.told == []
        for state in ("starting", "booting", "loading", "loaded"):
            conductor.heard(rank, {"state": state})
    assert heard.told == [{"do": "go on"}]
    assert "0/2 guests up, waiting for n0000 (loaded)" in conductor.progress(1.0)
    for rank in range(2):
        conductor.heard(rank, {"state": "up"})
    assert heard.told == [{"do": "go on"}, {"do": "run"}]


def test_the_job_runs_once_every_guest_is_up() -> None:
    heard = Heard()
    conductor = heard.conductor(3)
    for rank in (2, 0):
        conductor.heard(rank, {"state": "up"})
    assert conductor.phase is Phase.booting and heard.told == []
    conductor.heard(1, {"state": "up"})
    assert conductor.phase is Phase.running
    assert (heard.told, heard.events) == ([{"do": "run"}], ["running"])


def test_progress_names_who_is_waited_for() -> None:
    conductor = Heard().conductor(6)
    for rank in range(3):
        conductor.heard(rank, {"state": "up"})
    conductor.heard(3, {"state": "booting"})
    assert (
        conductor.progress(12.3)
        == " 12 s  3/6 guests up, waiting for n0003 (booting), n0004 (prepared), n0005 (prepared)"
    )
    for rank in range(6):
        conductor.heard(rank, {"state": "up"})
    assert conductor.progress(15.0) == " 15 s  6/6 guests up"


def test_many_are_not_all_named() -> None:
    assert Heard().conductor(1000).progress(0).endswith("n0003 (prepared) and 996 more")


def test_the_first_reason_to_stop_is_the_verdict() -> None:
    heard = Heard()
    conductor = heard.conductor()
    all_up(conductor)
    conductor.heard(1, {"stop": "n0001 asked", "code": 0})
    conductor.heard(0, {"stop": "another", "code": 9})
    assert heard.told == [{"do": "run"}, {"do": "stop"}]
    all_end(conductor)
    assert conductor.verdict == JobOutcome("n0001 asked", 0)
    assert (conductor.phase, heard.events) == (Phase.over, ["running", "stop app", "over"])
    assert conductor.boot_error() is None


def test_guests_are_stopped_after_the_app() -> None:
    heard = Heard()
    conductor = heard.conductor(has_app=True)
    all_up(conductor)
    conductor.heard(0, {"stop": "SIGTERM received", "code": 143, "signal": True})
    assert heard.told == [{"do": "run"}]
    conductor.app_ended(0, "the app ended with exit code 0")
    assert heard.told == [{"do": "run"}, {"do": "stop"}]
    all_end(conductor)
    assert conductor.verdict == JobOutcome("SIGTERM received", 143)


def test_unless_asked_again() -> None:
    heard = Heard()
    conductor = heard.conductor(has_app=True)
    all_up(conductor)
    conductor.stop("SIGINT received", 130)
    conductor.hurry()
    assert heard.told[-1] == {"do": "stop"}
    conductor.app_ended(0, "the app ended with exit code 0")
    assert heard.told.count({"do": "stop"}) == 1


@pytest.mark.parametrize(("has_app", "up", "code"), [(False, True, 0), (True, True, 143), (False, False, 143)])
def test_a_signal_is_the_usual_end_only_of_a_job_without_an_app(has_app: bool, up: bool, code: int) -> None:
    conductor = Heard().conductor(has_app=has_app)
    if up:
        all_up(conductor)
    conductor.heard(0, {"stop": "SIGTERM received", "code": 143, "signal": True})
    assert conductor.verdict == JobOutcome("SIGTERM received", code)


def test_the_apps_exit_code_is_the_jobs() -> None:
    conductor = Heard().conductor(has_app=True)
    all_up(conductor)
    conductor.app_ended(7, "the app ended with exit code 7")
    assert conductor.verdict == JobOutcome("the app ended with exit code 7", 7)


@pytest.mark.parametrize(("how", "code"), [("powered_off", 0), ("crashed", 5), ("killed", 5)])
def test_a_job_is_over_when_every_guest_is_gone(how: str, code: int) -> None:
    heard = Heard()
    conductor = heard.conductor()
    all_up(conductor)
    conductor.heard(0, end("powered_off"))
    assert conductor.phase is Phase.running
    conductor.heard(1, end(how))
    assert conductor.verdict == JobOutcome("every guest is gone", code)
    assert heard.events[-1] == "over"


def test_one_guest_that_leaves_ends_the_job_where_asked() -> None:
    heard = Heard()
    conductor = heard.conductor(stop_on_guest_exit=True)
    all_up(conductor)
    conductor.heard(1, end("powered_off", reason="the guest powered off"))
    assert conductor.verdict == JobOutcome("n0001 left: the guest powered off", 0)
    assert heard.told[-1] == {"do": "stop"} and "over" not in heard.events
    conductor.heard(0, end())
    assert heard.events[-1] == "over"


def test_a_boot_that_takes_too_long() -> None:
    conductor = Heard().conductor(3)
    conductor.heard(0, {"state": "up"})
    conductor.heard(1, {"state": "booting"})
    conductor.boot_timed_out(90)
    conductor.heard(0, end(phase="up"))
    conductor.heard(1, end(phase="booting"))
    conductor.heard(2, end(phase="starting"))
    error = conductor.boot_error()
    assert error and error.exit_code == 5
    lines = str(error).splitlines()
    assert lines[0] == "not all guests were up after 90 s: n0001 (booting), n0002 (prepared)"
    table = "\n".join(lines[1:])
    assert "n0001" in table and "n0002" in table and "n0000" not in table
    assert "last words" in table


def test_a_timeout_after_all_are_up_is_none() -> None:
    conductor = Heard().conductor()
    all_up(conductor)
    conductor.boot_timed_out(90)
    assert conductor.phase is Phase.running and conductor.boot_error() is None


def test_a_guest_that_dies_in_the_boot_ends_it() -> None:
    heard = Heard()
    conductor = heard.conductor()
    conductor.heard(1, end("crashed", "starting", "qemu ended with exit code 1: no such option"))
    assert conductor.verdict == JobOutcome("n0001 did not come up: qemu ended with exit code 1: no such option", 5)
    assert heard.told == [{"do": "stop"}]
    conductor.heard(0, end(phase="booting"))
    error = conductor.boot_error()
    assert error and "no such option" in str(error)


def test_a_guest_that_crashed_before_the_usual_end_is_not_forgotten() -> None:
    conductor = Heard().conductor()
    all_up(conductor)
    conductor.heard(1, end("crashed"))
    conductor.heard(0, {"stop": "SIGTERM received", "code": 143, "signal": True})
    assert conductor.verdict == JobOutcome("SIGTERM received", 5)


def test_a_guest_that_is_started_again_is_waited_for_and_told_of() -> None:
    heard = Heard()
    conductor = heard.conductor()
    conductor.heard(0, {"state": "up"})
    conductor.heard(1, {"state": "gone"})
    conductor.heard(1, {"restart": 1})
    assert "n0001 (restarting)" in conductor.progress(1)
    assert conductor.restarted() == ", after 1 restart (n0001 1)"
    conductor.heard(1, {"state": "up"})
    assert conductor.phase is Phase.running
    conductor.heard(1, {"restart": 2})
    conductor.heard(0, {"restart": 1})
    assert conductor.phase is Phase.running
    assert conductor.restarted() == ", after 3 restarts (n0000 1, n0001 2)"
