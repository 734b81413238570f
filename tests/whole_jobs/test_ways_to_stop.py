"""Every way to end a job: the app, the guests, signals, the network, standard input. All orderly, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.dataplane import address
from support import RunningJob, codes_after_signal, poll_until
from whole_jobs.conftest import Bench, nothing_left, record

PRINT_ENVIRONMENT = "import os; [print(k + '=' + v) for k, v in os.environ.items() if k.startswith('MVPNET_')]"


def arp_for(rank: int, target: str) -> str:
    """An ARP request (RFC 826) of a guest's, as the stand-in sends it."""
    sender, ip = address.mac(rank), bytes(map(int, address.ipv4_text(rank).split(".")))
    wanted = bytes(map(int, target.split(".")))
    return (b"\xff" * 6 + sender + bytes.fromhex("08060001080006040001") + sender + ip + bytes(6) + wanted).hex()


@pytest.mark.mpi
@pytest.mark.parametrize(("script", "code"), [("print('done')", 0), ("raise SystemExit(7)", 7)])
def test_the_app_ends_the_job_with_its_exit_code(bench: Bench, script: str, code: int) -> None:
    job, end = bench.run(f'app.command=["{sys.executable}","-c","{script}"]')
    assert end.code == code, end
    assert record(job)["verdict"] == {"how": f"the app ended with exit code {code}", "code": code}
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "stopped"]
    assert (job.cwd / "run/app.log").read_text() == ("done\n" if code == 0 else "")
    assert "done" not in end.stdout
    nothing_left(job)


def test_an_app_that_a_signal_ended(bench: Bench) -> None:
    job, end = bench.run("app.command=\"sh -c 'kill -KILL $$'\"")
    assert end.code == 128 + signal.SIGKILL, end
    nothing_left(job)


def test_the_app_finds_the_jobs_facts_and_may_be_shown(bench: Bench) -> None:
    job, end = bench.run(
        f'app.command=[{sys.executable},-c,"{PRINT_ENVIRONMENT}"]', "app.show_output=true", "job.name=facts"
    )
    assert end.code == 0, end
    said = dict(pair.split("=", 1) for pair in end.stdout.splitlines())
    for of_the_tests in ("MVPNET_TEST_ID", "MVPNET_MPIEXEC", "MVPNET_REGISTRY"):
        said.pop(of_the_tests, None)
    port = said.pop("MVPNET_SSHPORT")
    assert said == {
        "MVPNET_JOBNAME": "facts",
        "MVPNET_LOGDIR": f"{job.cwd}/run",
        "MVPNET_RANK": "0",
        "MVPNET_RUNDIR": f"{job.cwd}/run",
        "MVPNET_SSHUSER": said["MVPNET_SSHUSER"],
        "MVPNET_WSIZE": "2",
    }
    assert f"Port {port}" in (job.cwd / "run/ssh_config").read_text()
    assert (job.cwd / "run/app.log").read_text() == end.stdout


def test_an_app_that_is_not_there(bench: Bench) -> None:
    job, end = bench.run("app.command=[/nonexistent/app]")
    assert end.code == 3, end
    assert "app.command: there is no program /nonexistent/app" in end.stderr
    assert not (job.cwd / "run/job.json").exists(), "found out before anything was made"
    nothing_left(job)


def test_the_last_guest_that_powers_off_ends_the_job(bench: Bench) -> None:
    job = bench.up(ranks=3)
    for rank in (2, 0):
        bench.tell(f"poweroff.{rank}")
        poll_until(lambda rank=rank: "the guest powered off" in log(job, rank), 30, f"guest {rank} to power off")
    assert job.process.poll() is None
    bench.tell("poweroff.1")
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"] == {"how": "every guest is gone", "code": 0}
    nothing_left(job)


def log(job: RunningJob, rank: int) -> str:
    return (job.cwd / f"run/rank-{rank:04d}/mvpnet.log").read_text()


