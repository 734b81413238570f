"""`mvpnet bench`: its guest alone at the end of a socket pair, then all of it under mpiexec."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mvpnet.bench.messages import Counted, Flood, Order, Ping, Pinged, ReportCounts, Reset, decode, encode
from mvpnet.bench.report import tables
from mvpnet.cli.bench import TUNING, tuned
from mvpnet.dataplane import address
from mvpnet.errors import ConfigError
from support import codes_after_signal, poll_until


class GuestOnALead:
    """The guest program of rank 1, with the test in its rank's place."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.link, link = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
        )
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with link, control:
            fds = (link.fileno(), control.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mvpnet.bench.guest", kind, "1", *map(str, fds)], pass_fds=fds
            )
        self.link.settimeout(30)
        self.control.settimeout(30)

    def tell(self, order: Order) -> None:
        self.control.send(encode(order))

    def answer(self) -> Any:
        return decode(self.control.recv(1 << 16))

    def ask(self, order: Order) -> Any:
        self.tell(order)
        return self.answer()

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.link.sendall(len(frame).to_bytes(4, "big") + frame if self.kind == "stream" else frame)

    def receive(self) -> bytes:
        if self.kind == "dgram":
            return self.link.recv(1 << 17)
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, count: int) -> bytes:
        data = self.link.recv(count, socket.MSG_WAITALL)
        assert len(data) == count
        return data

    def close(self) -> None:
        self.control.close()
        self.link.close()
        assert self.process.wait(30) == 0


@pytest.fixture(params=["stream", "dgram"])
def guest(request: pytest.FixtureRequest) -> Iterator[GuestOnALead]:
    guest = GuestOnALead(request.param)
    yield guest
    guest.close()


def frame(source: int, to: int, ethertype: bytes = b"\x88\xb5", size: int = 100) -> bytes:
    return (address.mac(to) + address.mac(source) + ethertype).ljust(size, b"\0")


def test_the_guest_counts_by_source_and_nothing_else(guest: GuestOnALead) -> None:
    assert guest.ask(ReportCounts()).frames == 0
    guest.send(*[frame(0, 1)] * 5, frame(2, 1), frame(2, 1, b"\x08\x00"), b"short")
    poll_until(lambda: guest.ask(ReportCounts()).frames == 6, 30, "six frames to be counted")
    assert guest.ask(ReportCounts()).sources == 2
    guest.ask(Reset())
    assert guest.ask(ReportCounts()) == Counted(0, 0, 0, 0.0)


def test_the_guest_sends_one_to_each(guest: GuestOnALead) -> None:
    assert guest.ask(Flood([0, 3], 80, 0)).sent == 2
    assert [guest.receive(), guest.receive()] == [frame(1, 0, size=80), frame(1, 3, size=80)]


def test_the_guest_floods_as_much_as_it_says(guest: GuestOnALead) -> None:
    guest.tell(Flood(None, 1514, 0.2))
    came = 0
    # the answer comes after the last frame, and perhaps when all frames have been read
    while guest.control not in (ready := select.select([guest.control, guest.link], [], [], 30)[0]):
        assert ready, "the guest neither sent nor answered"
        sent = guest.receive()
        assert sent[:6] == b"\xff" * 6 and len(sent) == 1514
        came += 1
    answer = guest.answer()
    guest.link.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while guest.receive():
            came += 1
    assert came == answer.sent > 1


def test_the_guest_sends_back_and_measures(guest: GuestOnALead) -> None:
    guest.send(frame(0, 1, b"\x88\xb6"))
    assert guest.receive() == frame(1, 0, b"\x88\xb6")
    guest.tell(Ping(0, 64, 0.05, 0.001))
    guest.control.setblocking(False)
    while True:
        try:
            answer = guest.answer()
            break
        except BlockingIOError:
            guest.link.settimeout(0.1)
            try:
                asked = guest.receive()
            except TimeoutError:
                continue
            guest.send(asked[6:12] + asked[:6] + asked[12:])
    assert answer.lost == 0 and answer.pings > 1
    assert 0 < answer.p50_us <= answer.p99_us <= answer.max_us


def test_unanswered_pings_are_lost(guest: GuestOnALead) -> None:
    answer = guest.ask(Ping(0, 64, 0.01, 0))
    assert answer == Pinged(1, 1, None, None, None)


