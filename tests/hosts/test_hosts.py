"""A job over several hosts: frames cross, ranks wake each other, and what is kept comes together."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from control.verbs import said
from hosts.conftest import Hosts
from mvpnet.dataplane import address
from support import Finished, RunMvpnet, RunningJob, codes_after_signal, poll_until

STANDIN = Path(__file__).parent.parent / "standin.py"
ETHERTYPE = b"\x88\xb5"


def frame(source: int, to: int, text: bytes) -> bytes:
    return (address.mac(to) + address.mac(source) + ETHERTYPE + text).ljust(60, b"\0")


def started(hosts: Hosts, start_mvpnet, short_dir: Path, *more: str) -> RunningJob:
    """Two ranks a host, one host after the other, with stand-ins for guests that answer pings; all up."""
    disk = short_dir / "blank.raw"
    disk.write_bytes(bytes(512))
    ranks = 2 * len(hosts.hosts)
    options = [f"image.path={disk}", "image=file", "image.use=readonly", f"qemu.binary={STANDIN}", "vm.accel=tcg"]
    job = start_mvpnet(
        *options,
        "hydra.run.dir=run",
        *more,
        program=[*hosts.mpiexec, "-n", str(ranks), sys.executable, "-m", "mvpnet"],
        ranks=None,
        env={"STANDIN_DIR": str(short_dir), "STANDIN_BEHAVIOUR": "answer"},
    )
    job.wait_for(f"{ranks}/{ranks} guests up")
    return job


@pytest.fixture
def job(hosts: Hosts, start_mvpnet, short_dir: Path) -> RunningJob:
    return started(hosts, start_mvpnet, short_dir)


def ended(job: RunningJob) -> Finished:
    job.signal(signal.SIGTERM)
    return job.finish()


@pytest.mark.mpi
@pytest.mark.parametrize("hosts", [2, 4], indirect=True)
def test_frames_cross_between_all_hosts(hosts: Hosts, job: RunningJob, short_dir: Path) -> None:
    ranks = 2 * len(hosts.hosts)
    for source in range(ranks):
        lines = [frame(source, to, b"from %d" % source).hex() for to in range(ranks) if to != source]
        (short_dir / f"new.{source}").write_text("\n".join(lines) + "\n")
        (short_dir / f"new.{source}").rename(short_dir / f"send.{source}")
    for to in range(ranks):
        wanted = {frame(source, to, b"from %d" % source).hex() for source in range(ranks) if source != to}
        came = short_dir / f"received.{to}"

        def arrived(came: Path = came, wanted: set[str] = wanted) -> bool:
            return came.exists() and wanted <= set(came.read_text().split())

        poll_until(arrived, 30, f"frames of all ranks at rank {to}")
    assert ended(job).code in codes_after_signal(0)

    facts = json.loads((job.cwd / "run/job.json").read_text())
    assert sorted(set(facts["hosts"])) == [f"host{n}" for n in range(1, len(hosts.hosts) + 1)]
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert all(rank["frames_to_guest"] >= ranks - 1 for rank in stats["ranks"])
    assert all(rank["doorbells_rung"] > 0 for rank in stats["ranks"])
    assert {path.name for path in (job.cwd / "run").glob("rank-*")} == {f"rank-{rank:04d}" for rank in range(ranks)}


@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_guests_on_other_hosts_are_reached_through_their_host(hosts: Hosts, job: RunningJob) -> None:
    blocks = (job.cwd / "run/ssh_config").read_text().split("Host ")[1:]
    jumps = {block.split()[0]: "ProxyCommand ssh -W %h:%p host2" in block for block in blocks}
    assert ended(job).code in codes_after_signal(0)
    placed = json.loads((job.cwd / "run/job.json").read_text())["hosts"]
    assert jumps == {f"n{rank:04d}": host == "host2" for rank, host in enumerate(placed)} | {"host2": False}
    assert "host2" in placed


@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_the_doctor_looks_at_all_hosts(hosts: Hosts, run_mvpnet: RunMvpnet, short_dir: Path) -> None:
    options = ["doctor", "--json", f"qemu.binary={STANDIN}", "vm.accel=tcg", f"job.scratch_dir={short_dir}"]
    program = [*hosts.mpiexec, "-n", "4", sys.executable, "-m", "mvpnet"]
    lines = json.loads(run_mvpnet(*options, program=program, ranks=None).stdout)
    on = {line["host"]: line["ranks"] for line in lines if line["check"] == "qemu"}
    assert sorted(on) == ["host1", "host2"] and sorted(on["host1"] + on["host2"]) == [0, 1, 2, 3]
    clocks = {line["host"]: line for line in lines if line["check"] == "clock"}
    assert clocks["host2"]["level"] == "ok" and "host1 (±" in clocks["host2"]["seen"]
    assert clocks["host2"]["ranks"] == on["host2"][:1]


@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_a_run_over_hosts_is_replayed_over_hosts(hosts: Hosts, job: RunningJob, run_mvpnet: RunMvpnet) -> None:
    assert ended(job).code in codes_after_signal(0)
    program = [*hosts.mpiexec, "-n", "4", sys.executable, "-m", "mvpnet"]
    env = {"STANDIN_BEHAVIOUR": "poweroff=1"}
    done = run_mvpnet("replay", "--run-dir", "again", "run", program=program, ranks=None, env=env, cwd=job.cwd)
    assert done.code == 0, done
    facts = json.loads((job.cwd / "again/job.json").read_text())
    assert facts["hosts"] == ["host1", "host1", "host2", "host2"]
    assert facts["digest"] == json.loads((job.cwd / "run/job.json").read_text())["digest"]


@pytest.mark.mpi
@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_a_host_that_dies_takes_the_job_along(hosts: Hosts, job: RunningJob) -> None:
    for pid in hosts.hosts[1].processes():
        os.kill(pid, signal.SIGKILL)
    assert job.finish().code != 0
    poll_until(lambda: not job.processes(), 60, "all processes to end")


@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_a_cut_link_ends_both_sides(hosts: Hosts, start_mvpnet, short_dir: Path) -> None:
    job = started(hosts, start_mvpnet, short_dir, "job.heartbeat_timeout_s=8")
    hosts.hosts[1].cut()
    job.wait_for("2 ranks on host2 not heard of for 8 s: a link is cut, or a host is gone; the job is given up")

    def ours() -> list[str]:
        """All but what MPI's launcher has started for itself; that has mvpnet's command line in its own."""
        commands = [process.command for process in job.processes()]
        return [one for one in commands if "mpiexec" not in one and "hydra" not in one and "orted" not in one]

    poll_until(lambda: not ours(), 60, "ranks and guests to end on both hosts")
    assert json.loads((job.cwd / "run/result.json").read_text())["exit_code"] == 5
    job.close()  # mpiexec itself waits for the other host for as long as TCP does


@pytest.mark.boot
@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_an_app_in_guests_of_both_hosts(hosts: Hosts, sshd: None, start_mvpnet, short_dir: Path) -> None:
    """Real guests: they answer each other's pings, and rank 0 logs in to those of the other host through it."""
    answers = "for name in $(cat /etc/hosts.mpi); do ping -c 1 -w 30 $name || exit; done; hostname > here"
    job = start_mvpnet(
        *("vm.accel=tcg", "vm.memory=256M", "hydra.run.dir=run", "boot.timeout_s=240"),
        *("app=guest", "app.on=all", f"app.command=[sh, -c, '{answers}']", "app.collect=[here]"),
        program=[*hosts.mpiexec, "-n", "3", sys.executable, "-m", "mvpnet"],
        ranks=None,
    )
    done = job.finish(280)
    assert done.code == 0, done
    assert json.loads((job.cwd / "run/job.json").read_text())["hosts"] == ["host1", "host1", "host2"]
    for rank in range(3):
        assert (job.cwd / f"run/rank-{rank:04d}/collected/here").read_text() == f"n{rank:04d}\n"


@pytest.mark.mpi
@pytest.mark.parametrize("hosts", [2], indirect=True)
def test_hands_on_a_guest_of_another_host(hosts: Hosts, job: RunningJob) -> None:
    ranks = json.loads(said("status", "--json"))["ranks"]
    assert {rank["host"] for rank in ranks} == {"host1", "host2"} and all(rank["answers"] for rank in ranks)
    there = next(rank["name"] for rank in ranks if rank["host"] == "host2")
    assert said("console", there, stdin="typed from afar\n").endswith("login: typed from afar\n")
    assert json.loads(said("monitor", there, "query-status")) == {"status": "running", "running": True}
    assert ended(job).code in codes_after_signal(0)
