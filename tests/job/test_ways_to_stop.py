"""Every way to end a job: the app, the guests, signals, the network, standard input. All orderly, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from job.conftest import Bench, code_after_signal, nothing_left, record
from mvpnet.dataplane import address
from support import poll_until

PRINT_ENVIRONMENT = "import os; [print(k + '=' + v) for k, v in os.environ.items() if k.startswith('MVPNET_')]"

pytestmark = pytest.mark.mpi


def arp_for(rank: int, target: str) -> str:
    """An ARP request (RFC 826) of a guest's, as the stand-in sends it."""
    sender, ip = address.mac(rank), bytes(map(int, address.ipv4_text(rank).split(".")))
    wanted = bytes(map(int, target.split(".")))
    return (b"\xff" * 6 + sender + bytes.fromhex("08060001080006040001") + sender + ip + bytes(6) + wanted).hex()


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
    for of_the_tests in ("MVPNET_TEST_ID", "MVPNET_MPIEXEC"):
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
    assert "app.command" in record(job)["verdict"]["how"]
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


def log(job, rank: int) -> str:
    return (job.cwd / f"run/rank-{rank:04d}/mvpnet.log").read_text()


def test_a_guest_that_leaves_ends_the_job_where_that_is_asked_for(bench: Bench) -> None:
    job = bench.up("shutdown.on_guest_exit=stop")
    bench.tell("poweroff.1")
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"].startswith("n0001 left")
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "powered_off"]
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
    assert end.code == (code_after_signal(0) if caught_by_mpiexec else 0), end
    # Open MPI's mpiexec makes a SIGTERM of a SIGINT
    told = "SIGTERM" if code_after_signal(0) and caught_by_mpiexec else number.name
    assert record(job)["verdict"]["how"] == f"{told} received"
    nothing_left(job)


def pid_of_rank(job, rank: int) -> int:
    """By what MPI put into its environment."""
    for process in job.processes("-m mvpnet"):
        if "mpiexec" in process.command:
            continue
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        if {b"PMI_RANK=%d" % rank, b"OMPI_COMM_WORLD_RANK=%d" % rank} & set(environment):
            return process.pid
    raise AssertionError(f"rank {rank} is not there: {job.processes()}")


def test_a_signal_while_the_app_runs_stops_the_app_first(bench: Bench) -> None:
    script = "trap 'echo stopped in order; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    job = bench.up(f'app.command=[sh,-c,"{script}"]')
    poll_until(lambda: "ready" in (job.cwd / "run/app.log").read_text(), 30, "the app to run")
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code == code_after_signal(128 + signal.SIGTERM), end
    assert "stopped in order" in (job.cwd / "run/app.log").read_text()
    nothing_left(job)


def test_a_signal_during_the_boot(bench: Bench) -> None:
    job = bench.start(behaviour="no-ssh")
    job.wait_for("0/2 guests up")
    job.wait_for("(booting)")
    job.signal(signal.SIGTERM)
    end = job.finish()
    assert end.code == code_after_signal(128 + signal.SIGTERM), end
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


def test_the_end_of_standard_input_stops_the_job_if_asked(bench: Bench) -> None:
    job = bench.up("shutdown.on_stdin_eof=true", stdin=subprocess.PIPE)
    job.process.stdin.close()
    end = job.finish()
    assert end.code == 0, end
    assert record(job)["verdict"]["how"] == "standard input ended"
    nothing_left(job)


@pytest.mark.parametrize("ranks", [1, None])
def test_a_world_of_one(bench: Bench, ranks: int | None) -> None:
    job, end = bench.run('app.command=["true"]', ranks=ranks)
    assert end.code == 0, end
    assert "1 guest on 1 host" in end.stderr
    assert [path.name for path in (job.cwd / "run").glob("rank-*")] == ["rank-0000"]
    nothing_left(job)
