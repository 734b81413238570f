"""Any bytes from a guest: both links, fed through real sockets, find the frames that are there and nothing else.

The oracle is `parsed`, a loop too plain to be wrong. What peers send is fuzzed in tests/mpi/test_fuzz.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from frames import frame, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from mvpnet.dataplane import address, routes
from mvpnet.dataplane.buffers import Pool
from mvpnet.dataplane.frame import BROKEN, MAX_FRAME_BYTES, TOO_LONG, TOO_SHORT
from mvpnet.dataplane.link import DgramLink, Link, LinkLostError, StreamLink

RANK, WORLD = 1, 4
RESOLVE = routes.outbound(RANK, WORLD, 1500)
CHUNK_BYTES = 256 * 1024

MACS = st.one_of(
    st.integers(0, WORLD).map(address.mac),
    st.sampled_from([address.BROADCAST_MAC, b"\x33\x33\0\0\0\1", address.user_mac(2), b"\x52\x55\xff\xff\xff\xff"]),
    st.binary(min_size=6, max_size=6),
)
FRAMES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        frame,
        st.one_of(st.just(RANK), MACS),
        MACS,
        st.sampled_from([14, 15, 60, 64, 1514, 1519, 9014, 65000]),
        st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x08\x88", b"\x81\x00"]),
    ),
    st.just(address.SHUTDOWN_FRAME),
)
# Whole frames mostly, and now and then what is none: a length that cannot be, a frame cut off, noise.
STREAMS = st.lists(
    st.one_of(
        st.lists(FRAMES, max_size=4).map(packed),
        st.tuples(FRAMES, st.integers(1, 50)).map(lambda many: packed([many[0]] * many[1])),
        st.binary(max_size=30),
        FRAMES.map(lambda f: packed([f])[:-1]),
        st.sampled_from([MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1]).map(lambda n: n.to_bytes(4, "big")),
    ),
    max_size=6,
).map(b"".join)


def parsed(data: bytes) -> tuple[list[bytes], bool]:
    """The whole frames in a stream, up to the first length that no frame has; whether there is such a one."""
    frames, at = [], 0
    while len(data) - at >= 4:
        length = int.from_bytes(data[at : at + 4], "big")
        if length > MAX_FRAME_BYTES:
            return frames, True
        if len(data) - at - 4 < length:
            break
        frames.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return frames, False


def routed(sent: bytes) -> tuple[int, bytes]:
    return (RESOLVE(packed([sent])[:18]) if len(sent) >= 14 else TOO_SHORT), sent


@contextlib.contextmanager
def joined(link: Link) -> Iterator[socket.socket]:
    """The guest's end of a link; both are closed at the end."""
    assert link.qemu_fd is not None
    with socket.socket(fileno=socket.dup(link.qemu_fd)) as guest:
        link.detach_qemu_end()
        yield guest
    link.close()


def received(link: Link) -> list[tuple[int, bytes]]:
    """Route and bytes of each frame that the link finds now."""
    chunk, runs = link.receive()
    found = []
    for to, start, end, count in runs:
        if to == TOO_LONG:
            found += [(TOO_LONG, b"")] * count
            continue
        frames, broken = parsed(bytes(chunk.view[start:end]))
        assert len(frames) == count and not broken and sum(len(f) + 4 for f in frames) == end - start
        found += [(to, f) for f in frames]
    return found


@settings(deadline=None, max_examples=300)
@given(data=STREAMS, pieces=st.lists(st.integers(1, 70_000), min_size=1, max_size=5), hold=st.booleans())
def test_any_stream(data: bytes, pieces: list[int], hold: bool) -> None:
    """However the bytes are cut, and whether or not somebody still holds the chunk from before."""
    expected, broken = parsed(data)
    found: list[tuple[int, bytes]] = []
    link = StreamLink(RESOLVE, Pool(CHUNK_BYTES), 1 << 20)
    held = []
    with joined(link) as guest:
        at = n = 0
        lost = None
        while at < len(data) and lost is None:
            size = pieces[n % len(pieces)]
            guest.sendall(data[at : at + size])
            at, n = at + size, n + 1
            try:
                found += received(link)
            except LinkLostError as error:
                lost = error
            if hold and len(held) < 4:
                held.append(link._chunk)
                link._chunk.hold()
    if lost is None:
        assert not broken
        assert found == [routed(f) for f in expected]
    else:
        assert broken and "broken framing on the link to qemu" in str(lost)
        assert found == [routed(f) for f in expected][: len(found)]  # those before it in the same read are lost too
    for chunk in held:
        chunk.release()


DATAGRAMS = st.one_of(FRAMES, st.integers(MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES + 3).map(lambda n: frame(RANK, 2, n)))


@settings(deadline=None, max_examples=300)
@given(st.lists(DATAGRAMS, max_size=6))
def test_any_datagrams(sent: list[bytes]) -> None:
    link = DgramLink(RESOLVE, Pool(CHUNK_BYTES), 1 << 20)
    with joined(link) as guest:
        found = []
        for datagram in sent:
            guest.send(datagram)
            found += received(link)
        assert received(link) == []
    assert found == [(TOO_LONG, b"") if len(f) > MAX_FRAME_BYTES else routed(f) for f in sent]


@settings(deadline=None)
@given(FRAMES)
def test_what_is_sent_on_is_from_the_guest_itself(sent: bytes) -> None:
    """Whatever a guest sends, a route to another rank is only for frames with its own MAC as their source."""
    to, _ = routed(sent)
    if to >= 0 or to in (routes.BROADCAST, routes.ARP):
        assert sent[6:12] == address.mac(RANK)
    if to >= 0:
        assert address.rank_of_mac(sent[:6]) == to % routes.ABOVE_MTU < WORLD
    assert to != BROKEN


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_link_that_closes_in_the_middle_of_a_frame(kind: socket.SocketKind) -> None:
    link: Link = (StreamLink if kind == socket.SOCK_STREAM else DgramLink)(RESOLVE, Pool(CHUNK_BYTES), 1 << 20)
    with joined(link) as guest:
        guest.send(packed([frame(RANK, 2)])[:-1])
        guest.close()
        if kind == socket.SOCK_STREAM:
            assert received(link) == []
            with pytest.raises(LinkLostError, match="qemu closed its link"):
                link.receive()
        else:
            assert received(link)[0][0] == routes.SOURCE_NOT_OWN
