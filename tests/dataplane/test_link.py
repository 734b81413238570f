"""Links, with the other end of a real socket in qemu's place."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from frames import frame, packed, unpacked
from hypothesis import given, settings
from hypothesis import strategies as st

from mvpnet.dataplane.frame import MAX_FRAME_BYTES, TOO_LONG, TOO_SHORT
from mvpnet.dataplane.link import DgramLink, Link, LinkLostError, StreamLink
from mvpnet.dataplane.switch import open_link
from mvpnet.spec.schema import Net, NetKind
from support import poll_until

SMALL_QUEUE = Net(guest_queue_bytes=100_000)


class Guest:
    """qemu's end of a link: whole frames in and out."""

    def __init__(self, end: socket.socket, kind: str) -> None:
        self.end = end
        self.kind = kind
        self._left = b""
        end.settimeout(10)

    def send(self, *frames: bytes) -> None:
        if self.kind == "stream":
            self.end.sendall(packed(frames))
        else:
            for f in frames:
                self.end.send(f)

    def receive(self) -> list[bytes]:
        """All frames that are there."""
        found: list[bytes] = []
        while select.select([self.end], [], [], 0)[0]:
            data = self.end.recv(1 << 20)
            if self.kind == "dgram":
                found.append(data)
                continue
            if not data:
                break
            self._left += data
        while self.kind == "stream" and len(self._left) >= 4:
            after = 4 + int.from_bytes(self._left[:4], "big")
            if len(self._left) < after:
                break
            found.append(self._left[4:after])
            self._left = self._left[after:]
        return found


def by_descriptor(kind: str, net: Net = SMALL_QUEUE) -> tuple[Link, Guest]:
    link = open_link(1, 4, Net(kind=NetKind[kind], guest_queue_bytes=net.guest_queue_bytes))
    assert link.qemu_fd is not None
    guest = Guest(socket.socket(fileno=socket.dup(link.qemu_fd)), kind)
    link.detach_qemu_end()
    assert link.qemu_fd is None
    return link, guest


@pytest.fixture(params=["stream", "dgram"])
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[Link, Guest]]:
    link, guest = by_descriptor(request.param)
    yield link, guest
    link.close()
    guest.end.close()


def receive_all(link: Link) -> tuple[list[bytes], list[int]]:
    """The frames that are there, and the routes of their runs."""
    frames, routes = [], []
    while link.ready() & ~select.POLLOUT:
        chunk, runs = link.receive()
        for run in runs:
            frames += unpacked(bytes(chunk.view[run[1] : run[2]]))
            routes.append(run[0])
    return frames, routes


def test_frames_from_the_guest(joined: tuple[Link, Guest]) -> None:
    link, guest = joined
    assert link.connected
    sent = [frame(1, 2), frame(1, 2, 1514), frame(1, 3, 9014), frame(1, 2, 65535), b"short"]
    guest.send(*sent)
    assert receive_all(link) == (sent, [2, 3 + (1 << 32), 2 + (1 << 32), TOO_SHORT])


def test_a_chunk_that_is_held_is_left_alone(joined: tuple[Link, Guest]) -> None:
    link, guest = joined
    guest.send(frame(1, 2, fill=1))
    link.ready()
    first, runs = link.receive()
    first.hold()
    guest.send(frame(1, 2, fill=2))
    link.ready()
    second, _ = link.receive()
    assert second is not first
    assert unpacked(bytes(first.view[: runs[0][2]])) == [frame(1, 2, fill=1)]
    first.release()


