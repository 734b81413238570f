"""MPI between the ranks: batches of frames, synchronous sends as credits, and a way for small control messages.

A batch is an `Issend`, which ends when the peer has taken it. At most `credits` of them are on their way to one peer;
what comes meanwhile waits for it, and goes as one batch when a credit is back. So batches grow by themselves under
load, memory is bounded on both sides, and no acknowledgement is needed. Nothing here ever waits inside MPI.

What waits is bounded for each peer and in all. Past that `congested` asks the owner to read no more from its guest;
a peer that takes nothing for `patience_s` all the same loses what waits for it, and what comes, until it takes again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from mpi4py import MPI

from mvpnet.dataplane.buffers import COPY_BELOW_BYTES, BufferSlice, Chunk, Pool
from mvpnet.dataplane.counters import Counters
from mvpnet.dataplane.doorbell import Doorbell
from mvpnet.dataplane.fastpath import DEAD, FREE, HELD, FastPath
from mvpnet.dataplane.tuning import (
    ALONE_BELOW_BYTES,
    MESSAGES_A_TURN,
    RING_AFTER_S,
    RING_AGAIN_MAX_S,
    RING_AGAIN_S,
)

UNICAST: Final = 1
BROADCAST: Final = 2
CONTROL: Final = 3
MAX_CONTROL_BYTES: Final = 64 * 1024

_MAX_IDLE_PEERS: Final = 1024
_TESTS_A_TURN: Final = 16

# Open MPI 4 crashes (SIGSEGV) when a message is longer than the receive that was posted for it.
_POSTING_IS_SAFE: Final = "Open MPI" not in MPI.Get_library_version()


class Receiver(Protocol):
    """What to do with messages. Each gives the rank that sent it; the chunk is the receiver's for the call only."""

    def on_unicast(self, source: int, chunk: Chunk, size_bytes: int, sent_bytes: int = 0) -> None:
        """The guest has taken `sent_bytes` of it already; then it is one run of good frames."""
        ...

    def on_broadcast(self, source: int, chunk: Chunk, size_bytes: int) -> None: ...

    def on_control(self, source: int, payload: bytes) -> None: ...


class _Peer:
    __slots__ = ("dead", "heard_s", "in_flight", "queue", "queue_bytes", "rank", "ring_wait_s", "rung_s")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.in_flight = 0
        self.queue: deque[tuple[int, BufferSlice]] = deque()
        self.queue_bytes = 0
        self.heard_s = 0.0  # when it last took or sent something
        self.rung_s = 0.0
        self.ring_wait_s = RING_AFTER_S
        self.dead = False  # took nothing for too long


# A message that the peer has not taken yet, and what it lies in; plain, as each costs time. The request keeps bytes.
_Flight = tuple[MPI.Request, _Peer, Chunk | BufferSlice | None]


