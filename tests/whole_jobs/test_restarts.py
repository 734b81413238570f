"""vm.restart: a guest that died is started again, and the network carries on; one that left, or was stopped, is not."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from mvpnet.dataplane import address
from support import Process, RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left, record
from whole_jobs.test_kills import guests

FRAIL = '+ranks.frail={on: "1", vm: {restart: 2}}'


def qemu_of(job: RunningJob, rank: int) -> Process:
    mark = f"mac={address.mac_text(address.mac(rank))}"
    return next(process for process in guests(job) if mark in process.command)


def log_of(job: RunningJob, rank: int) -> str:
    return (job.cwd / f"run/rank-{rank:04d}/mvpnet.log").read_text()


def wait_for_line(job: RunningJob, rank: int, text: str, count: int = 1) -> None:
    poll_until(lambda: log_of(job, rank).count(text) >= count, 90, f"{count} times {text!r} of rank {rank}")


def frame(source: int, to: int, payload: bytes) -> str:
    return (address.mac(to) + address.mac(source) + b"\x88\xb5" + payload).hex()


def restarts(job: RunningJob, run: str = "run") -> list[int]:
    return [len(guest["restarts"]) for guest in record(job, run)["guests"]]


def result(job: RunningJob) -> dict[str, Any]:
    return json.loads((job.cwd / "run/result.json").read_text())


def test_a_guest_that_died_is_started_again_with_its_overlay(bench: Bench) -> None:
    """A panic is in tests/boot/test_failures.py."""
    job = bench.up(FRAIL, "image.use=overlay", "net=dgram", ranks=3, behaviour="answer")
    [overlay] = job.scratch.rglob("*.1.*/*.qcow2")
    before = overlay.stat().st_ino
    qemu_of(job, 1).kill()
    wait_for_line(job, 1, "the guest is running", 2)
    assert overlay.stat().st_ino == before
    bench.tell("send.0", frame(0, 1, b"\x04" + bytes(45)))
    poll_until(lambda: (bench.folder / "received.0").exists(), 60, "the answer of the guest that was started again")
    for rank in range(3):
        bench.tell(f"poweroff.{rank}")
    end = job.finish()
    assert end.code == 0, end
    assert "n0001 ERROR: qemu was killed" in end.stderr
    assert "starting it again on its disks, 1 of 2" in end.stderr
    assert "every guest is gone, after 1 restart (n0001 1)" in end.stderr
    assert restarts(job) == [0, 1, 0]
    assert "qemu was killed" in record(job)["guests"][1]["restarts"][0]["reason"]
    assert record(job)["guests"][1]["how"] == "powered_off"
    assert json.loads((job.cwd / "run/manifest.json").read_text())["guests"][1]["restarts"]
    assert result(job)["restarts"] == 1
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert [counts["restarts"] for counts in stats["ranks"]] == [0, 1, 0]
    assert all(counts["compiled"] for counts in stats["ranks"])
    nothing_left(job)


def test_what_waits_for_a_guest_that_dies_is_dropped_and_counted(bench: Bench) -> None:
    """A guest that hangs first, and more than a socket holds: broadcasts, which its rank passes on to guest 3."""
    job = bench.up(FRAIL, ranks=4)
    os.kill(qemu_of(job, 1).pid, signal.SIGSTOP)
    broadcast = (b"\xff" * 6 + address.mac(0) + b"\x88\xb5" + bytes(60_000)).hex()
    received = bench.folder / "received.3"

    def came(number: int) -> bool:
        return received.exists() and received.read_text().count("\n") == number

    for number in range(9, 46, 9):  # no more at once than waits for a rank that is slow
        bench.tell("send.0", "\n".join([broadcast] * 9))
        poll_until(lambda number=number: came(number), 120, f"{number} broadcasts at guest 3")
    qemu_of(job, 1).kill()
    wait_for_line(job, 1, "the guest is running", 2)
    for rank in range(4):
        bench.tell(f"poweroff.{rank}")
    end = job.finish()
    assert end.code == 0, end
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert stats["ranks"][1]["drops"]["guest_gone"] > 0
    assert "guest_gone" not in stats["ranks"][3]["drops"]
    nothing_left(job)


def test_restarts_are_used_up(bench: Bench) -> None:
    job = bench.up("vm.restart=1", "shutdown.on_guest_exit=stop", "net.socket=path", f"net.socket_dir={bench.folder}")
    for times in (1, 2):
        wait_for_line(job, 1, "the guest is running", times)
        qemu_of(job, 1).kill()
    end = job.finish()
    assert end.code == 5, end
    assert record(job)["verdict"]["how"].startswith("n0001 left: qemu was killed from outside")
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "crashed"]
    assert restarts(job) == [0, 1]
    assert not list(bench.folder.glob("mvp.*"))
    nothing_left(job)


def test_a_guest_that_left_is_not_started_again(bench: Bench) -> None:
    job = bench.up("vm.restart=3")
    bench.tell("poweroff.1")
    wait_for_line(job, 1, "the guest powered off")
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 0, end
    assert restarts(job) == [0, 0]
    assert "restart" not in end.stderr
    nothing_left(job)


def test_a_guest_that_never_ran_is_not_started_again(bench: Bench) -> None:
    job, end = bench.run("vm.restart=3", behaviour="1:die", env={"STANDIN_MESSAGE": "it cannot be"})
    assert end.code == 5, end
    assert "n0001 did not come up: qemu ended with exit code 1: it cannot be" in end.stderr.replace(
        "qemu-system-x86_64: ", ""
    )
    assert restarts(job) == [0, 0]
    nothing_left(job)


def test_a_guest_that_died_while_it_booted_is_started_again(bench: Bench) -> None:
    job = bench.start(FRAIL, behaviour="1:no-ssh,0:normal")
    wait_for_line_when_there(job, 1, "the guest is booting")
    qemu_of(job, 1).kill()
    wait_for_line(job, 1, "the guest is booting", 2)
    assert job.process.poll() is None
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert restarts(job) == [0, 1], end
    nothing_left(job)


def wait_for_line_when_there(job: RunningJob, rank: int, text: str) -> None:
    log = job.cwd / f"run/rank-{rank:04d}/mvpnet.log"
    poll_until(lambda: log.exists() and text in log.read_text(), 90, text)


def test_a_job_that_is_stopped_while_a_guest_waits_for_its_start(bench: Bench) -> None:
    job = bench.up("vm.restart=5")
    qemu_of(job, 1).kill()
    wait_for_line(job, 1, "starting it again")
    job.signal(signal.SIGTERM)
    job.finish()
    assert record(job)["verdict"]["how"] == "SIGTERM received"
    assert restarts(job) == [0, 1]
    nothing_left(job)


def test_a_guest_that_does_not_come_up_again(bench: Bench) -> None:
    first_time = (
        f"mark = {str(bench.folder)!r} + '/started'\n"
        "if '-nodefaults' in argv and 'mac=52:55' in argv:\n"
        "    os.environ['STANDIN_BEHAVIOUR'] = 'no-ssh' if os.path.exists(mark) else 'normal'\n"
        "    open(mark, 'w').close()"
    )
    program = bench.program("once", first_time)
    job = bench.up("vm.restart=1", "boot.timeout_s=15", f"qemu.binary={program}", ranks=1)
    poll_until(lambda: guests(job), 30, "the guest")[0].kill()
    end = job.finish()
    assert end.code == 5, end
    assert "the guest was not up again after 15 s" in record(job)["guests"][0]["reason"]
    assert restarts(job) == [1]
    nothing_left(job)
