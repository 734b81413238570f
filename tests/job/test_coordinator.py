"""Rank 0's view of a job, told in messages: when it runs, what ends it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mvpnet.job.coordinator import Coordinator, JobOutcome, Phase
from mvpnet.job.messages import (
    GuestEnded,
    GuestReport,
    JobMessage,
    Restarting,
    Resume,
    Run,
    StateChanged,
    Stop,
    StopRequested,
)


@dataclass
class Heard:
    """What a coordinator did."""

    told: list[JobMessage] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    app_runs: bool = False

    def coordinator(
        self, world_size: int = 2, *, has_app: bool = False, stop_on_guest_exit: bool = False
    ) -> Coordinator:
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


def end(rank: int, how: str = "stopped", phase: str = "running", reason: str = "stopped") -> GuestEnded:
    return GuestEnded(GuestReport(rank, "h", how, phase, reason, console=["last words"]))


def all_up(coordinator: Coordinator) -> None:
    for rank in range(len(coordinator.states)):
        for state in ("starting", "booting", "up"):
            coordinator.heard(rank, StateChanged(state))


def all_end(coordinator: Coordinator, how: str = "stopped") -> None:
    for rank in range(len(coordinator.states)):
        if rank not in coordinator.reports:
            coordinator.heard(rank, end(rank, how))


def test_guests_go_on_together_once_all_have_loaded_their_memory() -> None:
    heard = Heard()
    coordinator = heard.coordinator()
    for rank in range(2):
        assert heard.told == []
        for state in ("starting", "booting", "loading", "loaded"):
            coordinator.heard(rank, StateChanged(state))
    assert heard.told == [Resume()]
    assert "0/2 guests up, waiting for n0000 (loaded)" in coordinator.progress(1.0)
    for rank in range(2):
        coordinator.heard(rank, StateChanged("up"))
    assert heard.told == [Resume(), Run()]


def test_the_job_runs_once_every_guest_is_up() -> None:
    heard = Heard()
    coordinator = heard.coordinator(3)
    for rank in (2, 0):
        coordinator.heard(rank, StateChanged("up"))
    assert coordinator.phase is Phase.booting and heard.told == []
    coordinator.heard(1, StateChanged("up"))
    assert coordinator.phase is Phase.running
    assert (heard.told, heard.events) == ([Run()], ["running"])


def test_progress_names_who_is_waited_for() -> None:
    coordinator = Heard().coordinator(6)
    for rank in range(3):
        coordinator.heard(rank, StateChanged("up"))
    coordinator.heard(3, StateChanged("booting"))
    assert (
        coordinator.progress(12.3)
        == " 12 s  3/6 guests up, waiting for n0003 (booting), n0004 (prepared), n0005 (prepared)"
    )
    for rank in range(6):
        coordinator.heard(rank, StateChanged("up"))
    assert coordinator.progress(15.0) == " 15 s  6/6 guests up"


def test_many_are_not_all_named() -> None:
    assert Heard().coordinator(1000).progress(0).endswith("n0003 (prepared) and 996 more")


def test_the_first_reason_to_stop_is_the_verdict() -> None:
    heard = Heard()
    coordinator = heard.coordinator()
    all_up(coordinator)
    coordinator.heard(1, StopRequested("n0001 asked", 0))
    coordinator.heard(0, StopRequested("another", 9))
    assert heard.told == [Run(), Stop()]
    all_end(coordinator)
    assert coordinator.verdict == JobOutcome("n0001 asked", 0)
    assert (coordinator.phase, heard.events) == (Phase.over, ["running", "stop app", "over"])
    assert coordinator.boot_error() is None


def test_guests_are_stopped_after_the_app() -> None:
    heard = Heard()
    coordinator = heard.coordinator(has_app=True)
    all_up(coordinator)
    coordinator.heard(0, StopRequested("SIGTERM received", 143, by_signal=True))
    assert heard.told == [Run()]
    coordinator.app_ended(0, "the app ended with exit code 0")
    assert heard.told == [Run(), Stop()]
    all_end(coordinator)
    assert coordinator.verdict == JobOutcome("SIGTERM received", 143)


def test_unless_asked_again() -> None:
    heard = Heard()
    coordinator = heard.coordinator(has_app=True)
    all_up(coordinator)
    coordinator.stop("SIGINT received", 130)
    coordinator.stop_guests_now()
    assert heard.told[-1] == Stop()
    coordinator.app_ended(0, "the app ended with exit code 0")
    assert heard.told.count(Stop()) == 1


@pytest.mark.parametrize(("has_app", "up", "code"), [(False, True, 0), (True, True, 143), (False, False, 143)])
def test_a_signal_is_the_usual_end_only_of_a_job_without_an_app(has_app: bool, up: bool, code: int) -> None:
    coordinator = Heard().coordinator(has_app=has_app)
    if up:
        all_up(coordinator)
    coordinator.heard(0, StopRequested("SIGTERM received", 143, by_signal=True))
    assert coordinator.verdict == JobOutcome("SIGTERM received", code)


def test_the_apps_exit_code_is_the_jobs() -> None:
    coordinator = Heard().coordinator(has_app=True)
    all_up(coordinator)
    coordinator.app_ended(7, "the app ended with exit code 7")
    assert coordinator.verdict == JobOutcome("the app ended with exit code 7", 7)


@pytest.mark.parametrize(("how", "code"), [("powered_off", 0), ("crashed", 5), ("killed", 5)])
def test_a_job_is_over_when_every_guest_is_gone(how: str, code: int) -> None:
    heard = Heard()
    coordinator = heard.coordinator()
    all_up(coordinator)
    coordinator.heard(0, end(0, "powered_off"))
    assert coordinator.phase is Phase.running
    coordinator.heard(1, end(1, how))
    assert coordinator.verdict == JobOutcome("every guest is gone", code)
    assert heard.events[-1] == "over"


def test_one_guest_that_leaves_ends_the_job_where_asked() -> None:
    heard = Heard()
    coordinator = heard.coordinator(stop_on_guest_exit=True)
    all_up(coordinator)
    coordinator.heard(1, end(1, "powered_off", reason="the guest powered off"))
    assert coordinator.verdict == JobOutcome("n0001 left: the guest powered off", 0)
    assert heard.told[-1] == Stop() and "over" not in heard.events
    coordinator.heard(0, end(0))
    assert heard.events[-1] == "over"


def test_a_boot_that_takes_too_long() -> None:
    coordinator = Heard().coordinator(3)
    coordinator.heard(0, StateChanged("up"))
    coordinator.heard(1, StateChanged("booting"))
    coordinator.boot_timed_out(90)
    coordinator.heard(0, end(0, phase="up"))
    coordinator.heard(1, end(1, phase="booting"))
    coordinator.heard(2, end(2, phase="starting"))
    error = coordinator.boot_error()
    assert error and error.exit_code == 5
    lines = str(error).splitlines()
    assert lines[0] == "not all guests were up after 90 s: n0001 (booting), n0002 (prepared)"
    table = "\n".join(lines[1:])
    assert "n0001" in table and "n0002" in table and "n0000" not in table
    assert "last words" in table


def test_a_timeout_after_all_are_up_is_none() -> None:
    coordinator = Heard().coordinator()
    all_up(coordinator)
    coordinator.boot_timed_out(90)
    assert coordinator.phase is Phase.running and coordinator.boot_error() is None


def test_a_guest_that_dies_in_the_boot_ends_it() -> None:
    heard = Heard()
    coordinator = heard.coordinator()
    coordinator.heard(1, end(1, "crashed", "starting", "qemu ended with exit code 1: no such option"))
    assert coordinator.verdict == JobOutcome("n0001 did not come up: qemu ended with exit code 1: no such option", 5)
    assert heard.told == [Stop()]
    coordinator.heard(0, end(0, phase="booting"))
    error = coordinator.boot_error()
    assert error and "no such option" in str(error)


def test_a_guest_that_crashed_before_the_usual_end_is_not_forgotten() -> None:
    coordinator = Heard().coordinator()
    all_up(coordinator)
    coordinator.heard(1, end(1, "crashed"))
    coordinator.heard(0, StopRequested("SIGTERM received", 143, by_signal=True))
    assert coordinator.verdict == JobOutcome("SIGTERM received", 5)


def test_a_guest_that_is_started_again_is_waited_for_and_told_of() -> None:
    heard = Heard()
    coordinator = heard.coordinator()
    coordinator.heard(0, StateChanged("up"))
    coordinator.heard(1, StateChanged("gone"))
    coordinator.heard(1, Restarting(1))
    assert "n0001 (restarting)" in coordinator.progress(1)
    assert coordinator.restarted() == ", after 1 restart (n0001 1)"
    coordinator.heard(1, StateChanged("up"))
    assert coordinator.phase is Phase.running
    coordinator.heard(1, Restarting(2))
    coordinator.heard(0, Restarting(1))
    assert coordinator.phase is Phase.running
    assert coordinator.restarted() == ", after 3 restarts (n0000 1, n0001 2)"