def test_a_guest_that_leaves_ends_the_job_where_that_is_asked_for(bench: Bench) -> None:
    job = bench.up("shutdown.on_guest_exit=stop")
    bench.tell("poweroff.1")
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"].startswith("n0001 left")
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "powered_off"]
    nothing_left(job)


def test_a_guest_that_crashes_ends_it_with_another_code(bench: Bench) -> None:
    job = bench.up("shutdown.on_guest_exit=stop", env={"STANDIN_MESSAGE": "something broke"})
    bench.tell("crash.0")
    end = job.finish()
    assert end.code == 5, end
    assert record(job)["verdict"]["how"].startswith("n0000 left: qemu ended with exit code 1: ")
    assert [guest["how"] for guest in record(job)["guests"]] == ["crashed", "stopped"]
    nothing_left(job)


def test_a_guest_that_leaves_during_the_boot_ends_the_job(bench: Bench) -> None:
    job = bench.start(behaviour="0:no-ssh,1:no-ssh")
    job.wait_for("(booting)")
    bench.tell("poweroff.1")
    end = job.finish()
    assert end.code == 5, end
    assert "n0001 did not come up: the guest powered off" in end.stderr
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "powered_off"]
    nothing_left(job)


def test_a_guest_that_breaks_its_link_is_stopped_alone(bench: Bench) -> None:
    job = bench.up()
    bench.tell("send.1", (address.mac(0) + address.mac(1) + b"\x88\xb5" + bytes(70_000)).hex())
    poll_until(lambda: "broken framing on the link to qemu" in log(job, 1), 30, "the link to be given up")
    poll_until(lambda: len(job.processes("standin.py -nodefaults")) == 2, 60, "guest 1 to end")
    assert job.process.poll() is None
    bench.tell("poweroff.0")
    end = job.finish()
    assert end.code == 5, end
    assert "n0001 ERROR: broken framing on the link to qemu: a frame of 70014 bytes" in end.stderr
    reports = record(job)["guests"]
    assert [(guest["how"], guest["cause"]) for guest in reports[:1]] == [("powered_off", None)]
    assert reports[1]["how"] == "crashed" and "broken framing" in reports[1]["reason"]
    nothing_left(job)


def test_a_guest_that_crashed_makes_the_job_fail(bench: Bench) -> None:
    job = bench.up(env={"STANDIN_MESSAGE": "something broke"})
    bench.tell("crash.0")
    poll_until(lambda: "something broke" in log(job, 0), 30, "the crash to be told")
    bench.tell("poweroff.1")
    end = job.finish()
    assert end.code == 5, end
    assert "something broke" in end.stderr
    nothing_left(job)


@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("target", ["mpiexec", "rank 0"])
def test_signals_stop_a_running_job(bench: Bench, number: signal.Signals, target: str) -> None:
    job = bench.up()
    if target == "mpiexec":
        job.signal(number)
    else:
        os.kill(pid_of_rank(job, 0), number)
    end = job.finish()
    caught_by_mpiexec = target == "mpiexec" and number != signal.SIGUSR1
    assert end.code in (codes_after_signal(0) if caught_by_mpiexec else {0}), end
    # Open MPI's mpiexec makes a SIGTERM of a SIGINT
    told = "SIGTERM" if codes_after_signal(0) == {1} and caught_by_mpiexec else number.name
    assert record(job)["verdict"]["how"] == f"{told} received"
    nothing_left(job)


def pid_of_rank(job: RunningJob, rank: int) -> int:
    """By what MPI put into its environment."""
    for process in job.processes("-m mvpnet"):
        if "mpiexec" in process.command:
            continue
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        if {b"PMI_RANK=%d" % rank, b"OMPI_COMM_WORLD_RANK=%d" % rank} & set(environment):
            return process.pid
    raise AssertionError(f"rank {rank} is not there: {job.processes()}")


