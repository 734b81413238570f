"""Cut a buffer of frames into runs that share a route, with little Python per frame.

The buffer's format is that of the stream link and of the fabric: a 4-byte big-endian length, then the Ethernet frame,
and so on (qemu's docs/interop and net/stream.c; the length does not count itself).

Two techniques make it fast. First, a frame's length and Ethernet header, 18 bytes, determine its route, and few of them
are in use at a time. Their routes are cached, so that the usual frame costs one slice and one look-up. Second, a flood
consists of many frames of one length with one header. Then each of the 18 bytes is compared over the whole run in one
strided slice, at less than a nanosecond per frame and byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LENGTH_BYTES: Final = 4
ETHERNET_HEADER_BYTES: Final = 14
HEADER_BYTES: Final = LENGTH_BYTES + ETHERNET_HEADER_BYTES

# The longest frame that qemu's stream netdev takes: NET_BUFSIZE in its include/net/net.h.
MAX_FRAME_BYTES: Final = 4096 + 65536

# Negative routes are not ranks. These are common to all resolvers; others belong to one resolver.
TOO_SHORT: Final = -1
BROKEN: Final = -2
TOO_LONG: Final = -3  # not set here, as it is broken framing on a stream, but by a link of datagrams

_MAX_REMEMBERED = 8192
_STRIDE_FROM_FRAMES = 32  # the strided comparison costs about as much as looking up this many frames


# Consecutive frames in the buffer with one route: (route, start, end, number of frames). A plain tuple, as a named one
# takes ten times as long to create.
Run = tuple[int, int, int, int]


class Splitter:
    """Cut buffers into runs. `resolve` returns the route of a header: 4 bytes length and 14 bytes Ethernet header."""

    def __init__(self, resolve: Callable[[bytes], int], max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._resolve = resolve
        self._max_frame_bytes = max_frame_bytes
        self._known: dict[bytes, tuple[int, int]] = {}

    def split(self, buffer: bytearray, end: int) -> tuple[list[Run], int]:
        """Cut `buffer[:end]` into runs.

        A length that no frame can have ends the list with an empty run of route BROKEN, as nothing after it can be
        trusted. Frames shorter than an Ethernet header have the route TOO_SHORT, which neighbouring runs may share.

        Returns:
            The runs, and the end of the last whole frame (the start of the next one may follow).
        """
        known = self._known
        only = known.get(bytes(buffer[:HEADER_BYTES]))
        if only is not None and only[0] == end:  # a single frame, as in every request and reply
            return [(only[1], 0, end, 1)], end
        runs: list[Run] = []
        at = start = frames = 0
        current = TOO_SHORT
        last: tuple[int, int] | None = None
        view = memoryview(buffer)
        while end - at >= HEADER_BYTES:
            head = view[at : at + HEADER_BYTES].tobytes()
            found = known.get(head) or self._learn(head)
            step, route = found
            if at + step > end or route == BROKEN:
                break
            if route != current:
                if frames:
                    runs.append((current, start, at, frames))
                current, start, frames = route, at, 0
            frames += 1
            at += step
            # Compare the run only after two equal headers, and where one farther on is equal too.
            if found is last and end - at >= step * _STRIDE_FROM_FRAMES:
                far = at + 8 * step
                if buffer[far : far + HEADER_BYTES] == head:
                    same = _same_headers(buffer, at, end, step, head)
                    frames += same
                    at += same * step
            last = found
        if frames:
            runs.append((current, start, at, frames))
        return self._tail(buffer, at, end, runs)

    def _learn(self, head: bytes) -> tuple[int, int]:
        length = int.from_bytes(head[:LENGTH_BYTES], "big")
        if length > self._max_frame_bytes:
            return 0, BROKEN
        if length < ETHERNET_HEADER_BYTES:  # the slice contains a part of the next frame: do not cache it
            return LENGTH_BYTES + length, TOO_SHORT
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[head] = found = (LENGTH_BYTES + length, self._resolve(head))
        return found

    def _tail(self, buffer: bytearray, at: int, end: int, runs: list[Run]) -> tuple[list[Run], int]:
        """Add the end of the buffer, which is shorter than a header, an unfinished frame, or broken."""
        while end - at >= LENGTH_BYTES:
            length = int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if length > self._max_frame_bytes:
                runs.append((BROKEN, at, at, 0))
                break
            after = at + LENGTH_BYTES + length
            if after > end or length >= ETHERNET_HEADER_BYTES:
                break
            runs.append((TOO_SHORT, at, after, 1))
            at = after
        return runs, at


def _same_headers(buffer: bytearray, at: int, end: int, step: int, head: bytes) -> int:
    """Count the whole frames from `at` on, each `step` bytes with its length, that start with exactly `head`."""
    count = (end - at) // step
    for i in _MOST_TELLING_FIRST:
        column = buffer[at + i : at + (count - 1) * step + i + 1 : step]
        count -= len(column.lstrip(head[i : i + 1]))
        if not count:
            break
    return count


# The low bytes of length and destination rank, then the type and the rest.
_MOST_TELLING_FIRST: Final = (3, 9, 2, 17, 16, 15, 8, 4, 5, 6, 7, 10, 11, 12, 13, 14, 0, 1)