def test_frames_to_the_guest_wait_for_it_within_bounds(joined: tuple[Link, Guest]) -> None:
    link, guest = joined
    chunk = link._pool.get()
    batch = packed([frame(2, 1, 1514, fill=n) for n in range(20)])
    chunk.buffer[: len(batch)] = batch
    taken = 0
    while link.transmit(chunk.view[: len(batch)], 20, chunk):
        taken += 20
    assert link.full
    assert link.interest & select.POLLOUT
    assert SMALL_QUEUE.guest_queue_bytes <= link.backlog_bytes < 3 * SMALL_QUEUE.guest_queue_bytes
    assert 0 < link.queued_frames < taken
    got = guest.receive()
    while link.ready() & select.POLLOUT and link.backlog_bytes:
        assert link.flush()
        got += guest.receive()
    assert link.backlog_bytes == link.queued_frames == 0
    assert not link.full
    assert got == unpacked(batch) * (taken // 20)


def test_a_link_that_its_guest_has_left(joined: tuple[Link, Guest]) -> None:
    link, guest = joined
    guest.end.close()
    chunk = link._pool.get()
    chunk.buffer[:64] = packed([frame(2, 1)])
    with pytest.raises(LinkLostError, match="qemu"):
        link.transmit(chunk.view[:64], 1, chunk)


def test_the_end_of_a_stream_is_seen_after_what_was_sent() -> None:
    link, guest = by_descriptor("stream")
    guest.send(frame(1, 2))
    guest.end.close()
    assert link.ready()
    assert link.receive()[1][0][3] == 1
    with pytest.raises(LinkLostError, match="qemu closed its link"):
        link.receive()
    link.close()


def test_broken_framing_ends_a_stream_by_name() -> None:
    link, guest = by_descriptor("stream")
    guest.end.sendall(packed([frame(1, 2)]) + (MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    link.ready()
    with pytest.raises(LinkLostError, match=r"a frame of 69633 bytes, where 69632 is the most"):
        link.receive()
    link.close()
    guest.end.close()


def test_a_datagram_too_long_for_a_frame_is_counted_and_harms_none_other() -> None:
    link, guest = by_descriptor("dgram")
    guest.send(frame(1, 2), bytes(MAX_FRAME_BYTES + 1), frame(1, 2, 100), b"")
    link.ready()
    chunk, runs = link.receive()
    assert [(run[0], run[3]) for run in runs] == [(2, 2), (TOO_SHORT, 1), (TOO_LONG, 1)]
    assert unpacked(bytes(chunk.view[: runs[0][2]])) == [frame(1, 2), frame(1, 2, 100)]
    link.close()
    guest.end.close()


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
def test_a_stream_cut_anywhere(pieces: int) -> None:
    link, guest = by_descriptor("stream")
    sent = [frame(1, n % 4 * 2, 14 + n * 37 % 200, fill=n) for n in range(64)]
    data = packed(sent)
    got: list[bytes] = []
    for at in range(0, len(data), pieces):
        guest.end.sendall(data[at : at + pieces])
        got += receive_all(link)[0]
    assert got == sent
    link.close()
    guest.end.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.binary(max_size=4).map(lambda b: b.rjust(4, b"\0"))), max_size=8))
def test_any_bytes_from_a_stream(pieces: list[bytes]) -> None:
    """Every byte is in a run, still to be completed, or the link is lost with a reason."""
    link, guest = by_descriptor("stream")
    covered = sent = 0
    try:
        for piece in pieces:
            guest.end.sendall(piece)
            sent += len(piece)
            while link.ready() & select.POLLIN:
                covered += sum(run[2] - run[1] for run in link.receive()[1])
        assert covered <= sent
        assert sent - covered < MAX_FRAME_BYTES + 4
    except LinkLostError as lost:
        assert "broken framing" in str(lost)
    finally:
        link.close()
        guest.end.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes_from_datagrams(pieces: list[bytes]) -> None:
    link, guest = by_descriptor("dgram")
    guest.send(*pieces)
    assert sorted(receive_all(link)[0]) == sorted(pieces)
    link.close()
    guest.end.close()


def test_a_stream_by_path(short_dir: Path) -> None:
    path = short_dir / "s"
    path.write_bytes(b"left over from an earlier run")
    link = open_link(1, 4, Net(), path=path)
    assert isinstance(link, StreamLink)
    assert link.qemu_fd is None
    assert not link.connected
    assert path.stat().st_mode & 0o777 == 0o600
    guest = Guest(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "stream")
    guest.end.connect(str(path))
    link.ready()
    assert link.connected
    assert not path.exists()
    guest.send(frame(1, 2))
    assert receive_all(link)[0] == [frame(1, 2)]
    send_one(link, guest)
    link.close()
    guest.end.close()


def test_a_stream_by_path_that_nobody_joined(short_dir: Path) -> None:
    link = open_link(1, 4, Net(), path=short_dir / "s")
    link.close()
    assert not (short_dir / "s").exists()


def test_datagrams_by_path(short_dir: Path) -> None:
    ours, theirs = short_dir / "ours", short_dir / "theirs"
    link = open_link(1, 4, Net(kind=NetKind.dgram), path=ours, qemu_path=theirs)
    assert isinstance(link, DgramLink)
    link.ready()
    assert not link.connected
    guest = Guest(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "dgram")
    guest.end.bind(str(theirs))
    poll_until(lambda: link.ready() is not None and link.connected, 10, "the link to connect")
    guest.end.connect(str(ours))
    guest.send(*[frame(1, 2)] * 50)  # more than net.unix.max_dgram_qlen
    assert receive_all(link)[0] == [frame(1, 2)] * 50
    send_one(link, guest)
    link.close()
    assert not ours.exists()
    guest.end.close()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_a_path_too_long_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        open_link(1, 4, Net(kind=NetKind[kind]), path=tmp_path / ("x" * 120), qemu_path=tmp_path / "y")


def send_one(link: Link, guest: Guest) -> None:
    chunk = link._pool.get()
    chunk.buffer[:64] = packed([frame(2, 1)])
    assert link.transmit(chunk.view[:64], 1, chunk)
    assert guest.receive() == [frame(2, 1)]


@pytest.mark.parametrize("kind", list(NetKind))
def test_paths_are_for_this_user_alone(kind: NetKind, short_dir: Path) -> None:
    link = open_link(1, 4, Net(kind=kind), path=short_dir / "ours", qemu_path=short_dir / "theirs")
    assert (short_dir / "ours").stat().st_mode & 0o777 == 0o600
    link.close()