def send(job: RunningJob, target: str, number: signal.Signals) -> set[int]:
    """Signal mpiexec or "rank N", as kill(1) does. What the exit code of a job that it cut short may be."""
    if target == "mpiexec":
        job.signal(number)
        return codes_after_signal(128 + number)
    os.kill(pid_of_rank(job, int(target.removeprefix("rank "))), number)
    return {128 + number}


EACH_SIGNAL = pytest.mark.parametrize(
    ("target", "number"),
    [("mpiexec", signal.SIGTERM), ("rank 0", signal.SIGINT), ("rank 1", signal.SIGUSR1)],
)


@EACH_SIGNAL
@pytest.mark.mpi
def test_a_signal_while_the_app_runs_stops_the_app_first(bench: Bench, target: str, number: signal.Signals) -> None:
    script = "trap 'echo stopped in order; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    job = bench.up(f'app.command=[sh,-c,"{script}"]')
    app_is_ready(job)
    codes = send(job, target, number)
    end = job.finish()
    assert end.code in codes, end
    assert "stopped in order" in (job.cwd / "run/app.log").read_text()
    assert record(job)["verdict"] == {"how": f"{number.name} received", "code": 128 + number}
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "stopped"]
    nothing_left(job)


def app_is_ready(job: RunningJob) -> None:
    log = job.cwd / "run/app.log"
    poll_until(lambda: log.exists() and "ready" in log.read_text(), 60, "the app to run")


@EACH_SIGNAL
@pytest.mark.mpi
def test_a_signal_during_the_boot(bench: Bench, target: str, number: signal.Signals) -> None:
    job = bench.start(behaviour="no-ssh")
    job.wait_for("0/2 guests up")
    job.wait_for("(booting)")
    codes = send(job, target, number)
    end = job.finish()
    assert end.code in codes, end
    assert "likely cause" not in end.stderr, "nothing was wrong with the guests"
    nothing_left(job)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, None])
def test_a_signal_before_the_guests_start(bench: Bench, ranks: int | None) -> None:
    slow = bench.program("slow", f"if 'help' in argv: {SLEEP}")
    job = bench.start(f"qemu.binary={slow}", ranks=ranks)
    poll_until(
        lambda: len(job.processes(f"{slow} -netdev help")) == (ranks or 1), 60, "qemu to be asked what it can do"
    )
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code in (codes_after_signal(128 + signal.SIGTERM) if ranks else {128 + signal.SIGTERM}), end
    assert "stopped by SIGTERM before the guests ran" in end.stderr
    assert "Traceback" not in end.stderr
    assert record(job)["verdict"] == {"how": "refused before any guest started", "code": 128 + signal.SIGTERM}
    nothing_left(job)


SLEEP = "import time; time.sleep(300)"


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, None])
def test_ctrl_c_reaches_mpiexec_and_ranks_alike(bench: Bench, ranks: int | None) -> None:
    """The terminal sends SIGINT to its whole foreground process group."""
    job = bench.start('app.command=[sh,-c,"echo ready; exec sleep 300"]', ranks=ranks)
    app_is_ready(job)
    os.killpg(job.process.pid, signal.SIGINT)
    end = job.finish()
    assert end.code in (codes_after_signal(128 + signal.SIGINT) if ranks else {128 + signal.SIGINT}), end
    assert record(job)["verdict"]["code"] in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "Traceback" not in end.stderr
    nothing_left(job)


@pytest.mark.mpi
def test_an_app_that_will_not_end_is_not_waited_for_when_asked_twice(bench: Bench) -> None:
    job = bench.up("app.command=[sh,-c,\"trap '' TERM; echo ready; while :; do sleep 0.1; done\"]")
    app_is_ready(job)
    number = signal.SIGUSR1  # the one that every mpiexec passes on twice
    os.kill(pid_of_rank(job, 0), number)
    job.wait_for("stopping: SIGUSR1 received")

    def gone_after_another() -> bool:
        """Within a second it would be taken for the same Ctrl-C come twice."""
        if job.process.poll() is None and "the job is over" not in job.stderr:
            os.kill(pid_of_rank(job, 0), number)
        return "the job is over" in job.stderr

    poll_until(gone_after_another, 30, "the job to end")
    end = job.finish()
    assert end.code == 128 + number, end
    nothing_left(job)


