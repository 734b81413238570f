"""Jumbo frames between real guests: net.mtu reaches them by itself, and packets of that size arrive in one piece."""

from __future__ import annotations

import hashlib
import json

import pytest

from boot.test_guests import ssh, stopped, up
from support import RunningJob

pytestmark = pytest.mark.timeout(400)

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


def counters(job: RunningJob) -> list[dict]:
    return json.loads((job.cwd / "run/stats.json").read_text())["ranks"]


def transferred(job: RunningJob) -> str:
    """Send TRANSFER from guest 0 to guest 1; its digest there."""
    text = LINE.decode().strip()
    return ssh(job, 0, f"yes {text} | head -c {len(TRANSFER)} | ssh n0001 sha256sum").split()[0]


def ended(job: RunningJob) -> None:
    stopped(job)
    for rank in counters(job):
        assert rank["frames_above_mtu"] == 0
        assert not {"too_long", "guest_full", "peer_full"} & rank["drops"].keys(), rank


@pytest.mark.parametrize("net", ["stream", "dgram"])
@pytest.mark.parametrize("mtu", [9000, 65521])
def test_the_mtu_reaches_the_guests_and_holds(start_mvpnet, net: str, mtu: int) -> None:
    job = up(start_mvpnet, 2, f"net={net}", f"net.mtu={mtu}")
    for rank in range(2):
        assert ssh(job, rank, f"cat /sys/class/net/{CARD}/mtu").strip() == str(mtu)
    assert "3 packets received" in ping(job, mtu)
    assert [fragments(job, rank) for rank in range(2)] == [0, 0]

    assert transferred(job) == hashlib.sha256(TRANSFER).hexdigest()
    ended(job)


def test_frames_above_the_mtu_are_counted_and_travel(start_mvpnet) -> None:
    """With the usual MTU of 1500 nothing keeps a guest from setting a larger one by hand."""
    job = up(start_mvpnet, 2)
    for rank in range(2):
        ssh(job, rank, f"ip link set dev {CARD} mtu 9000")
    assert "3 packets received" in ping(job, 8000)
    assert fragments(job, 0) == 0
    stopped(job)
    assert [rank["frames_above_mtu"] for rank in counters(job)] == [3, 3]
