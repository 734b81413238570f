"""The compiled part of the data path (fastpath.c), which is optional: what it does, Python does where it is missing.

It takes the frames that most are: unicast from the guest to a peer that has credit, and from a peer to a guest that
reads. What it saves is what Python costs when it is cold, as it is after each switch to the guest and back: a
rank's part of a lone frame's way takes 20 to 60 us in Python, and a few in here (docs/performance.md).

Once it is engaged it does all reading from the link and all receiving from the peers, and holds what it has not dealt
with for Python to take: an unfinished frame or one that is not plain (`take`, `give_back`), and one message
(`Shared.arrived`). Sends are of two kinds, its own and Python's, and each has its credits. Frames keep their order, as
it sends nothing while anything of Python's waits for a peer or for the guest, and MPI keeps messages in theirs.

It is a plain library without any dependency, and calls the MPI library that mpi4py has loaded by the addresses of its
functions. hatch_build.py compiles it when mvpnet is installed or its wheel is built.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

from mpi4py import MPI

from mvpnet.dataplane import tuning
from mvpnet.dataplane.buffers import Chunk
from mvpnet.dataplane.counters import Counters
from mvpnet.dataplane.doorbell import Doorbell

LIBRARY: Final = Path(__file__).with_name("libfastpath.so")

# What `run` is allowed to do, whether peers sleep between messages, whether it is to go round once, as Python has
# something to do as well, and whether to take unicasts for a guest that is gone: Python drops and counts them.
MAY_SEND: Final = 1
MAY_DELIVER: Final = 2
SPARSE: Final = 4
TURN_FOLLOWS: Final = 8
TAKE: Final = 16

# What `FastPath.held` says of a peer: nothing of Python's waits for it, something does, or it takes nothing.
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
    """What both sides read and write; fastpath.c says what each is."""

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
    except OSError:  # not built, or for another machine
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
    """Whether the library is built, and for this machine."""
    return _load() is not None and sys.byteorder == "little"


def _mpi_setup(comm: MPI.Intracomm) -> dict[str, Any]:
    """Return what the compiled part needs of MPI: its functions, handles, and where a status holds what."""
    mpi = ctypes.CDLL(MPI.__file__)
    source_at, tag_at = _status_offsets()
    functions = {name: ctypes.cast(getattr(mpi, f"MPI_{name}"), ctypes.c_void_p) for name in _FUNCTIONS}
    return {
        **functions,
        "comm": MPI._handleof(comm),
        "byte": MPI._handleof(MPI.BYTE),
        "any_source": MPI.ANY_SOURCE,
        "any_tag": MPI.ANY_TAG,
        "source_at": source_at,
        "tag_at": tag_at,
        "rank": comm.Get_rank(),
        "size": comm.Get_size(),
    }


class FastPath:
    """One rank's, for one job. Make it once `doorbell` is settled, and only where it is `available`."""

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
        """`posts`: keep a receive posted, else probe. Frames from the guest longer than `longest_frame_bytes` are above
        its MTU, and counted. Raises MemoryError."""
        library = _load()
        assert library is not None
        self._library = library
        self._run = library.fastpath_run
        self._comm = comm  # its handle is in there
        self._chunk: Chunk | None = None
        self._size = comm.Get_size()
        self._dozed_on: dict[int, int] = {}
        self._pollfds = ctypes.create_string_buffer(0)
        near_fd, far_fd = [*doorbell.filenos(), -1][:2]
        setup = _Setup(
            **_mpi_setup(comm),
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
        """Give its memory back, once nothing is on its way and no receive is posted; `shared` is gone as well."""
        self._library.fastpath_free(self._handle)

    def run(self, until_s: float, busy_at_s: float, window_s: float, flags: int) -> int:
        """Move frames until `until_s`, until something is for Python, or until nothing moved for `window_s`, the last
        time having been `busy_at_s`; all by time.monotonic(). Returns LOOK, TURN or SLEEP."""
        self.shared.busy_at_s = busy_at_s
        outcome: int = self._run(self._handle, until_s, window_s, flags)
        return outcome

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float, flags: int) -> float:
        """Sleep until one of these descriptors has one of its poll(2) events, or for `timeout_s`, and move what there
        is at once. It goes on sleeping after sleeps of `long_s` or more, unless something is for Python. Returns how
        long it had slept before it last moved something, or -1.0."""
        if fds != self._dozed_on:
            self._dozed_on = dict(fds)
            self._pollfds = ctypes.create_string_buffer(b"".join(_POLLFD.pack(fd, fds[fd], 0) for fd in fds))
        slept_s: float = self._library.fastpath_doze(self._handle, self._pollfds, len(fds), timeout_s, long_s, flags)
        return slept_s

    def ring_all(self) -> None:
        """Ring every peer that has yet to take something of this one's."""
        self._library.fastpath_ring_all(self._handle)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def engage_link(self, link: socket.socket, chunk: Chunk, start: int, size_bytes: int) -> None:
        """Read and write `link` from now on; `size_bytes` of an unfinished frame lie in `chunk` from `start` on."""
        self.give_back(chunk, start, size_bytes)
        self.shared.link_kind = link.type
        self.shared.link_gone = 0
        self.shared.link_fd = link.fileno()

    def leave_link(self) -> None:
        """The guest is gone. A message that it had taken a part of has arrived for Python, by now."""
        self._library.fastpath_leave(self._handle)

    def take(self, chunk: Chunk) -> int:
        """Fill `chunk` with what the guest sent and was not sent on, reading first if there is none: how many bytes."""
        count: int = self._library.fastpath_take(self._handle, chunk.address)
        return count

    def give_back(self, chunk: Chunk, start: int, size_bytes: int) -> None:
        """The start of a frame that `take` brought the rest of which has yet to come."""
        if size_bytes:
            self._library.fastpath_give_back(self._handle, chunk.address + start, size_bytes)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def idle(self) -> bool:
        return not (self.shared.flights or self.shared.arrived or self.shared.delivering)

    def lend(self, chunk: Chunk) -> None:
        """Where the next message may go."""
        self._chunk = chunk
        self.shared.buffer = chunk.address

    def reclaim(self) -> Chunk | None:
        """The chunk that was lent, with the message that arrived, if any."""
        chunk, self._chunk = self._chunk, None
        self.shared.buffer = None
        return chunk

    def receive(self, unicast: bool) -> bool:
        """Whether a message has arrived for Python: see `shared`."""
        return bool(self._library.fastpath_receive(self._handle, unicast))

    def unpost(self) -> bool:
        """End the posted receive: True when there is none any more, and no message has arrived for it."""
        return bool(self._library.fastpath_unpost(self._handle))

    def raise_error(self) -> None:
        """Raise what MPI said, if it was anything."""
        code, self.shared.mpi_error = self.shared.mpi_error, 0
        if code:
            raise MPI.Exception(code)

    def count_into(self, counters: Counters) -> None:
        """Add what was counted since the last time."""
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
    """Where source and tag lie in this MPI's MPI_Status: the MPI standard names the fields, not their places."""
    source, tag = 0x01234567, 0x06543210
    status = MPI.Status()
    status.Set_source(source)
    status.Set_tag(tag)
    raw = ctypes.string_at(MPI._addressof(status), MPI._sizeof(MPI.Status))
    return raw.index(source.to_bytes(4, sys.byteorder)), raw.index(tag.to_bytes(4, sys.byteorder))
