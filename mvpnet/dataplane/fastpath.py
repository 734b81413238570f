"""Run the compiled part of the data path (fastpath.c), which is optional: without it Python does the same work.

It handles the most common frames: unicast from the guest to a peer that has a credit, and from a peer to a guest that
reads. It saves the cost of cold Python code, as Python is cold after each switch to the guest and back. One rank's
share of a single frame's latency is 20 to 60 us in Python, and a few us in compiled code (docs/performance.md).

Once engaged, it does all reading from the link and all receiving from the peers. It keeps what it does not handle for
Python: an unfinished or unusual frame (`take`, `give_back`), and one message (`Shared.arrived`). Its own sends and
Python's have separate credits. Frames keep their order, as it sends nothing while frames of Python's are queued for a
peer or for the guest, and MPI keeps messages in order.

It is a plain library without dependencies. It calls the MPI library that mpi4py has loaded by the addresses of its
functions. hatch_build.py compiles it when mvpnet is installed or its wheel is built.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
import sys
from pathlib import Path
from typing import Final

from mpi4py import MPI

from mvpnet.dataplane import tuning
from mvpnet.dataplane.buffers import Chunk
from mvpnet.dataplane.counters import Counters
from mvpnet.dataplane.doorbell import Doorbell

LIBRARY: Final = Path(__file__).with_name("libfastpath.so")

# Flags of `run`: what it may do, whether peers sleep between messages (SPARSE), whether to do one round only as Python
# has work too (TURN_FOLLOWS), and whether to receive unicasts for a guest that is gone (TAKE), which Python drops and
# counts.
MAY_SEND: Final = 1
MAY_DELIVER: Final = 2
SPARSE: Final = 4
TURN_FOLLOWS: Final = 8
TAKE: Final = 16

# Values of `FastPath.held` for a peer: no frames of Python's are queued for it, some are, or it receives nothing.
FREE: Final = 0
HELD: Final = 1
DEAD: Final = 2

_FUNCTIONS: Final = ("Issend", "Irecv", "Test", "Improbe", "Imrecv", "Get_count", "Cancel", "Test_cancelled")
_POLLFD: Final = struct.Struct("@ihh")  # poll(2)
_TUNED_NUMBERS: Final = (
    "MESSAGES_A_TURN",
    "ALONE_BELOW_BYTES",
    "DATAGRAMS_A_TURN",
    "FRAME_COSTS_BYTES",
    "BULK_BYTES",
    "WORTH_A_NAP_BYTES",
    "LONGEST_NAP",
)
_TUNED_TIMES: Final = ("BULK_LASTS_S", "RING_AFTER_S", "RING_AGAIN_S", "RING_AGAIN_MAX_S")
_COUNTED: Final = (
    "frames_from_guest",
    "bytes_from_guest",
    "frames_to_guest",
    "bytes_to_guest",
    "frames_above_mtu",
    "messages_sent",
    "messages_received",
    "doorbells_rung",
)


class _Tuning(ctypes.Structure):
    _fields_ = (
        *((name.lower(), ctypes.c_int) for name in _TUNED_NUMBERS),
        *((name.lower(), ctypes.c_double) for name in _TUNED_TIMES),
    )


class _Setup(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _FUNCTIONS),
        ("comm", ctypes.c_ssize_t),
        ("byte", ctypes.c_ssize_t),
        *((name, ctypes.c_int) for name in ("any_source", "any_tag", "source_at", "tag_at")),
        *(
            (name, ctypes.c_int)
            for name in ("rank", "size", "posts", "credits", "chunk_bytes", "longest_frame", "near_fd", "far_fd")
        ),
        ("awake_s", ctypes.c_double),
        ("gather_s", ctypes.c_double),
        ("tuning", _Tuning),
    )


class Shared(ctypes.Structure):
    """Memory that both sides read and write. fastpath.c describes each field."""

    frames_from_guest: int
    bytes_from_guest: int
    frames_to_guest: int
    bytes_to_guest: int
    frames_above_mtu: int
    messages_sent: int
    messages_received: int
    doorbells_rung: int
    busy_at_s: float
    bytes_to: int
    held: int
    buffer: int | None
    link_fd: int
    link_kind: int
    link_gone: int
    too_long: int
    stuck: int
    flights: int
    arrived: int
    source: int
    tag: int
    size_bytes: int
    sent_bytes: int
    delivering: int
    proven: int
    mpi_error: int

    _fields_ = (
        *((name, ctypes.c_int64) for name in _COUNTED),
        ("busy_at_s", ctypes.c_double),
        ("bytes_to", ctypes.c_void_p),
        ("held", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("link_fd", "link_kind", "link_gone", "too_long", "stuck", "flights")),
        *(
            (name, ctypes.c_int32)
            for name in ("arrived", "source", "tag", "size_bytes", "sent_bytes", "delivering", "proven")
        ),
        ("mpi_error", ctypes.c_int32),
    )


@functools.cache
def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:  # not built, or built for another machine
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.fastpath_new.argtypes, library.fastpath_new.restype = [ctypes.POINTER(_Setup)], pointer
    library.fastpath_free.argtypes, library.fastpath_free.restype = [pointer], None
    library.fastpath_bell.argtypes, library.fastpath_bell.restype = (
        [pointer, number, number, ctypes.c_char_p, number],
        None,
    )
    library.fastpath_ring_all.argtypes, library.fastpath_ring_all.restype = [pointer], None
    library.fastpath_take.argtypes = [pointer, pointer]
    library.fastpath_give_back.argtypes, library.fastpath_give_back.restype = [pointer, pointer, number], None
    library.fastpath_leave.argtypes, library.fastpath_leave.restype = [pointer], None
    library.fastpath_receive.argtypes = [pointer, number]
    library.fastpath_unpost.argtypes = [pointer]
    library.fastpath_doze.argtypes = [pointer, pointer, number, ctypes.c_double, ctypes.c_double, number]
    library.fastpath_doze.restype = ctypes.c_double
    library.fastpath_run.argtypes = [pointer, ctypes.c_double, ctypes.c_double, number]
    return library


def available() -> bool:
    """Return whether the library is built, and for this machine."""
    return _load() is not None and sys.byteorder == "little"


class FastPath:
    """Compiled data path of one rank, for one job. Create it once `doorbell` is settled, and only where `available`."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        doorbell: Doorbell,
        *,
        posts: bool,
        credits: int,
        chunk_bytes: int,
        longest_frame_bytes: int,
        awake_s: float,
        gather_s: float,
    ) -> None:
        """Set up the compiled part.

        Args:
            comm: Communicator of the fabric.
            doorbell: Doorbell of this rank, settled.
            posts: Keep a receive posted, rather than probe.
            credits: Largest number of messages in flight to one peer.
            chunk_bytes: Size of a chunk, and of the longest message.
            longest_frame_bytes: Longer frames from the guest are counted as above its MTU.
            awake_s: A peer that was heard more recently is awake, and needs no ring.
            gather_s: Length of a nap under bulk traffic; 0 for none.

        Raises:
            MemoryError: There is no memory for it.
        """
        library = _load()
        assert library is not None
        self._library = library
        self._run = library.fastpath_run
        self._comm = comm  # keeps the handle valid
        self._chunk: Chunk | None = None
        self._size = comm.Get_size()
        self._dozed_on: dict[int, int] = {}
        self._pollfds = ctypes.create_string_buffer(0)
        source_at, tag_at = _status_offsets()
        near_fd, far_fd = [*doorbell.filenos(), -1][:2]
        mpi = ctypes.CDLL(MPI.__file__)
        setup = _Setup(
            *(ctypes.cast(getattr(mpi, f"MPI_{name}"), ctypes.c_void_p) for name in _FUNCTIONS),
            comm=MPI._handleof(comm),
            byte=MPI._handleof(MPI.BYTE),
            any_source=MPI.ANY_SOURCE,
            any_tag=MPI.ANY_TAG,
            source_at=source_at,
            tag_at=tag_at,
            rank=comm.Get_rank(),
            size=self._size,
            posts=posts,
            credits=credits,
            chunk_bytes=chunk_bytes,
            longest_frame=longest_frame_bytes,
            near_fd=near_fd,
            far_fd=far_fd,
            awake_s=awake_s,
            gather_s=gather_s,
            tuning=_Tuning(*(getattr(tuning, name) for name in (*_TUNED_NUMBERS, *_TUNED_TIMES))),
        )
        handle = library.fastpath_new(ctypes.byref(setup))
        if handle is None:
            raise MemoryError("no memory for the compiled part of the data path")
        self._handle = ctypes.c_void_p(handle)
        self.shared = Shared.from_address(handle)
        self.held = (ctypes.c_uint8 * self._size).from_address(self.shared.held)  # by rank
        for rank in range(self._size):
            bell = doorbell.bell_of(rank)
            if bell is not None:
                library.fastpath_bell(self._handle, rank, bell[0], bell[1], len(bell[1]))

    def close(self) -> None:
        """Free its memory, including `shared`, once nothing is in flight and no receive is posted."""
        self._library.fastpath_free(self._handle)

    def run(self, until_s: float, busy_at_s: float, window_s: float, flags: int) -> int:
        """Move frames until `until_s`, until Python has something to do, or until nothing moved for `window_s`.

        Args:
            until_s: When to return, by time.monotonic(), as `busy_at_s` is.
            busy_at_s: When something moved last.
            window_s: Longest time to spin without work.
            flags: What it may do: MAY_SEND and the others.

        Returns:
            LOOK, TURN or SLEEP.
        """
        self.shared.busy_at_s = busy_at_s
        outcome: int = self._run(self._handle, until_s, window_s, flags)
        return outcome

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float, flags: int) -> float:
        """Sleep until a descriptor is ready or `timeout_s` has passed, and move what there is to move at once.

        It goes on sleeping after sleeps of `long_s` or more, unless Python has something to do.

        Args:
            fds: poll(2) events to wait for, by descriptor.
            timeout_s: Longest time to sleep.
            long_s: A shorter sleep ends the call.
            flags: What it may do: MAY_SEND and the others.

        Returns:
            How long it had slept before it last moved something, or -1.0.
        """
        if fds != self._dozed_on:
            self._dozed_on = dict(fds)
            self._pollfds = ctypes.create_string_buffer(b"".join(_POLLFD.pack(fd, fds[fd], 0) for fd in fds))
        slept_s: float = self._library.fastpath_doze(self._handle, self._pollfds, len(fds), timeout_s, long_s, flags)
        return slept_s

    def ring_all(self) -> None:
        """Ring every peer that has yet to receive a message of the compiled part."""
        self._library.fastpath_ring_all(self._handle)

    # -- the link ------------------------------------------------------------------------------------------------------

    def engage_link(self, link: socket.socket, chunk: Chunk, start: int, size_bytes: int) -> None:
        """Read and write `link` from now on. An unfinished frame of `size_bytes` is in `chunk` from `start` on."""
        self.give_back(chunk, start, size_bytes)
        self.shared.link_kind = link.type
        self.shared.link_gone = 0
        self.shared.link_fd = link.fileno()

    def leave_link(self) -> None:
        """Stop using the link of a guest that is gone. A message that it had taken in part is then left to Python."""
        self._library.fastpath_leave(self._handle)

    def take(self, chunk: Chunk) -> int:
        """Fill `chunk` with data of the guest that was not sent on, reading first if there is none.

        Returns:
            The number of bytes.
        """
        count: int = self._library.fastpath_take(self._handle, chunk.address)
        return count

    def give_back(self, chunk: Chunk, start: int, size_bytes: int) -> None:
        """Give back the start of an unfinished frame that `take` returned."""
        if size_bytes:
            self._library.fastpath_give_back(self._handle, chunk.address + start, size_bytes)

    # -- messages ------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not (self.shared.flights or self.shared.arrived or self.shared.delivering)

    def lend(self, chunk: Chunk) -> None:
        """Lend the chunk to receive the next message into."""
        self._chunk = chunk
        self.shared.buffer = chunk.address

    def reclaim(self) -> Chunk | None:
        """Return the lent chunk, with the message that arrived, if any."""
        chunk, self._chunk = self._chunk, None
        self.shared.buffer = None
        return chunk

    def receive(self, unicast: bool) -> bool:
        """Return whether a message has arrived for Python: see `shared`."""
        return bool(self._library.fastpath_receive(self._handle, unicast))

    def unpost(self) -> bool:
        """End the posted receive.

        Returns:
            True when none is posted any more, and no message has arrived for it.
        """
        return bool(self._library.fastpath_unpost(self._handle))

    def raise_error(self) -> None:
        """Raise the error that MPI returned, if any."""
        code, self.shared.mpi_error = self.shared.mpi_error, 0
        if code:
            raise MPI.Exception(code)

    def count_into(self, counters: Counters) -> None:
        """Add the counts since the last call."""
        shared = self.shared
        for name in _COUNTED:
            setattr(counters, name, getattr(counters, name) + getattr(shared, name))
            setattr(shared, name, 0)
        bytes_to = (ctypes.c_int64 * self._size).from_address(shared.bytes_to)
        for rank, count in enumerate(bytes_to):
            if count:
                counters.bytes_by_destination[rank] += count
                bytes_to[rank] = 0


def _status_offsets() -> tuple[int, int]:
    """Return the offsets of source and tag in this MPI's MPI_Status.

    The MPI standard names the fields, and leaves their offsets open.
    """
    source, tag = 0x01234567, 0x06543210
    status = MPI.Status()
    status.Set_source(source)
    status.Set_tag(tag)
    raw = ctypes.string_at(MPI._addressof(status), MPI._sizeof(MPI.Status))
    return raw.index(source.to_bytes(4, sys.byteorder)), raw.index(tag.to_bytes(4, sys.byteorder))
