"""What else may go wrong on a host while a job runs: a hung qemu, disks, folders, sockets, names, late ranks.

docs/reliability.md is the table that this and the tests of kills, of ways to stop and of refusals prove.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from mvpnet.control.registry import find_jobs
from support import codes_after_signal, poll_until
from whole_jobs.conftest import IMPATIENT, Bench, nothing_left, record
from whole_jobs.test_restarts import frame, qemu_of, wait_for_line, wait_for_line_when_there


def test_a_qemu_that_hangs_is_told_and_ends_with_the_job(bench: Bench) -> None:
    job = bench.up("qemu.answer_timeout_s=2", *IMPATIENT)
    qemu = qemu_of(job, 1)
    os.kill(qemu.pid, signal.SIGSTOP)
    wait_for_line(job, 1, f"qemu (pid {qemu.pid}) has not answered for 2 s: it is stopped (SIGSTOP)")
    os.kill(qemu.pid, signal.SIGCONT)
    wait_for_line(job, 1, "qemu answers again")
    os.kill(qemu.pid, signal.SIGSTOP)
    (running,) = find_jobs()
    os.kill(running.entry.pid, signal.SIGTERM)  # Open MPI's mpirun would not give its ranks the time for that
    end = job.finish()
    assert end.code == 0, end
    assert f"kill -CONT {qemu.pid}" in end.stderr
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "killed"]
    nothing_left(job)


def test_a_disk_error_is_told(bench: Bench) -> None:
    """One that the guest is told of, and one for which qemu pauses it."""
    job = bench.up()
    for rank, action, reason in ((0, "report", "Input/output error"), (1, "stop", "No space left on device")):
        data = {"device": "virtio0", "operation": "write", "action": action, "reason": reason}
        bench.tell(f"event.{rank}", 2 * (json.dumps({"name": "BLOCK_IO_ERROR", "data": data}) + "\n"))
        wait_for_line(job, rank, f"the guest's disk virtio0: write: {reason}")
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code in codes_after_signal(0), end
    assert end.stderr.count("Input/output error; the guest was told of the error (said once)") == 1
    assert end.stderr.count("No space left on device; qemu has paused the guest\n  hint: make room") == 1
    nothing_left(job)


def test_a_run_folder_that_is_deleted(bench: Bench) -> None:
    job = bench.up('app.command=[sh,-c,"while [ ! -e go ]; do sleep 0.1; done; exit 3"]')
    poll_until(lambda: (job.cwd / "run/app.log").exists(), 60, "the app")
    shutil.rmtree(job.cwd / "run")
    (job.cwd / "go").touch()
    end = job.finish()
    assert end.code == 3, end
    assert f"warning: cannot write {job.cwd}/run/result.json: No such file or directory" in end.stderr
    assert "Traceback" not in end.stderr
    nothing_left(job)


def test_an_image_that_changes_while_it_is_in_use(bench: Bench) -> None:
    job = bench.up(ranks=1)
    os.truncate(bench.disk, 100)
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 0, end
    assert f"the image {bench.disk} has 100 bytes and had 512 since the guest started" in end.stderr
    nothing_left(job)


def test_sockets_that_are_removed_by_default_there_is_none_to_miss(bench: Bench) -> None:
    job = bench.up(behaviour="answer")
    sockets = [path for path in job.scratch.rglob("*") if path.is_socket()]
    assert sockets
    for path in sockets:
        path.unlink()
    bench.tell("send.0", frame(0, 1, b"\x04" + bytes(45)))
    poll_until(lambda: (bench.folder / "received.0").exists(), 60, "an answer from guest 1")
    for rank in range(2):
        bench.tell(f"poweroff.{rank}")
    end = job.finish()
    assert end.code == 0, end
    nothing_left(job)


def test_a_datagram_socket_that_is_removed_ends_its_guest(bench: Bench, short_dir: Path) -> None:
    sockets = short_dir / "sockets"
    sockets.mkdir()
    job = bench.up("net=dgram", "net.socket=path", f"net.socket_dir={sockets}", "job.name=cut")
    (sockets / "mvp.cut.1.sock").unlink(missing_ok=True)
    (sockets / "mvp.cut.1.qo-rsock").unlink()
    wait_for_line(job, 1, f"the socket {sockets}/mvp.cut.1.qo-rsock was removed; stopping the guest")
    wait_for_line(job, 1, "the guest is gone")
    assert job.process.poll() is None
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 5, end
    assert [guest["how"] for guest in record(job)["guests"]] == ["powered_off", "crashed"]
    sockets.rmdir()
    nothing_left(job)


def test_two_jobs_of_one_name_at_once(bench: Bench, short_dir: Path) -> None:
    """They share nothing, unless sockets with names are asked for: then the second is refused."""
    sockets = short_dir / "sockets"
    sockets.mkdir()
    first = bench.up("net=dgram", "net.socket=path", f"net.socket_dir={sockets}", "job.name=twin")
    second = bench.start("job.name=twin", "hydra.run.dir=second", 'app.command=["true"]')
    assert second.finish().code == 0, second.stderr
    third = bench.start(
        "net=dgram", "net.socket=path", f"net.socket_dir={sockets}", "job.name=twin", "hydra.run.dir=third"
    )
    end = third.finish()
    assert end.code == 3, end
    assert "is in use, by another job of the name twin" in end.stderr
    assert len(list(sockets.iterdir())) == 4, "the first job's sockets are where they were"
    for rank in range(2):
        bench.tell(f"poweroff.{rank}")
    assert first.finish().code == 0, first.stderr
    sockets.rmdir()
    nothing_left(first)


@pytest.mark.parametrize(
    ("state", "behaviour", "options"),
    [
        ("starting", "no-qmp+ignore-powerdown", ["shutdown.powerdown_s=1"]),
        ("configuring", "normal", ["boot.wait_for=cloud_init"]),
    ],
)
def test_sigterm_in_a_phase_of_the_boot(bench: Bench, state: str, behaviour: str, options: list[str]) -> None:
    """Those before any guest starts, and while they boot, are in test_ways_to_stop.py."""
    job = bench.start(*options, behaviour=behaviour)
    wait_for_line_when_there(job, 1, f"the guest is {state}")
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code in codes_after_signal(128 + signal.SIGTERM), end
    assert "Traceback" not in end.stderr
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "stopped"]
    nothing_left(job)


@pytest.mark.mpi
def test_a_rank_that_starts_late_is_waited_for(bench: Bench) -> None:
    """However late: here until a file is there. No guest starts before, and no time of the boot runs."""
    late = (
        'if [ "${PMI_RANK-}${OMPI_COMM_WORLD_RANK-}" = 1 ]; then echo late >&2; '
        f'while [ ! -e "{bench.folder}/go" ]; do sleep 0.1; done; fi; exec "$@"'
    )
    job = bench.start('app.command=["true"]', program=["sh", "-c", late, "sh", sys.executable, "-m", "mvpnet"])
    job.wait_for("late")
    poll_until(lambda: job.processes("-m mvpnet"), 60, "rank 0")
    assert not job.processes("-nodefaults")
    (bench.folder / "go").touch()
    end = job.finish()
    assert end.code == 0, end
    assert "2/2 guests up" in end.stderr
    nothing_left(job)


@pytest.mark.mpi
def test_sigterm_while_a_rank_is_waited_for(bench: Bench) -> None:
    late = 'if [ "${PMI_RANK-}${OMPI_COMM_WORLD_RANK-}" = 1 ]; then echo late >&2; exec sleep 600; fi; exec "$@"'
    job = bench.start(program=["sh", "-c", late, "sh", sys.executable, "-m", "mvpnet"])
    job.wait_for("late")
    poll_until(lambda: job.processes("-m mvpnet"), 60, "rank 0")
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code in codes_after_signal(signal.SIGTERM), end  # no rank of MPI yet: the code is mpiexec's own
    assert "Traceback" not in end.stderr
    nothing_left(job)
