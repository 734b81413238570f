"""A synthetic guest for `mvpnet bench`: the program at the far end of a link, in qemu's place, one process per rank.

    python -m mvpnet.bench.guest KIND RANK LINK_FD CONTROL_FD

It executes orders from the control socket (SOCK_SEQPACKET, one message of `bench.messages` per packet, and an answer to
each), and counts every frame from the link meanwhile. It exits when the control socket is closed.

Frames have the EtherTypes that IEEE 802 keeps for experiments: one for those that are counted, one for those that
are sent back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mvpnet.bench.messages import Counted, Flood, Flooded, Message, Outcome, Ping, Pinged, Reset, decode, encode
from mvpnet.dataplane import address
from mvpnet.dataplane.frame import LENGTH_BYTES, MAX_FRAME_BYTES, Splitter

COUNTED: Final = b"\x88\xb5"
ECHOED: Final = b"\x88\xb6"
PING_PATIENCE_S: Final = 1.0

_ECHO: Final = -50  # a route, beside the ranks that frames come from
_OTHER: Final = -51
_READ_BYTES: Final = 1024 * 1024
_BURST_BYTES: Final = 16 * 1024  # for one rank, before it is the next one's turn
_ROUND_BYTES: Final = 1024 * 1024  # for all ranks, unless one frame for each takes more
_DATAGRAMS_A_TURN: Final = 64


def resolve(head: bytes) -> int:
    """Return the route by which a frame is counted, from its length and Ethernet header."""
    if head[16:18] == ECHOED:
        return _ECHO
    source = address.rank_of_mac(head[10:16])
    return _OTHER if source is None or head[16:18] != COUNTED else source


class Guest:
    """One guest: `serve` executes orders until the control socket is closed."""

    def __init__(self, kind: str, rank: int, link: socket.socket, control: socket.socket) -> None:
        self._stream = kind == "stream"
        self._rank = rank
        self._link = link
        self._control = control
        self._splitter = Splitter(resolve)
        self._buffer = bytearray(_READ_BYTES)
        self._left = 0  # bytes of an unfinished frame at the buffer's start
        self._echoes: list[bytes] = []  # frames to be sent back
        self._received: Counter[int] = Counter()
        self._first_s = self._last_s = 0.0
        self._uncounted = 0  # frames that came with the first one, whose time is unknown

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._link.fileno():
                    self._receive()
                    self._send_back()
                elif command := self._control.recv(1 << 16):
                    self._control.send(encode(self._do(decode(command))))
                else:
                    return

    def _do(self, message: Message) -> Outcome:
        match message:
            case Flood(to, frame_bytes, seconds):
                return self._flood(to, frame_bytes, seconds)
            case Ping(to, frame_bytes, seconds, gap_s):
                return self._ping(to, frame_bytes, seconds, gap_s)
            case Reset():
                self._received.clear()
                self._uncounted = 0
                return Counted()
            case _:
                return self._report()

    def _report(self) -> Counted:
        frames = self._received.total()
        seconds = self._last_s - self._first_s if frames else 0.0
        return Counted(frames, len(self._received), frames - self._uncounted, seconds)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Receive the available frames and count them."""
        before = self._received.total()
        with contextlib.suppress(BlockingIOError):
            if self._stream:
                count = self._link.recv_into(memoryview(self._buffer)[self._left :], 0, socket.MSG_DONTWAIT)
                if not count:
                    raise ConnectionResetError("the rank closed the link")
                self._take(self._left + count)
            else:
                for _ in range(_DATAGRAMS_A_TURN):
                    count = self._link.recv_into(memoryview(self._buffer)[LENGTH_BYTES:], 0, socket.MSG_DONTWAIT)
                    self._buffer[:LENGTH_BYTES] = count.to_bytes(LENGTH_BYTES, "big")
                    self._take(LENGTH_BYTES + count)
        came = self._received.total() - before
        if came:
            self._last_s = time.monotonic()
            if not before:
                self._first_s, self._uncounted = self._last_s, came

    def _take(self, end: int) -> None:
        runs, stop = self._splitter.split(self._buffer, end)
        for source, start, after, frames in runs:
            if source >= 0:
                self._received[source] += frames
            elif source == _ECHO:
                self._echoes.append(bytes(self._buffer[start + LENGTH_BYTES : after]))
        self._left = end - stop
        if stop:
            self._buffer[: self._left] = self._buffer[stop:end]

    def _send_back(self) -> None:
        for frame in self._echoes:
            self._send(frame[6:12] + frame[:6] + frame[12:])
        self._echoes.clear()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _frame(self, to: int | None, frame_bytes: int, ethertype: bytes) -> bytes:
        mac = address.BROADCAST_MAC if to is None else address.mac(to)
        return (mac + address.mac(self._rank) + ethertype).ljust(frame_bytes, b"\0")

    def _framed(self, frame: bytes) -> bytes:
        return len(frame).to_bytes(LENGTH_BYTES, "big") + frame if self._stream else frame

    def _send(self, frame: bytes) -> None:
        """Send one frame, however long that takes."""
        self._push([self._framed(frame)])

    def _push(self, pieces: list[bytes]) -> None:
        """Send each piece completely; receive whenever there is no room to send."""
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                try:
                    rest = rest[self._link.send(rest, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    self._wait_for_room()

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._link, select.POLLIN | select.POLLOUT)
        for _, events in poll.poll():
            if events & select.POLLIN:
                self._receive()

    def _flood(self, to: Sequence[int] | None, frame_bytes: int, seconds: float) -> Flooded:
        peers: list[int | None] = [None] if to is None else [*to]
        frames = [self._framed(self._frame(peer, frame_bytes, COUNTED)) for peer in peers]
        share = _ROUND_BYTES // max(1, len(frames))
        burst = max(1, min(_BURST_BYTES, share) // len(frames[0])) if seconds and frames else 1
        pieces = [frame * burst for frame in frames] if self._stream else [f for f in frames for _ in range(burst)]
        sent, began_s = 0, time.monotonic()
        while True:
            self._push(pieces)
            sent += burst * len(frames)
            self._receive()
            if time.monotonic() - began_s >= seconds:
                break
        return Flooded(sent, time.monotonic() - began_s)

    def _ping(self, to: int, frame_bytes: int, seconds: float, gap_s: float) -> Pinged:
        question = self._frame(to, frame_bytes, ECHOED)
        times_us: list[float] = []
        lost, began_s = 0, time.monotonic()
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        while time.monotonic() - began_s < seconds:
            self._echoes.clear()
            asked_s = time.monotonic()
            self._send(question)
            while not self._echoes and time.monotonic() - asked_s < PING_PATIENCE_S:
                poll.poll(PING_PATIENCE_S * 1e3)
                self._receive()
            if self._echoes:
                times_us.append((time.monotonic() - asked_s) * 1e6)
            else:
                lost += 1
            time.sleep(gap_s)
        self._echoes.clear()
        return Pinged(len(times_us) + lost, lost, *_percentiles(times_us))


def _percentiles(times_us: list[float]) -> tuple[float | None, float | None, float | None]:
    """Return the 50th and 99th percentile and the maximum."""
    if len(times_us) < 2:
        return None, None, None
    cuts = statistics.quantiles(times_us, n=100, method="inclusive")
    return cuts[49], cuts[98], max(times_us)


def main(kind: str, rank: str, link_fd: str, control_fd: str) -> None:
    with (
        socket.socket(fileno=int(link_fd)) as link,
        socket.socket(fileno=int(control_fd)) as control,
        contextlib.suppress(ConnectionError),  # our rank is gone
    ):
        Guest(kind, int(rank), link, control).serve()


assert MAX_FRAME_BYTES + LENGTH_BYTES < _READ_BYTES

if __name__ == "__main__":
    main(*sys.argv[1:])