@pytest.mark.parametrize(
    "frame", [arp_for(1, "10.255.255.254"), address.SHUTDOWN_FRAME.hex()], ids=["address", "frame"]
)
def test_a_guest_may_stop_the_job_over_its_network(bench: Bench, frame: str) -> None:
    job = bench.up()
    bench.tell("send.1", frame)
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"] == "n0001 asked for the shutdown address"
    nothing_left(job)


def test_unless_the_job_ignores_it(bench: Bench) -> None:
    job = bench.up("shutdown.ignore_address=true")
    bench.tell("send.1", arp_for(1, "10.255.255.254") + "\n" + address.SHUTDOWN_FRAME.hex())
    poll_until(lambda: not (bench.folder / "send.1").exists(), 30, "the frames to be sent")
    bench.tell("send.0", (address.mac(1) + address.mac(0) + b"\x88\xb5" + bytes(46)).hex())
    poll_until(lambda: (bench.folder / "received.1").exists(), 30, "a later frame to come through")
    assert job.process.poll() is None
    bench.tell("poweroff.0")
    bench.tell("poweroff.1")
    assert job.finish().code == 0
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert stats["ranks"][1]["drops"]["shutdown_ignored"] == 2
    nothing_left(job)


@pytest.mark.mpi
def test_the_end_of_standard_input_stops_the_job_if_asked(bench: Bench) -> None:
    job = bench.up("shutdown.on_stdin_eof=true", stdin=subprocess.PIPE)
    job.process.stdin.write(b"text is nothing that it asks for\n")
    job.process.stdin.flush()
    bench.tell("send.0", (address.mac(1) + address.mac(0) + b"\x88\xb5" + bytes(46)).hex())
    poll_until(lambda: (bench.folder / "received.1").exists(), 30, "a later frame to come through")
    assert job.process.poll() is None
    job.process.stdin.close()
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"] == "standard input ended"
    nothing_left(job)


@pytest.mark.mpi
def test_a_closed_standard_input_has_ended(bench: Bench) -> None:
    job = bench.start(
        "shutdown.on_stdin_eof=true", ranks=None, program=[*WITHOUT_STDIN, sys.executable, "-m", "mvpnet"]
    )
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"] == "there is no standard input"
    nothing_left(job)


WITHOUT_STDIN = ["sh", "-c", 'exec "$@" <&-', "sh"]


@pytest.mark.mpi
def test_output_that_nobody_reads_does_not_end_the_job(bench: Bench) -> None:
    into_head = ["bash", "-c", '"$@" 2>&1 | head -c 1; exit ${PIPESTATUS[0]}', "bash"]
    job = bench.start(
        'app.command=[sh,-c,"yes | head -n 100000; exit 4"]',
        "app.show_output=true",
        ranks=None,
        program=[*into_head, sys.executable, "-m", "mvpnet"],
    )
    end = job.finish()
    assert end.code == 4, end
    assert record(job)["verdict"]["code"] == 4
    assert (job.cwd / "run/app.log").stat().st_size == 200_000
    nothing_left(job)


def test_what_the_app_left_in_the_background_ends_with_the_job(bench: Bench) -> None:
    job, end = bench.run('app.command=[sh,-c,"sleep 300 & exit 6"]')
    assert end.code == 6, end
    nothing_left(job)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, None])
def test_a_world_of_one(bench: Bench, ranks: int | None) -> None:
    job, end = bench.run('app.command=["true"]', ranks=ranks)
    assert end.code == 0, end
    assert "1 guest on 1 host" in end.stderr
    assert [path.name for path in (job.cwd / "run").glob("rank-*")] == ["rank-0000"]
    nothing_left(job)
