"""The stand-in for qemu does on its link, console and ssh port what the other tests count on."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from waiting import PATIENCE_S, eventually

STANDIN = Path(__file__).parent / "standin.py"
MAC_3, MAC_7 = bytes.fromhex("525500000003"), bytes.fromhex("525500000007")
PING = MAC_3 + MAC_7 + b"\x88\xb5\x04" + b"payload" * 7
PONG = MAC_7 + MAC_3 + b"\x88\xb5\x05" + b"payload" * 7
DEVICE = ("-device", "virtio-net-pci,netdev=mvpnet,mac=52:55:00:00:00:03")

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str, behaviour: str = "normal", fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        env = {**os.environ, "STANDIN_BEHAVIOUR": behaviour, "STANDIN_DIR": str(tmp_path)}
        pipe = subprocess.PIPE
        running.append(subprocess.Popen([STANDIN, *argv], stdin=pipe, stderr=pipe, env=env, pass_fds=fds))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        with process:  # closes its pipes and waits for it
            pass


@pytest.fixture(params=["stream", "dgram"])
def link(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, int, str]]:
    """Our end of a link, the stand-in's descriptor, and its -netdev."""
    stream = request.param == "stream"
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    ours.settimeout(PATIENCE_S)
    with ours, its:
        end = "addr" if stream else "local"
        yield ours, its.fileno(), f"{request.param},id=mvpnet,{end}.type=fd,{end}.str={its.fileno()}"


def on_the_wire(link: socket.socket, frame: bytes) -> bytes:
    return struct.pack("!I", len(frame)) + frame if link.type == socket.SOCK_STREAM else frame


def test_it_answers_pings_and_notes_what_came(start, link, tmp_path):
    ours, fd, netdev = link
    start("-netdev", netdev, *DEVICE, behaviour="0:die,3:answer", fds=(fd,))
    ours.sendall(on_the_wire(ours, PING))
    assert ours.recv(4096) == on_the_wire(ours, PONG)
    ours.sendall(on_the_wire(ours, PONG))
    eventually(lambda: (tmp_path / "received.3").read_text() == f"{PING.hex()}\n{PONG.hex()}\n")


def test_it_sends_what_it_is_given(start, link, tmp_path):
    ours, fd, netdev = link
    start("-netdev", netdev, *DEVICE, fds=(fd,))
    (tmp_path / "new").write_text(f"{PING.hex()}\n")
    (tmp_path / "new").rename(tmp_path / "send.3")
    assert ours.recv(4096) == on_the_wire(ours, PING)
    eventually(lambda: not (tmp_path / "send.3").exists())


def test_links_by_path(start, short_dir):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(short_dir / "rank"))
        ours.settimeout(PATIENCE_S)
        paths = f"local.type=unix,local.path={short_dir}/qemu,remote.type=unix,remote.path={short_dir}/rank"
        start("-netdev", f"dgram,id=mvpnet,{paths}", *DEVICE, behaviour="answer")
        eventually((short_dir / "qemu").exists)
        ours.sendto(PING, str(short_dir / "qemu"))
        assert ours.recv(4096) == PONG
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_dir / "stream"))
        server.listen()
        server.settimeout(PATIENCE_S)
        start("-netdev", f"stream,id=mvpnet,addr.type=unix,addr.path={short_dir}/stream", *DEVICE, behaviour="answer")
        connection, _ = server.accept()
        with connection:
            connection.sendall(on_the_wire(connection, PING))
            assert connection.recv(4096) == on_the_wire(connection, PONG)


def test_its_console(start, short_dir):
    chardev = f"socket,id=console,path={short_dir}/c,server=on,wait=off,logfile={short_dir}/console.log,logappend=on"
    start("-chardev", chardev, "-serial", "chardev:console", *DEVICE)
    eventually((short_dir / "c").exists)
    assert (short_dir / "console.log").read_text().endswith("n0003 login: ")
    with socket.socket(socket.AF_UNIX) as console, console.makefile("rb") as heard:
        console.settimeout(PATIENCE_S)
        eventually(lambda: console.connect_ex(str(short_dir / "c")) == 0)
        console.sendall(b"root\n")
        assert heard.readline() == b"Linux 6.1 booting\n"
        assert heard.readline() == b"n0003 login: root\n"


def test_it_leaves_at_the_end_of_its_input_when_told_to(start):
    process = start(behaviour="eof-exit")
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0


def test_it_fails_as_qemu_does_when_the_ssh_port_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start("-netdev", f"user,id=usernet,hostfwd=tcp:127.0.0.1:{port}-:22")
        assert process.wait(PATIENCE_S) == 1
    assert f"Could not set up host forwarding rule 'tcp:127.0.0.1:{port}-:22'" in process.stderr.read().decode()


def test_it_says_a_version():
    done = subprocess.run([STANDIN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("QEMU emulator version 7.2.0")