class Fabric:
    """The ranks of `comm`, which must be used for nothing else that is sent or received."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        doorbell: Doorbell,
        pool: Pool,
        counters: Counters,
        receiver: Receiver,
        *,
        credits: int,
        peer_queue_bytes: int,
        queue_bytes: int,
        patience_s: float,
        awake_s: float,
        compiled: bool = False,
    ) -> None:
        """A peer that took or sent something less than `awake_s` ago is awake and finds messages without a ring.
        `compiled`: expect `engage`, and leave the posting of receives to it."""
        self.rank: Final = comm.Get_rank()
        self.size: Final = comm.Get_size()
        self.doorbell = doorbell
        self.now_s = 0.0  # its owner's time.monotonic() at the start of this turn
        self.sparse = True  # messages are few, and peers sleep in between as this rank does: ring them at once
        self._comm = comm
        self._pool = pool
        self._counters = counters
        self._receiver = receiver
        self._credits = credits
        self._peer_queue_bytes = peer_queue_bytes
        self._max_queue_bytes = queue_bytes
        self._patience_s = patience_s
        self._awake_s = awake_s
        self._peers: dict[int, _Peer] = {}
        self._flights: deque[_Flight] = deque()
        self._posted: tuple[MPI.Request, Chunk] | None = None  # a receive of any message
        self._arriving: deque[tuple[MPI.Request, int, int, Chunk, int]] = deque()
        self._to_self: deque[bytes] = deque()
        self._full: set[_Peer] = set()
        self._queue_bytes = 0
        self._fastpath: FastPath | None = None
        self._posts = not compiled
        self._status = MPI.Status()
        self._barrier: MPI.Request | None = None
        self._all_sent = False  # all ranks have passed the first barrier of the end: no message of this job is left

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def congested(self) -> bool:
        """Too much waits for the peers already: bring nothing more for a while."""
        return bool(self._full) or self._queue_bytes > self._max_queue_bytes

    @property
    def waiting(self) -> bool:
        """Messages are on their way, or wait to be."""
        return bool(self._flights) or (self._fastpath is not None and self._fastpath.shared.flights > 0)

    @property
    def idle(self) -> bool:
        """Nothing is on its way in either direction, as far as this rank knows."""
        own = self._flights or self._arriving or self._to_self
        return not own and (self._fastpath is None or self._fastpath.idle)

    @property
    def has_work(self) -> bool:
        """Something is to be looked after here, be the compiled part idle or not."""
        return bool(self._flights or self._to_self or self._barrier is not None)

    @property
    def ended(self) -> bool:
        """All ranks have sent all, and nothing is to be received any more but by `finished`."""
        return self._all_sent

    @property
    def one_host(self) -> bool:
        """Whether to keep a receive posted, rather than probe; only once the doorbell is settled."""
        return _POSTING_IS_SAFE and self.doorbell.same_host

    @property
    def may_engage(self) -> bool:
        """All ranks can be rung, and no message is on its way into this one's buffers."""
        return self.doorbell.settled() and not self._arriving and self._barrier is None

    def engage(self, fastpath: FastPath) -> None:
        """Let the compiled part receive from now on; only when it `may_engage`."""
        self._fastpath = fastpath
        for peer in self._peers.values():
            self._hold(peer)
        fastpath.lend(self._pool.get())

    def send(self, to: int, tag: int, view: memoryview, frames: int, chunk: Chunk, *, patiently: bool = True) -> bool:
        """Send frames in `chunk` to a rank, now or when it has credit; False if they were dropped and counted.

        `patiently` are frames whose flow can be stopped by `congested`; others are dropped past the bound.
        """
        if self._barrier is not None:
            return self._drop(frames, "job_ended")
        peer = self._peers.get(to) or self._peer(to)
        if peer.in_flight < self._credits and not peer.queue:
            if len(view) < COPY_BELOW_BYTES:
                self._issue(peer, tag, view.tobytes(), None)
            else:
                chunk.hold()
                self._issue(peer, tag, view, chunk)
            return True
        if peer.dead or (not patiently and peer.queue_bytes >= self._peer_queue_bytes):
            return self._drop(frames, "peer_full")
        peer.queue.append((tag, BufferSlice.of(view, frames, chunk)))
        peer.queue_bytes += len(view)
        self._queue_bytes += len(view)
        if peer.queue_bytes >= self._peer_queue_bytes:
            self._full.add(peer)
        self._hold(peer)
        return True

    def send_control(self, to: int, payload: bytes) -> bool:
        """Send a small message, to this rank itself as well; False after this rank's part in the job has ended.

        Raises ValueError for one of more than MAX_CONTROL_BYTES.
        """
        if len(payload) > MAX_CONTROL_BYTES:
            raise ValueError(f"a control message of {len(payload)} bytes, where {MAX_CONTROL_BYTES} is the most")
        if self._barrier is not None:
            return False
        if to == self.rank:
            self._to_self.append(payload)
            return True
        peer = self._peer(to)
        self._ring(peer, time.monotonic())
        request = self._comm.Issend([payload, MPI.BYTE], to, CONTROL)
        peer.in_flight += 1
        self._flights.append((request, peer, None))
        return True

    def retire(self) -> bool:
        """Take back the credits of messages that were taken, send what waited for them, ring who sleeps."""
        moved = False
        now_s = self.now_s
        flights = self._flights
        for _ in range(min(len(flights), _TESTS_A_TURN)):
            flight = flights.popleft()
            request, peer, held = flight
            if request.Test():
                moved = True
                if held is not None:
                    held.release()
                peer.in_flight -= 1
                peer.heard_s = now_s
                peer.ring_wait_s = RING_AFTER_S
                peer.dead = False
                if peer.queue:
                    self._issue_batch(peer)
                self._hold(peer)
            else:
                flights.append(flight)
                if now_s - peer.heard_s > peer.ring_wait_s and now_s - peer.rung_s > peer.ring_wait_s:
                    peer.ring_wait_s = min(2 * peer.ring_wait_s, RING_AGAIN_MAX_S)
                    self._ring(peer, now_s)
                if peer.queue and now_s - peer.heard_s > self._patience_s:
                    self._give_up(peer)
        return moved

    def ring_all(self) -> None:
        """Ring every peer that has yet to take something: this rank is going to sleep."""
        for _, peer, _ in self._flights:
            if peer.rung_s < peer.heard_s:
                self._ring(peer, self.now_s)
        if self._fastpath is not None:
            self._fastpath.ring_all()

    def _peer(self, rank: int) -> _Peer:
        try:
            return self._peers[rank]
        except KeyError:
            if len(self._peers) >= _MAX_IDLE_PEERS:
                self._peers = {r: peer for r, peer in self._peers.items() if peer.in_flight}
            peer = self._peers[rank] = _Peer(rank)
            return peer

    def _issue(self, peer: _Peer, tag: int, data: memoryview | bytes, held: Chunk | BufferSlice | None) -> None:
        now_s = self.now_s
        asleep = False
        if not peer.in_flight:
            asleep = self.sparse or now_s - peer.heard_s > self._awake_s
            peer.heard_s = now_s  # patience starts here
        request = self._comm.Issend([data, MPI.BYTE], peer.rank, tag)
        if asleep:  # only now: it may take this core at once, and should find the message
            self._ring(peer, now_s)
            peer.ring_wait_s = RING_AGAIN_S
        peer.in_flight += 1
        self._flights.append((request, peer, held))
        self._counters.messages_sent += 1

    def _issue_batch(self, peer: _Peer) -> None:
        """Send what waits for a peer, as much of it as makes one batch."""
        tag, part = peer.queue.popleft()
        total = len(part.data)
        if total < COPY_BELOW_BYTES and peer.queue:
            small = [part]
            while peer.queue:
                next_tag, next_part = peer.queue[0]
                if next_tag != tag or total + len(next_part.data) > self._pool.chunk_bytes:
                    break
                small.append(next_part)
                total += len(next_part.data)
                peer.queue.popleft()
            part = BufferSlice.joined(small)
        peer.queue_bytes -= total
        self._queue_bytes -= total
        if peer.queue_bytes < self._peer_queue_bytes:
            self._full.discard(peer)
        self._issue(peer, tag, part.data, part)

    def _ring(self, peer: _Peer, now_s: float) -> None:
        peer.rung_s = now_s
        if self.doorbell.ring(peer.rank):
            self._counters.doorbells_rung += 1

    def _give_up(self, peer: _Peer) -> None:
        peer.dead = True
        for _, part in peer.queue:
            self._drop(part.frames, "peer_full")
            part.release()
        peer.queue.clear()
        self._queue_bytes -= peer.queue_bytes
        peer.queue_bytes = 0
        self._full.discard(peer)
        self._hold(peer)

    def _hold(self, peer: _Peer) -> None:
        """Tell the compiled part whether it may send to a peer."""
        if self._fastpath is not None:
            self._fastpath.held[peer.rank] = DEAD if peer.dead else HELD if peer.queue else FREE

    def _drop(self, frames: int, reason: str) -> bool:
        self._counters.drops[reason] += frames
        return False

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, wants_unicast: Callable[[], bool]) -> bool:
        """Take messages and pass them on; those for the guest only while `wants_unicast`, the others always.

        Among ranks of one host one receive of any message is always posted, except while unicasts are unwanted: it
        costs less than half of what a matched probe costs, and lets the message move while this rank does something
        else. Where there are several hosts messages are probed for: MPICH 5 over UCX left messages of other hosts
        lying for ever once a posted receive from any source had been matched by a rank of the same host.
        """
        if self._to_self:
            self._receiver.on_control(self.rank, self._to_self.popleft())
            return True
        if self._all_sent:
            return False
        if self._fastpath is not None:
            return self._receive_compiled(self._fastpath, wants_unicast)
        moved = False
        for _ in range(MESSAGES_A_TURN):
            if self._posted is None and not self._post(wants_unicast):
                return self._take_by_probing(wants_unicast) or moved
            size = self._posted_done()
            if size is None:
                break
            moved = True
            if size < ALONE_BELOW_BYTES:  # who it is for has the core at once; all else comes after
                break
        return moved

    def _receive_compiled(self, fastpath: FastPath, wants_unicast: Callable[[], bool]) -> bool:
        moved = False
        for _ in range(MESSAGES_A_TURN):
            if not (fastpath.receive(wants_unicast()) and self.take_arrived()):
                break
            moved = True
        fastpath.raise_error()
        return moved

    def take_arrived(self) -> bool:
        """Deliver the message that the compiled part has left to Python, if there is one. Comes before anything else
        is handed to the guest, which may have a part of it already."""
        if self._fastpath is None or not self._fastpath.shared.arrived:
            return False
        self._deliver_arrived(self._fastpath)
        if not self._all_sent:
            self._fastpath.lend(self._pool.get())
        return True

    def _deliver_arrived(self, fastpath: FastPath) -> None:
        """Pass on the message that the compiled part has left to Python, and take back the chunk that it lies in."""
        shared = fastpath.shared
        arrived, shared.arrived = shared.arrived, 0
        chunk = fastpath.reclaim()
        assert chunk is not None
        if arrived > 0:
            source = shared.source
            (self._peers.get(source) or self._peer(source)).heard_s = self.now_s
            self._deliver(source, shared.tag, chunk, shared.size_bytes, shared.sent_bytes)
            return
        chunk.release()
        self._counters.drops["too_long_message"] += 1
        try:
            fastpath.raise_error()
        except MPI.Exception as error:
            if error.Get_error_class() != MPI.ERR_TRUNCATE:
                raise

    def _post(self, wants_unicast: Callable[[], bool]) -> bool:
        """Post the receive, unless messages are to be probed for, or there can be none, or older ones arrive."""
        if (
            self.size == 1
            or not (self._posts and self.doorbell.settled() and self.one_host)
            or self._arriving
            or not wants_unicast()
        ):
            return False
        chunk = self._pool.get()
        self._posted = self._comm.Irecv([chunk.view, MPI.BYTE], MPI.ANY_SOURCE, MPI.ANY_TAG), chunk
        return True

    def _posted_done(self) -> int | None:
        """Deliver what came for the posted receive; its size in bytes, or None if nothing came."""
        assert self._posted is not None
        request, chunk = self._posted
        status = self._status
        try:
            if not request.Test(status):
                return None
        except MPI.Exception as error:
            if error.Get_error_class() != MPI.ERR_TRUNCATE:
                raise
            self._posted = None
            self._counters.drops["too_long_message"] += 1
            chunk.release()
            return 0
        self._posted = None
        source = status.Get_source()
        (self._peers.get(source) or self._peer(source)).heard_s = self.now_s
        size = status.Get_count(MPI.BYTE)
        self._deliver(source, status.Get_tag(), chunk, size)
        return size

    def _take_by_probing(self, wants_unicast: Callable[[], bool]) -> bool:
        """Take messages by probing for them; those for the guest alone only while they are wanted."""
        if self.size == 1:
            return False
        moved = False
        for _ in range(MESSAGES_A_TURN):
            if not self._take(wants_unicast()):
                break
            moved = True
        while self._arriving and self._arriving[0][0].Test():
            _, source, tag, chunk, size = self._arriving.popleft()
            self._deliver(source, tag, chunk, size)
            moved = True
        return moved

    def _take(self, unicast: bool) -> bool:
        """Match one message and receive it, or start to; without `unicast` one that is not for the guest alone."""
        if len(self._arriving) >= MESSAGES_A_TURN:
            return False
        status = self._status
        improbe = self._comm.Improbe
        if unicast:
            message = improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        else:
            message = improbe(MPI.ANY_SOURCE, BROADCAST, status) or improbe(MPI.ANY_SOURCE, CONTROL, status)
        if message is None:
            return False
        size = status.Get_count(MPI.BYTE)
        source, tag = status.Get_source(), status.Get_tag()
        chunk = self._pool.get_for(size)
        request = message.Irecv([chunk.view[:size], MPI.BYTE])
        self._peer(source).heard_s = self.now_s
        if self._arriving or not request.Test():
            self._arriving.append((request, source, tag, chunk, size))
        else:
            self._deliver(source, tag, chunk, size)
        return True

    def _deliver(self, source: int, tag: int, chunk: Chunk, size: int, sent: int = 0) -> None:
        if size > self._pool.chunk_bytes:
            self._counters.drops["too_long_message"] += 1
        elif tag == UNICAST:
            self._counters.messages_received += 1
            self._receiver.on_unicast(source, chunk, size, sent)
        elif tag == BROADCAST:
            self._counters.messages_received += 1
            self._receiver.on_broadcast(source, chunk, size)
        elif tag == CONTROL:
            self._receiver.on_control(source, bytes(chunk.view[:size]))
        else:
            self._counters.drops["unknown_message"] += 1
        chunk.release()

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def finished(self) -> bool:
        """Join the others in ending, once nothing of this rank's is on its way; True when all have.

        Call it again and again, and `receive` in between: others may still have something for this rank. The second
        barrier keeps jobs apart: nobody goes on to the next one, and sends to this rank, while it takes messages.
        """
        if self._barrier is None:
            if not (self.idle and self.doorbell.settled()):
                return False
            self._barrier = self._comm.Ibarrier()
        if not self._all_sent:
            if self._arriving or not self._barrier.Test():
                return False
            self._all_sent = True
            if self._posted is not None:
                self._posted[0].Cancel()
            elif self._fastpath is None:
                self._barrier = self._comm.Ibarrier()
        if self._posted is not None:
            if not self._unpost():
                return False
            self._barrier = self._comm.Ibarrier()
        if self._fastpath is not None:
            if not self._unpost_compiled(self._fastpath):
                return False
            self._fastpath = None
            self._barrier = self._comm.Ibarrier()
        return self._barrier.Test()

    def _unpost_compiled(self, fastpath: FastPath) -> bool:
        """The same for the compiled part, which is idle from then on."""
        if not fastpath.unpost():
            self.take_arrived()
            fastpath.raise_error()
            return False
        chunk = fastpath.reclaim()
        if chunk is not None:
            chunk.release()
        return True

    def _unpost(self) -> bool:
        """Whether the posted receive is over, be it cancelled or with the last message of this job."""
        assert self._posted is not None
        request, chunk = self._posted
        status = self._status
        if not request.Test(status):
            return False
        self._posted = None
        if status.Is_cancelled():
            chunk.release()
        else:
            self._deliver(status.Get_source(), status.Get_tag(), chunk, status.Get_count(MPI.BYTE))
        return True
