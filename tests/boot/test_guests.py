"""Real guests in a real job: they come up with their names and addresses, reach each other, and leave nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path

import pytest

from control.verbs import said
from support import Finished, RunningJob, poll_until

pytestmark = pytest.mark.timeout(400)

SMALL = ["vm=small", "vm.accel=tcg", "boot.timeout_s=240", "hydra.run.dir=run"]


def ssh(job: RunningJob, rank: int, script: str, *, last_words: bool = False, config: str = "run/ssh_config") -> str:
    """What a shell script prints on a guest; AssertionError with all it said when it fails.

    `last_words` may cut off their own connection.
    """
    command = ["ssh", "-F", config, f"n{rank:04d}", script]
    done = subprocess.run(command, cwd=job.cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 or last_words, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def answers(job: RunningJob, rank: int, *scripts: str) -> list[str]:
    """What each of these scripts prints on a guest, by one login: under TCG a login takes longer than most of them."""
    mark = "--- next answer ---\n"
    together = "\n".join(f"( {script}\n) || exit\necho '{mark[:-1]}'" for script in scripts)
    *said, rest = ssh(job, rank, together).split(mark)
    assert rest == "" and len(said) == len(scripts), said
    return said


def up(start_mvpnet, ranks: int, *options: str) -> RunningJob:
    job = start_mvpnet(*SMALL, *options, ranks=ranks)
    job.wait_for(f"{ranks}/{ranks} guests up", 300)
    return job


def nothing_left(job: RunningJob) -> None:
    assert not list(job.scratch.iterdir()), "the scratch folder is not empty"
    poll_until(lambda: not job.processes(), 30, "all processes to end")


def verdict(job: RunningJob) -> dict:
    return json.loads((job.cwd / "run/job.json").read_text())["verdict"]


def stopped(job: RunningJob, *, by_verb: bool = False) -> Finished:
    """End a job by a SIGTERM to mpiexec, or by `mvpnet stop`: Open MPI's mpirun kills its ranks soon after a signal."""
    if by_verb:
        said("stop")
    else:
        job.signal(signal.SIGTERM)
    end = job.finish(120)
    nothing_left(job)
    return end


