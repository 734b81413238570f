"""Rank 0's control socket with real clients, in a world of two ranks that share one loop."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mvpnet.control import server as server_module
from mvpnet.control.agent import PART_CHARACTERS, ControlAgent
from mvpnet.control.client import Connection, ask
from mvpnet.control.console import Console
from mvpnet.control.protocol import MAX_LINE_BYTES, PROTOCOL, Lines, peer_of
from mvpnet.control.rank_messages import (
    ConsoleOutput,
    ControlReply,
    ControlRequest,
    RankReply,
    RankRequest,
    StatusRequest,
)
from mvpnet.control.registry import ANSWERING, ENDING, PREPARING, Registration, RegistryEntry, find_jobs, register_job
from mvpnet.control.server import Server, may_ask
from mvpnet.errors import GuestError, JobError
from mvpnet.job.messages import decode, encode
from mvpnet.runtime.loop import Loop
from mvpnet.snapshot.agent import SnapshotAgent
from waiting import run_until

LONG = "x" * 5 * PART_CHARACTERS + '"\\ü'


class Machine:
    """A guest's qemu that answers at once, or never."""

    def qmp(self, command: Mapping[str, Any], on_reply: Callable[[dict[str, Any]], None]) -> None:
        match command["execute"]:
            case "long":
                on_reply({"return": LONG})
            case "fail":
                on_reply({"error": {"class": "GenericError", "desc": "cannot"}})


class Bench:
    def __init__(self, folder: Path, registration: Registration) -> None:
        self.loop = Loop()
        self.registration = registration
        self.ending = False
        self.silent: int | None = None  # a rank that hears nothing
        self.server = Server(self.loop, registration.socket, 2, tell=self._tell, overview=lambda: {"phase": "running"})
        consoles = [
            Console(self.loop, folder / f"console.{rank}", None, lambda n, told: self._hear(n, ConsoleOutput(told)))
            for rank in range(2)
        ]
        self.agents = [
            ControlAgent(
                machine=Machine,
                facts=lambda r=rank: {"state": f"state {r}"},
                console=console,
                save_agent=SnapshotAgent(self.loop, Machine, None),  # nothing is saved here
                tell=self._hear,
            )
            for rank, console in enumerate(consoles)
        ]

    def _tell(self, rank: int, number: int, request: RankRequest) -> bool:
        payload = encode(ControlRequest(number, request))
        assert len(payload) < 64 * 1024
        if rank != self.silent:
            self.loop.call_later(0.0, lambda: self.agents[rank].hear(number, decode(payload).what))
        return not self.ending

    def _hear(self, number: int, reply: RankReply) -> None:
        payload = encode(ControlReply(number, reply))
        assert len(payload) < 64 * 1024
        self.loop.call_later(0.0, lambda: self.server.heard(number, decode(payload).what))

    def asked(self, request: dict[str, Any]) -> Any:
        """The answer to a request, or the error; while it is on its way the loop runs."""
        (job,) = find_jobs()
        outcome: list[Any] = []

        def client() -> None:
            try:
                outcome.append(ask(job, request))
            except (JobError, GuestError) as error:
                outcome.append(error)

        thread = threading.Thread(target=client)
        thread.start()
        run_until(self.loop, lambda: outcome)
        thread.join()
        return outcome[0]


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    with register_job(RegistryEntry("job", os.getpid(), 2, "/run", str(short_dir)), pytest.fail) as registration:
        assert registration
        registration.enter(ANSWERING)
        bench = Bench(short_dir, registration)
        yield bench
        bench.server.close()


def test_status_asks_all_ranks(bench: Bench) -> None:
    assert bench.asked({"do": "status"}) == {
        "phase": "running",
        "ranks": [{"ok": {"state": "state 0"}}, {"ok": {"state": "state 1"}}],
    }
    assert bench.asked({"do": "job"}) == {"phase": "running"}


def test_a_long_answer_comes_whole(bench: Bench) -> None:
    assert bench.asked({"do": "qmp", "rank": 1, "command": {"execute": "long"}}) == LONG


@pytest.mark.parametrize(
    ("request_", "kind", "problem"),
    [
        ({"do": "qmp", "rank": 1, "command": {"execute": "fail"}}, GuestError, "n0001: cannot"),
        ({"do": "console", "rank": 1}, GuestError, "n0001: it has no console now"),
        ({"do": "qmp", "rank": 2, "command": {"execute": "long"}}, JobError, "this job has ranks 0 to 1"),
        ({"do": "qmp", "rank": "1", "command": {"execute": "long"}}, JobError, "there is no rank 1"),
        ({"do": "qmp", "rank": 1, "command": {"execute": "x", "arguments": []}}, JobError, "this is no request"),
        ({"do": "qmp", "rank": 1, "command": "x"}, JobError, "this is no request"),
        (
            {"do": "qmp", "rank": 1, "command": {"execute": "x", "arguments": {"a": [[]] * 200}}},
            JobError,
            "200 brackets",
        ),
        ({"do": "qmp"}, JobError, "this is no request"),
        ({"do": "x" * MAX_LINE_BYTES}, JobError, f"a line of more than {MAX_LINE_BYTES} bytes"),
        ({"do": None}, JobError, "knows no request None"),
    ],
)
def test_what_is_refused(bench: Bench, request_: dict[str, Any], kind: type, problem: str) -> None:
    error = bench.asked(request_)
    assert type(error) is kind
    assert problem in str(error)
    assert bench.asked({"do": "job"}) == {"phase": "running"}, "and the job goes on"


