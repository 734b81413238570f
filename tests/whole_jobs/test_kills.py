"""SIGKILL of any process of a job leaves no qemu, socket, overlay or lock; at worst until the next start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mvpnet.dataplane.address import SHUTDOWN_FRAME
from support import Process, RunningJob, poll_until
from whole_jobs.conftest import IMPATIENT, Bench, nothing_left, record, scratch_files
from whole_jobs.test_ways_to_stop import app_is_ready, pid_of_rank


def no_guest_is_left(job: RunningJob) -> None:
    poll_until(lambda: not job.processes("standin.py"), 30, "all stand-ins to end")
    poll_until(lambda: not job.processes("monwrap"), 30, "all monwraps to end")


def folders_left(job: RunningJob) -> list[Path]:
    return [path for path in scratch_files(job) if path.is_dir() and path.name != f"mvpnet-{os.getuid()}"]


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed_takes_all_guests_with_it(bench: Bench, rank: int) -> None:
    job = bench.up("image.use=overlay", ranks=3)
    assert len(list(job.scratch.rglob("*.qcow2"))) == 3
    os.kill(pid_of_rank(job, rank), signal.SIGKILL)
    assert job.finish(60).code != 0
    no_guest_is_left(job)
    poll_until(lambda: not list(job.scratch.rglob("*.qcow2")), 30, "the overlays to be removed")
    assert folders_left(job) == []


@pytest.mark.mpi
def test_mpiexec_that_is_killed_takes_all_guests_with_it(bench: Bench) -> None:
    job = bench.up("image.use=overlay")
    job.signal(signal.SIGKILL)
    assert job.finish(60).code != 0
    no_guest_is_left(job)
    poll_until(lambda: not folders_left(job), 30, "the scratch folders to be removed")
    poll_until(lambda: not job.processes(), 30, "the ranks to end")


@pytest.mark.mpi
def test_a_rank_that_is_killed_during_the_boot(bench: Bench) -> None:
    job = bench.start("image.use=overlay", behaviour="no-ssh")
    job.wait_for("(booting)")
    os.kill(pid_of_rank(job, 1), signal.SIGKILL)
    assert job.finish(60).code != 0
    no_guest_is_left(job)
    poll_until(lambda: not folders_left(job), 30, "the scratch folders to be removed")


@pytest.mark.mpi
@pytest.mark.parametrize("victim", ["rank 0", "mpiexec"])
def test_a_kill_ends_the_app_too_and_what_it_started(bench: Bench, victim: str) -> None:
    job = bench.up('app.command=[sh,-c,"sleep 300 & echo ready; sleep 300"]')
    app_is_ready(job)
    os.kill(job.process.pid if victim == "mpiexec" else pid_of_rank(job, 0), signal.SIGKILL)
    assert job.finish(60).code != 0
    no_guest_is_left(job)
    poll_until(lambda: not job.processes(), 30, "the app and the ranks to end")


def test_a_qemu_that_is_killed_is_a_crash_of_its_guest(bench: Bench) -> None:
    job = bench.up()
    qemu = next(process for process in guests(job) if "mac=52:55:00:00:00:01" in process.command)
    qemu.kill()
    log = job.cwd / "run/rank-0001/mvpnet.log"
    poll_until(lambda: "qemu was killed from outside (SIGKILL)" in log.read_text(), 30, "the rank to notice")
    goes_on_with_the_other_guest(bench, job)


@pytest.mark.parametrize("told", ["tell", ""], ids=["by the panic device", "on the console"])
def test_a_kernel_panic_is_told_from_a_power_off(bench: Bench, told: str) -> None:
    job = bench.up()
    bench.tell("panic.1", told)
    log = job.cwd / "run/rank-0001/mvpnet.log"
    poll_until(lambda: "the guest panicked (kernel panic): sysrq triggered crash" in log.read_text(), 60, "the panic")
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 5, end
    assert "n0001 ERROR: the guest panicked (kernel panic): sysrq triggered crash" in end.stderr
    assert "its console ended with:" in end.stderr
    assert [guest["how"] for guest in record(job)["guests"]] == ["powered_off", "panicked"]
    nothing_left(job)


def goes_on_with_the_other_guest(bench: Bench, job: RunningJob) -> None:
    """Guest 1 crashed, and guest 0 runs until it powers off."""
    assert job.process.poll() is None
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 5, end
    assert [guest["how"] for guest in record(job)["guests"]] == ["powered_off", "crashed"]
    nothing_left(job)


def guests(job: RunningJob) -> list[Process]:
    return [process for process in job.processes("standin.py -nodefaults") if "monwrap" not in process.command]


def test_a_monwrap_that_is_killed_takes_its_guest_with_it_and_the_job_goes_on(bench: Bench) -> None:
    job = bench.up("image.use=overlay")
    monwraps = sorted(job.processes("monwrap.py"), key=lambda process: "n0001" in process.command)
    os.kill(monwraps[1].pid, signal.SIGKILL)
    log = job.cwd / "run/rank-0001/mvpnet.log"
    poll_until(lambda: "monwrap was killed by SIGKILL" in log.read_text(), 30, "the rank to notice")
    poll_until(
        lambda: len(job.processes("standin.py -nodefaults")) == 2, 30, "its guest to end"
    )  # the other, and its monwrap
    goes_on_with_the_other_guest(bench, job)


@pytest.mark.mpi
def test_the_next_start_removes_what_was_left_and_says_so(bench: Bench, short_dir: Path) -> None:
    sockets = short_dir / "sockets"
    sockets.mkdir()
    by_path = ["net.socket=path", f"net.socket_dir={sockets}", "image.use=overlay"]
    job = bench.up(*by_path, "job.name=killed")
    assert len(list(sockets.iterdir())) in (0, 2)  # a listening socket goes once qemu has connected
    everybody = job.processes("monwrap.py") + job.processes("-m mvpnet")
    for process in everybody:
        process.kill()
    job.finish(60)
    poll_until(lambda: not job.processes(), 30, "all processes to end")
    left = folders_left(job)
    assert left, "nobody was there to remove the folders"

    after, end = bench.run('app.command=["true"]', "hydra.run.dir=again")
    assert end.code == 0, end
    for folder in left:
        if folder.name.startswith("killed."):
            assert f"removing {folder}, left by a job that was killed" in end.stderr
    sockets.rmdir()
    nothing_left(after)


@pytest.mark.mpi
def test_sockets_by_path_of_a_killed_job_go_with_the_next_start(bench: Bench, short_dir: Path) -> None:
    sockets = short_dir / "sockets"
    sockets.mkdir()
    job = bench.up("net=dgram", "net.socket=path", f"net.socket_dir={sockets}", "job.name=killed")
    assert len(list(sockets.iterdir())) == 4
    os.kill(pid_of_rank(job, 1), signal.SIGKILL)
    job.finish(60)
    poll_until(lambda: not job.processes(), 30, "all processes to end")
    after, end = bench.run('app.command=["true"]', "hydra.run.dir=again")
    assert end.code == 0, end
    assert list(sockets.iterdir()) == []
    sockets.rmdir()
    nothing_left(after)


def test_guests_that_ignore_everything_are_killed(bench: Bench) -> None:
    job = bench.up(*IMPATIENT, behaviour="ignore-powerdown+ignore-term", ranks=2)
    bench.tell("send.0", SHUTDOWN_FRAME.hex())
    end = job.finish(60)
    assert end.code == 0, end
    assert [guest["how"] for guest in record(job)["guests"]] == ["killed", "killed"]
    nothing_left(job)
