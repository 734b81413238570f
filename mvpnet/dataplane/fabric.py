"""Exchange MPI messages between ranks: batches of frames, with synchronous sends as credits, and control messages.

A batch is an `Issend`, which completes when the peer has received it. At most `credits` batches are in flight to one
peer. Frames that come meanwhile are queued, and are sent as one batch when a credit returns. So batches grow by
themselves under load, memory is bounded on both sides, and no acknowledgement is needed. No call in this module waits
inside MPI.

Queued bytes are bounded for each peer and in total. Above that bound `congested` asks the owner to stop reading from
its guest. A peer that receives nothing for `patience_s` nevertheless loses its queue and all further frames, until it
receives again.
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
    """Handler of received messages. Each call gives the source rank; the chunk is valid during the call only."""

    def on_unicast(self, source: int, chunk: Chunk, size_bytes: int, sent_bytes: int = 0) -> None:
        """Handle a unicast message.

        If `sent_bytes` is not 0, the guest has taken that many bytes already, and the message is one run of valid
        frames.
        """
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
        self.heard_s = 0.0  # when it last received or sent a message
        self.rung_s = 0.0
        self.ring_wait_s = RING_AFTER_S
        self.dead = False  # received nothing for too long


# A message that the peer has not received yet, and the buffer that contains it. A plain tuple, as each costs time. The
# request keeps bytes alive.
_Flight = tuple[MPI.Request, _Peer, Chunk | BufferSlice | None]


class Fabric:
    """Message exchange with the ranks of `comm`, which must not be used for any other send or receive."""

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
        """Start to exchange messages over `comm`.

        Args:
            comm: Communicator for this fabric alone.
            doorbell: Wakes sleeping peers.
            pool: Supplies the chunks for received messages.
            counters: Counters to update.
            receiver: Handler of received messages.
            credits: Largest number of messages in flight to one peer.
            peer_queue_bytes: Bound of the queue for one peer.
            queue_bytes: Bound of all queues together.
            patience_s: Time after which a peer that receives nothing loses its queue.
            awake_s: A peer that received or sent a message more recently is awake, and finds messages without a ring.
            compiled: Expect `engage`, and leave the posting of receives to the compiled part.
        """
        self.rank: Final = comm.Get_rank()
        self.size: Final = comm.Get_size()
        self.doorbell = doorbell
        self.now_s = 0.0  # set by the owner: time.monotonic() at the start of this turn
        self.sparse = True  # messages are rare, and peers sleep in between as this rank does: ring them at once
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
        self._posted: tuple[MPI.Request, Chunk] | None = None  # a receive for any source and tag
        self._arriving: deque[tuple[MPI.Request, int, int, Chunk, int]] = deque()
        self._to_self: deque[bytes] = deque()
        self._full: set[_Peer] = set()
        self._queue_bytes = 0
        self._fastpath: FastPath | None = None
        self._posts = not compiled
        self._status = MPI.Status()
        self._barrier: MPI.Request | None = None
        self._all_sent = False  # all ranks have passed the first barrier of the end: no message of this job is left

    # -- sending -------------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Return whether too many bytes are queued for the peers: send nothing more for now."""
        return bool(self._full) or self._queue_bytes > self._max_queue_bytes

    @property
    def waiting(self) -> bool:
        """Return whether messages are in flight or queued."""
        return bool(self._flights) or (self._fastpath is not None and self._fastpath.shared.flights > 0)

    @property
    def idle(self) -> bool:
        """Return whether nothing is in flight in either direction, as far as this rank knows."""
        own = self._flights or self._arriving or self._to_self
        return not own and (self._fastpath is None or self._fastpath.idle)

    @property
    def has_work(self) -> bool:
        """Return whether this object has work to do, whether or not the compiled part is idle."""
        return bool(self._flights or self._to_self or self._barrier is not None)

    @property
    def ended(self) -> bool:
        """Return whether all ranks have sent everything, and only `finished` still has to receive."""
        return self._all_sent

    @property
    def one_host(self) -> bool:
        """Return whether to keep a receive posted rather than probe. Valid only once the doorbell is settled."""
        return _POSTING_IS_SAFE and self.doorbell.same_host

    @property
    def may_engage(self) -> bool:
        """Return whether all ranks can be rung, and no message is being received into this rank's buffers."""
        return self.doorbell.settled() and not self._arriving and self._barrier is None

    def engage(self, fastpath: FastPath) -> None:
        """Let the compiled part receive from now on. Call it only when `may_engage`."""
        self._fastpath = fastpath
        for peer in self._peers.values():
            self._hold(peer)
        fastpath.lend(self._pool.get())

    def send(self, to: int, tag: int, view: memoryview, frames: int, chunk: Chunk, *, patiently: bool = True) -> bool:
        """Send frames in `chunk` to a rank, now or when it has a credit.

        Args:
            to: Destination rank.
            tag: MPI tag of the message.
            view: The frames.
            frames: Number of frames in `view`.
            chunk: Chunk that contains `view`.
            patiently: The sender of these frames can be stopped by `congested`, so queue them even above the bound.

        Returns:
            False if the frames were dropped and counted.
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
        """Send a small message, possibly to this rank itself.

        Returns:
            False after this rank's part in the job has ended.

        Raises:
            ValueError: The payload is longer than MAX_CONTROL_BYTES.
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
        """Return the credits of received messages, send queued frames for them, and ring sleeping peers."""
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
        """Ring every peer that has yet to receive a message, as this rank is about to sleep."""
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
            peer.heard_s = now_s  # the patience starts here
        request = self._comm.Issend([data, MPI.BYTE], peer.rank, tag)
        if asleep:  # not earlier: the peer may take this core at once, and should find the message
            self._ring(peer, now_s)
            peer.ring_wait_s = RING_AGAIN_S
        peer.in_flight += 1
        self._flights.append((request, peer, held))
        self._counters.messages_sent += 1

    def _issue_batch(self, peer: _Peer) -> None:
        """Send the frames queued for a peer, as many as fit into one batch."""
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

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, wants_unicast: Callable[[], bool]) -> bool:
        """Receive messages and pass them on; unicasts only while `wants_unicast`, all others always.

        Among ranks of one host a receive for any message is always posted, except while unicasts are unwanted. It costs
        less than half of a matched probe, and lets the message progress while this rank does something else. With
        several hosts messages are probed for: MPICH 5 over UCX left messages of other hosts undelivered for ever once a
        posted receive from any source had been matched by a rank of the same host.
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
            if size < ALONE_BELOW_BYTES:  # give the core to the recipient at once; all else comes after
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
        """Deliver the message that the compiled part has left to Python, if there is one.

        Call it before anything else is written to the guest, which may have taken a part of the message already.
        """
        if self._fastpath is None or not self._fastpath.shared.arrived:
            return False
        self._deliver_arrived(self._fastpath)
        if not self._all_sent:
            self._fastpath.lend(self._pool.get())
        return True

    def _deliver_arrived(self, fastpath: FastPath) -> None:
        """Pass on the message that the compiled part has left to Python, and reclaim its chunk."""
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
        """Post the receive, unless messages are to be probed for, none can come, or older ones are still arriving."""
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
        """Deliver the message of the posted receive.

        Returns:
            Its size in bytes, or None if no message has arrived.
        """
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
        """Receive messages by probing for them; unicasts only while they are wanted."""
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
        """Match one message and receive it, or start to; without `unicast` only broadcast and control messages."""
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

    # -- the end of the job --------------------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Take part in the end of the job, once none of this rank's messages is in flight.

        Call it repeatedly, and `receive` in between, as other ranks may still send to this rank. The second barrier
        keeps jobs apart: no rank starts the next job, and sends to this rank, while it still receives messages of this
        one.

        Returns:
            True when all ranks have finished.
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
        """End the posted receive of the compiled part, which is idle from then on."""
        if not fastpath.unpost():
            self.take_arrived()
            fastpath.raise_error()
            return False
        chunk = fastpath.reclaim()
        if chunk is not None:
            chunk.release()
        return True

    def _unpost(self) -> bool:
        """Return whether the posted receive is over, either cancelled or with the last message of this job."""
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