@pytest.mark.parametrize(
    "line", [b"\n", b"no JSON\n", b"[" * 30_000 + b"\n", b"[]\n", b"\xff\xfe\n", b"{}\n", b'{"protocol": 1}\n']
)
def test_what_is_no_request_ends_the_connection(bench: Bench, line: bytes) -> None:
    (job,) = find_jobs()
    with job.connect() as connection:
        connection.sendall(line)
        connection.setblocking(False)
        got = bytearray()

        def ended() -> bool:
            try:
                data = connection.recv(65536)
            except BlockingIOError:
                return False
            got.extend(data)
            return not data

        run_until(bench.loop, ended)
        assert b"this is no request" in got


def test_a_rank_that_does_not_answer_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_S", 0.2)
    error = bench.asked({"do": "qmp", "rank": 1, "command": {"execute": "never"}})
    assert isinstance(error, GuestError)
    assert "n0001 did not answer in 0.2 s" in str(error)
    bench.agents[1].hear(1, StatusRequest())  # too late; nobody waits for it any more
    assert bench.asked({"do": "job"}) == {"phase": "running"}


def test_ranks_that_answer_are_shown_without_one_that_does_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_S", 0.2)
    bench.silent = 1
    first, second = bench.asked({"do": "status"})["ranks"]
    assert first == {"ok": {"state": "state 0"}}
    assert "n0001 did not answer" in second["error"]["message"]


def test_a_job_that_ends_meanwhile(bench: Bench) -> None:
    bench.ending = True
    assert "the job is ending" in str(bench.asked({"do": "qmp", "rank": 1, "command": {"execute": "never"}}))


@pytest.mark.parametrize(("phase", "problem"), [(PREPARING, "not started yet"), (ENDING, "its guests are gone")])
def test_a_job_that_is_not_to_be_asked(bench: Bench, phase: str, problem: str) -> None:
    bench.registration.enter(phase)
    (job,) = find_jobs()
    with pytest.raises(JobError, match=problem):
        ask(job, {"do": "job"})


def test_a_socket_that_somebody_removed(bench: Bench) -> None:
    (job,) = find_jobs()
    (job.folder / "control.sock").unlink()
    with pytest.raises(JobError, match="cannot be reached: No such file"):
        Connection(job)


def test_the_kernel_tells_who_asks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.getuid())
    assert may_ask(os.getuid())
    assert not may_ask(os.getuid() + 1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_past_the_folders(bench: Bench, short_dir: Path) -> None:
    short_dir.chmod(0o755)
    path = short_dir / "open.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o777)
        listening.listen()
        listening.setblocking(False)
        server = Server(bench.loop, listening, 2, tell=lambda rank, message: True, overview=dict)
        told = {}
        for user in (0, 65534):
            with socket.socket(socket.AF_UNIX) as client:
                as_user(user, client, path)
                client.setblocking(False)
                told[user] = answer_to(bench.loop, client)
        server.close()
    assert told == {0: b'{"ok": {}}\n', 65534: b""}


def as_user(user: int, client: socket.socket, path: Path) -> None:
    """Connect as another user, and ask; the kernel notes at connect(2) who it was."""
    os.seteuid(user)
    try:
        client.connect(str(path))
    finally:
        os.seteuid(0)
    client.sendall(json.dumps({"protocol": PROTOCOL, "do": "job"}).encode() + b"\n")


def answer_to(loop: Loop, client: socket.socket) -> bytes:
    """One answer, or nothing where the connection ends."""
    got: list[bytes] = []

    def answered() -> bool:
        try:
            got.append(client.recv(100))
        except BlockingIOError:
            return False
        except ConnectionResetError:  # our request was not even read
            got.append(b"")
        return True

    run_until(loop, lambda: got or answered())
    return got[0]


def test_lines_are_cut_wherever_they_arrive() -> None:
    lines = Lines()
    assert lines.feed(b'{"a": 1}\n{"b"') == [{"a": 1}]
    assert lines.feed(b": 2}") == []
    assert lines.feed(b"\n") == [{"b": 2}]
