"""The sharing of a console, against a socket such as qemu's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvpnet.control.console import UNTAKEN_BYTES, Console, joined, recent
from mvpnet.control.protocol import TYPED_AHEAD_BYTES, Message, data_in
from mvpnet.runtime.loop import Loop
from waiting import run_until


class Bench:
    """A console, a loop, what its clients were sent, and qemu's end."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.log = folder / "console.log"
        self.sent: dict[int, list[Message]] = {}
        self.qemu = socket.socket(socket.AF_UNIX)
        self.qemu.bind(str(folder / "console.sock"))
        self.qemu.listen(1)
        self.qemu.settimeout(30)
        self.console = Console(self.loop, folder / "console.sock", self.log, self._send)

    def _send(self, number: int, message: Message) -> None:
        self.sent.setdefault(number, []).append(message)

    def shown(self, number: int) -> bytes:
        return b"".join(data_in(message) for message in self.sent.get(number, []) if "data" in message)

    def ends(self, number: int) -> list[str]:
        return [message["end"] for message in self.sent.get(number, []) if "end" in message]

    def typed(self, number: int) -> int:
        return sum(message.get("typed", 0) for message in self.sent.get(number, []))

    def attach(self, number: int) -> socket.socket:
        """Attach a first client, and see it through; qemu's end of the connection."""
        assert self.console.attach(number) is None
        connection, _ = self.qemu.accept()
        connection.settimeout(30)
        return connection

    def wait(self, predicate) -> None:
        run_until(self.loop, predicate)


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    bench = Bench(short_dir)
    yield bench
    bench.console.close("the test is over")
    bench.qemu.close()


def test_recent_output_comes_first_and_nothing_twice(bench: Bench) -> None:
    bench.log.write_bytes(b"".join(b"old %d\n" % number for number in range(100)) + b"login: ")
    with bench.attach(1) as connection:
        connection.sendall(b"login: fast")  # qemu writes it to us first, and then to its log
        bench.wait(lambda: bench.shown(1).endswith(b"fast"))
        assert bench.shown(1) == b"".join(b"old %d\n" % number for number in range(77, 100)) + b"login: fast"
        connection.sendall(b" and more")
        bench.wait(lambda: bench.shown(1).endswith(b"login: fast and more"))


def test_all_see_all_and_all_may_type(bench: Bench) -> None:
    bench.log.write_bytes(b"login: ")
    with bench.attach(1) as connection:
        bench.wait(lambda: bench.shown(1))
        assert bench.console.attach(2) is None
        assert bench.console.count == 2
        bench.wait(lambda: bench.shown(2) == b"login: ")
        bench.console.type(1, b"ro")
        bench.console.type(2, b"ot\r")
        assert connection.recv(100) == b"root\r"
        assert (bench.typed(1), bench.typed(2)) == (2, 3)
        connection.sendall(b"Password:")
        bench.wait(lambda: bench.shown(1).endswith(b"Password:") and bench.shown(2).endswith(b"Password:"))
        bench.console.leave(1)
        connection.sendall(b"!")
        bench.wait(lambda: bench.shown(2).endswith(b"!"))
        assert not bench.shown(1).endswith(b"!")
        bench.console.leave(2)
        assert connection.recv(1) == b"", "with the last one the connection ends"
    bench.console.type(2, b"too late")
    bench.console.took(2, 1)
    bench.console.leave(2)


def test_a_client_that_is_behind_loses_output_and_holds_up_nobody(bench: Bench) -> None:
    bench.log.write_bytes(b"login: ")
    with bench.attach(1) as connection:
        assert bench.console.attach(2) is None
        bench.wait(lambda: bench.shown(1) and bench.shown(2))
        for _ in range(3 * UNTAKEN_BYTES // 8192):
            connection.sendall(bytes(8192))
            size = len(bench.shown(2))
            bench.wait(lambda size=size: len(bench.shown(2)) == size + 8192)
            bench.console.took(2, len(bench.shown(2)) - size)
        kept = len(bench.shown(1))
        assert UNTAKEN_BYTES - 8192 <= kept <= UNTAKEN_BYTES
        bench.console.took(1, kept)
        connection.sendall(b"after")
        bench.wait(lambda: bench.shown(1).endswith(b"after"))
        assert {"lost": len(b"login: ") + 3 * UNTAKEN_BYTES - kept} in bench.sent[1]
        assert not any("lost" in message for message in bench.sent[2])


def test_what_is_typed_waits_for_a_guest_that_is_slow_but_not_without_bound(bench: Bench) -> None:
    with bench.attach(1) as connection:
        given = 0
        while bench.typed(1) == given:  # until qemu takes no more
            bench.console.type(1, bytes(TYPED_AHEAD_BYTES))
            given += TYPED_AHEAD_BYTES
        taken = 0
        while taken < given:
            taken += len(connection.recv(1 << 20))
            bench.wait(lambda: bench.typed(1) == given or connection.recv(1, socket.MSG_PEEK))
        assert bench.typed(1) == given
        connection.sendall(b"echo")  # and output goes on
        bench.wait(lambda: bench.shown(1) == b"echo")
        while not bench.ends(1):
            bench.console.type(1, bytes(TYPED_AHEAD_BYTES))
        assert bench.ends(1) == ["more was typed than the guest takes"]


def test_the_end_of_the_guest_is_the_end_for_all(bench: Bench) -> None:
    connection = bench.attach(1)
    assert bench.console.attach(2) is None
    connection.close()
    bench.wait(lambda: bench.ends(1) and bench.ends(2))
    assert bench.ends(1) == ["the guest's console was closed"]
    assert bench.console.count == 0


def test_a_console_that_is_not_there_or_not_free(bench: Bench, short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for elsewhere in (one, other):  # the backlog of 1 is full with two, as Linux counts
            elsewhere.connect(str(short_dir / "console.sock"))
        assert "in use by other programs" in (bench.console.attach(1) or "")
    bench.qemu.close()
    assert "has no console now" in (bench.console.attach(1) or "")
    assert bench.console.count == 0


def test_joined_and_recent(tmp_path: Path) -> None:
    assert joined(b"abc login: ", b"login: x") == b"abc login: x"
    assert joined(b"abc", b"xyz") == b"abcxyz"
    assert joined(b"", b"xyz") == b"xyz"
    assert joined(b"abc", b"") == b"abc"
    assert recent(None) == recent(tmp_path / "missing") == b""
    (tmp_path / "log").write_bytes(b"x" * 100_000 + b"\nlast")
    assert len(recent(tmp_path / "log")) == 16 * 1024