CARD = "$(grep -l ^52:55: /sys/class/net/*/address | cut -d/ -f5)"  # the guest's mvpnet card
LINE = b"0123456789abcdef\n"
TRANSFER = LINE * (16 * 2**20 // len(LINE))
PING_HEADERS = 20 + 8  # IPv4 and ICMP, part of what an MTU limits


def fragments(job: RunningJob, rank: int) -> int:
    """How many fragments a guest has made or put together so far (RFC 4293: FragCreates, ReasmReqds)."""
    names, values = (line.split()[1:] for line in ssh(job, rank, "grep ^Ip: /proc/net/snmp").splitlines())
    counts = dict(zip(names, map(int, values), strict=True))
    return counts["FragCreates"] + counts["ReasmReqds"]


def ping(job: RunningJob, packet_bytes: int) -> str:
    return ssh(job, 0, f"ping -c 3 -W 30 -s {packet_bytes - PING_HEADERS} n0001")


def transferred(job: RunningJob) -> str:
    """Send TRANSFER from guest 0 to guest 1; its digest there."""
    text = LINE.decode().strip()
    return ssh(job, 0, f"yes {text} | head -c {len(TRANSFER)} | ssh n0001 sha256sum").split()[0]


def they_know_and_reach_each_other(job: RunningJob, mtu: int) -> None:
    """Two guests: net.mtu has reached them by itself, and packets of that size arrive in one piece."""
    for rank in range(2):
        other = f"n{1 - rank:04d}"
        own_name, addresses, hosts, names, pinged, logged_in, own_mtu = answers(
            job,
            rank,
            "hostname",
            "ip addr",
            "cat /etc/hosts",
            "cat /etc/hosts.mpi",
            f"ping -c 3 {other}",
            f"ssh {other} hostname",  # from guest to guest as root, without a password or a question
            f"cat /sys/class/net/{CARD}/mtu",
        )
        assert own_name.strip() == f"n{rank:04d}"
        assert f"10.0.0.{rank + 1}/8" in addresses
        assert f"10.0.0.{2 - rank} {other}" in hosts
        assert names.split() == ["n0000", "n0001"]
        assert "3 packets received" in pinged
        assert logged_in.strip() == other
        assert own_mtu.strip() == str(mtu)
    there = ssh(job, 0, "head -c 2000000 /dev/urandom > /tmp/x; ssh n0001 'cat > /tmp/x' < /tmp/x; sha256sum < /tmp/x")
    assert ssh(job, 1, "sha256sum < /tmp/x") == there
    assert "3 packets received" in ping(job, mtu)
    assert [fragments(job, rank) for rank in range(2)] == [0, 0]
    assert transferred(job) == hashlib.sha256(TRANSFER).hexdigest()


def their_frames_were_carried(job: RunningJob) -> None:
    """What the records of such a job have to say."""
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert stats["traffic_bytes"]["0"]["1"] > 2_000_000
    assert all(not any(reason in rank["drops"] for reason in ("forged", "source_not_own")) for rank in stats["ranks"])
    for rank in range(2):
        assert (job.cwd / f"run/rank-{rank:04d}/console.log").stat().st_size > 0
    for rank in stats["ranks"]:
        assert rank["frames_above_mtu"] == 0
        assert not {"too_long", "guest_full", "peer_full"} & rank["drops"].keys(), rank


@pytest.mark.parametrize(
    ("net", "mtu"),
    [pytest.param("dgram", 9000, marks=pytest.mark.mpi), ("stream", 65521), ("dgram", 65521)],
)
def test_two_guests_know_and_reach_each_other_and_the_mtu_holds(start_mvpnet, net: str, mtu: int) -> None:
    job = up(start_mvpnet, 2, f"net={net}", f"net.mtu={mtu}")
    they_know_and_reach_each_other(job, mtu)
    assert stopped(job, by_verb=True).code == 0
    their_frames_were_carried(job)


def test_streams_by_path_and_a_job_that_ends_when_every_guest_has_powered_off(start_mvpnet) -> None:
    job = up(start_mvpnet, 2, "net=stream", "net.socket=path", "net.socket_dir=/tmp", "net.mtu=9000")
    they_know_and_reach_each_other(job, 9000)
    ssh(job, 1, "poweroff", last_words=True)
    poll_until(lambda: len(job.processes("qemu-system")) == 2, 60, "guest 1 to be gone")  # one qemu, one monwrap
    assert job.process.poll() is None, "one guest that leaves does not end the job"
    assert ssh(job, 0, "hostname").strip() == "n0000"
    ssh(job, 0, "poweroff", last_words=True)
    end = job.finish(120)
    assert end.code == 0, end
    assert verdict(job)["how"] == "every guest is gone"
    guests = json.loads((job.cwd / "run/job.json").read_text())["guests"]
    assert [guest["how"] for guest in guests] == ["powered_off", "powered_off"]
    nothing_left(job)
    their_frames_were_carried(job)


def test_frames_above_the_mtu_are_counted_and_travel(resume_guests) -> None:
    """With the usual MTU of 1500 nothing keeps a guest from setting a larger one by hand."""
    job = resume_guests(2)
    for rank in range(2):
        ssh(job, rank, f"ip link set dev {CARD} mtu 9000")
    assert "3 packets received" in ping(job, 8000)
    assert fragments(job, 0) == 0
    stopped(job)
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert [rank["frames_above_mtu"] for rank in stats["ranks"]] == [3, 3]


def test_a_virtual_address_moves_to_another_guest(resume_guests) -> None:
    """One of another network, and one of 10/8 that no rank has: its holder is found, and announces itself."""
    job = resume_guests(2)
    virtual = ("192.168.77.5", "10.200.0.7")
    ssh(job, 1, f"ip address add 192.168.77.1/24 dev {CARD}")
    for holder, other in ((0, 1), (1, 0)):
        ssh(job, holder, "; ".join(f"ip address add {address}/24 dev {CARD}" for address in virtual))
        ssh(job, holder, " && ".join(f"arping -U -c 1 -I {CARD} {address}" for address in virtual))
        ask = "ping -c 1 -W 10 {0} >/dev/null; ip neigh show {0}"
        for found in answers(job, other, *(ask.format(address) for address in virtual)):
            assert f"52:55:00:00:00:0{holder}" in found
        ssh(job, holder, "; ".join(f"ip address del {address}/24 dev {CARD}" for address in virtual))
        ssh(job, holder, f"ip address add 192.168.77.2/24 dev {CARD}")
    stopped(job)
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert not any("arp_forged" in rank["drops"] for rank in stats["ranks"])


def test_four_guests_by_paths_and_a_guest_that_asks_for_the_shutdown_address(start_mvpnet, short_dir: Path) -> None:
    sockets = short_dir / "sockets"
    sockets.mkdir()
    job = up(start_mvpnet, 4, "net=dgram", "net.socket=path", f"net.socket_dir={sockets}", "job.name=four")
    assert {path.name for path in sockets.iterdir()} == {
        f"mvp.four.{rank}.{end}" for rank in range(4) for end in ("qo-rsock", "qi-lsock")
    }
    for rank in range(4):
        others = " ".join(f"n{other:04d}" for other in range(4) if other != rank)
        ssh(job, rank, f"for host in {others}; do ping -c 1 $host || exit 1; done")
    ssh(job, 2, "mvpnet-shutdown", last_words=True)
    end = job.finish(120)
    assert end.code == 0, end
    assert "n0002 asked for the shutdown address" in verdict(job)["how"]
    assert list(sockets.iterdir()) == []
    sockets.rmdir()
    nothing_left(job)