def test_tuning_is_taken_by_its_keys() -> None:
    assert tuned(["net.credits=8", "net.busy_poll_us=0"]) == {"credits": 8, "busy_poll_us": 0}
    assert tuned(["net.compiled=false"]) == {"compiled": False}
    assert tuned(["net.spin_us=0", "net.patience_ms=5"]) == {"busy_poll_us": 0, "drop_timeout_ms": 5}  # old names
    assert {"chunk_bytes", "credits", "drop_timeout_ms", "max_spin_us"} <= set(TUNING)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("net.credits", "KEY=VALUE"),
        ("credits=8", "KEY=VALUE"),
        ("net.mtu=9000", "one of"),
        ("net.credits=0", "1 or more"),
        ("net.credits=many", "whole number"),
        ("net.spin_us=-1", "net.busy_poll_us is to be a whole number"),
    ],
)
def test_tuning_refused(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tuned([setting])


def test_a_table_says_what_was_not_measured() -> None:
    result = {"workload": "roundtrip", "link": "dgram", "from": 0, "to": 1, "gap_ms": 0.5, "pings": 2, "lost": 2}
    said = tables([{**result, "p50_us": None, "p99_us": None, "max_us": None}])
    assert "2 (100.0 %)" in said and "none" in said and "0.5 ms" in said


# ── under mpiexec ────────────────────────────────────────────────────────────────────────────────────────────────────

QUICK = ["--seconds", "0.2", "--size", "1514", "--gap", "0"]


@pytest.mark.mpi
def test_all_workloads_over_both_links(run_mvpnet) -> None:
    done = run_mvpnet("bench", "--json", *QUICK, "--link", "stream", "--link", "dgram", ranks=3)
    assert done.code == 0, done
    said = json.loads(done.stdout)
    assert said["ranks"] == 3 and len(said["hosts"]) == 3 and said["mpi"]
    found = {(result["link"], result["workload"]): result for result in said["results"]}
    assert len(found) == len(said["results"]) == 8
    for link in ("stream", "dgram"):
        flood, ping = found[link, "flood"], found[link, "roundtrip"]
        assert (flood["from"], flood["to"], flood["lost"]) == (0, 2, 0)
        assert flood["frames_per_s"] > 0 and flood["sent"] > 0
        assert ping["pings"] > 0 and ping["lost"] == 0
        every = found[link, "all-to-all"]
        assert every["pairs"] == every["pairs_reached"] == 6
        assert every["lost"] < every["sent"]
        assert found[link, "broadcast"]["most_lost"] < found[link, "broadcast"]["sent"]
    assert done.stderr.count("\n") == 8  # a line as each begins
    assert " 1/8  stream  flood of 1514-byte frames, n0000 to n0002" in done.stderr


def test_the_table_and_one_workload(run_mvpnet) -> None:
    done = run_mvpnet("bench", *QUICK, "--from", "1", "--to", "0", "--set", "net.credits=2", "flood", ranks=2)
    assert done.code == 0, done
    assert done.stdout.startswith("2 ranks on 1 host, ")
    assert "n0001 → n0000" in done.stdout and "1514 B" in done.stdout
    assert "roundtrip" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "ranks", "says"),
    [
        ([], 1, "bench measures between ranks, and there is one alone"),
        ([], None, "mpirun -n 2 mvpnet bench"),
        (["--to", "7"], 2, "--to 7: there are ranks 0 to 1"),
        (["--from", "1"], 2, "--from and --to are both rank 1"),
        (["flod"], 2, "'flod' is not one of"),
        (["--size", "3"], 2, "--size"),
        (["--set", "net.mtu=1"], 2, "--set net.mtu=1"),
        (["--set", "net.compiled=no"], 2, "net.compiled is to be true or false"),
    ],
)
def test_refusals_are_said_once(run_mvpnet, arguments: list[str], ranks: int | None, says: str) -> None:
    done = run_mvpnet("bench", *arguments, ranks=ranks)
    assert done.code == 2, done
    assert done.stderr.count(says) == 1, done
    assert done.stdout == ""


@pytest.mark.parametrize("ranks", [None, 2])
def test_help_is_said_once(run_mvpnet, ranks: int | None) -> None:
    done = run_mvpnet("bench", "--help", ranks=ranks)
    assert done.code == 0, done
    assert done.stdout.count("Usage: mvpnet bench") == 1


@pytest.mark.mpi
def test_a_signal_ends_it(start_mvpnet) -> None:
    job = start_mvpnet("bench", "--seconds", "60", "flood")
    job.wait_for("1/3")
    job.signal(signal.SIGTERM)
    done = job.finish(30)
    assert done.code in codes_after_signal(143) | {241}, done  # 241: Open MPI killed its ranks before they were done
    assert done.stdout == ""


def test_a_guest_that_dies_is_named(start_mvpnet) -> None:
    job = start_mvpnet("bench", "--seconds", "20", "flood")
    job.wait_for("1/3")
    guests = poll_until(lambda: job.processes("mvpnet.bench.guest stream 1"), 30, "rank 1's guest")
    guests[0].kill()
    done = job.finish(60)
    assert done.code == 3, done
    assert "mvpnet: n0001 on " in done.stderr and "the bench's guest has ended" in done.stderr
