"""The boot probe against real servers that behave as a guest does while it boots."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mvpnet.guest.ssh_probe import PREAMBLE_BYTES, BootProbe, ssh_banner
from mvpnet.runtime.loop import Loop
from waiting import run_until

Serve = Callable[[int, socket.socket], None]  # number of the connection, from 0, and the connection


class Server:
    """Answers each connection with `serve`."""

    def __init__(self, serve: Serve, port: int = 0) -> None:
        self.connections: list[socket.socket] = []
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            with suppress(OSError):  # the probe has heard enough
                self._serve(len(self.connections) - 1, connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(serve: Serve, port: int = 0) -> Server:
        servers.append(Server(serve, port))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def probe() -> Iterator[Callable[..., tuple[Loop, BootProbe, list[str]]]]:
    """A started probe, its loop, and the banners that it reported."""
    probes: list[BootProbe] = []

    def start(port: int, **how: float) -> tuple[Loop, BootProbe, list[str]]:
        loop, banners = Loop(), []
        probes.append(BootProbe(loop, port, banners.append, **how))
        probes[-1].start()
        return loop, probes[-1], banners

    yield start
    for each in probes:
        each.cancel()


def hang_up(connection: socket.socket) -> None:
    """With a reset, as qemu's user network does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_reports_the_banner(server, probe):
    port = server(lambda _, connection: connection.sendall(b"SSH-2.0-dropbear_2022.83\r\n")).port
    loop, _, banners = probe(port)
    run_until(loop, lambda: banners)
    assert banners == ["SSH-2.0-dropbear_2022.83"]


def test_tries_again_while_nobody_listens(server, probe, free_port):
    loop, _, banners = probe(free_port)
    loop.call_later(0.3, lambda: server(lambda _, connection: connection.sendall(b"SSH-2.0-late\n"), free_port))
    run_until(loop, lambda: banners)
    assert banners == ["SSH-2.0-late"]


def test_tries_again_when_hung_up_on(server, probe):
    def serve(number: int, connection: socket.socket) -> None:
        hang_up(connection) if number < 2 else connection.sendall(b"SSH-2.0-third\n")

    loop, _, banners = probe(server(serve).port)
    run_until(loop, lambda: banners)
    assert banners == ["SSH-2.0-third"]


def test_a_try_that_hangs_does_not_hold_up_the_next(server, probe):
    def serve(number: int, connection: socket.socket) -> None:
        if number > 0:
            connection.sendall(b"SSH-2.0-second\n")

    loop, _, banners = probe(server(serve).port, try_s=3600.0)
    run_until(loop, lambda: banners)
    assert banners == ["SSH-2.0-second"]


def test_a_try_ends_after_its_time(server, probe):
    listening = server(lambda number, connection: None)
    loop, _, banners = probe(listening.port, try_s=0.05)

    def first_was_closed() -> bool:
        return bool(listening.connections) and listening.connections[0].recv(1) == b""

    run_until(loop, lambda: len(listening.connections) == 3)
    assert first_was_closed()
    assert banners == []


def test_a_server_that_is_no_ssh_is_not_up(server, probe):
    replies = [b"HTTP/1.0 400 Bad Request\r\n", b"SSH-2.0 without an end of line", b"x" * (2 * PREAMBLE_BYTES)]

    def serve(number: int, connection: socket.socket) -> None:
        connection.sendall(replies[number] if number < len(replies) else b"SSH-2.0-at-last\n")
        connection.shutdown(socket.SHUT_WR)

    loop, _, banners = probe(server(serve).port)
    run_until(loop, lambda: banners)
    assert banners == ["SSH-2.0-at-last"]


def test_reports_once(server, probe):
    listening = server(lambda _, connection: connection.sendall(b"SSH-2.0-again\n"))
    loop, _, banners = probe(listening.port)
    run_until(loop, lambda: banners)
    loop.call_later(0.6, loop.stop)  # more than the first two pauses
    loop.run()
    assert (banners, len(listening.connections)) == (["SSH-2.0-again"], 1)


def test_cancelled_it_lets_go_of_everything(server, probe):
    listening = server(lambda number, connection: None)
    loop, begun, banners = probe(listening.port)
    run_until(loop, lambda: len(listening.connections) == 2)
    begun.cancel()
    begun.cancel()
    for connection in listening.connections:
        assert connection.recv(1) == b""
    loop.call_later(0.5, loop.stop)
    loop.run()
    assert (banners, len(listening.connections)) == ([], 2)


@pytest.mark.parametrize(
    ("heard", "banner"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH-2.0-OpenSSH_9.2p1 Debian-2"),
        (b"welcome\r\nSSH-2.0-x\n", "SSH-2.0-x"),
        (b"SSH-2.0-x", None),
        (b"not SSH-2.0\n", None),
        (b"", None),
        (b"SSH-2.0-\xff\n", "SSH-2.0-�"),
    ],
)
def test_ssh_banner(heard, banner):
    assert ssh_banner(heard) == banner
