"""Forward frames of the guest to the other ranks, and frames of the other ranks to the guest.

    guest ⇄ link ⇄ Switch ⇄ fabric ⇄ the other ranks

The switch is a worker of `WorkerLoop`. None of its calls blocks, and a guest that does not read, or is gone, delays no
other guest:

- The guest sends more than a peer takes: it is not read until the peer has caught up (`Fabric.congested`).
- The guest takes less than the peers send: their messages are not received, so that the peers slow down in turn. If it
  takes nothing for net.drop_timeout_ms they are received and dropped, until it reads again.
- Broadcasts and control messages are always received, whatever the guest does, as other ranks depend on this one.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpi4py import MPI

from mvpnet.dataplane import address, arp, broadcast_tree, fabric, fastpath, routes
from mvpnet.dataplane.buffers import Chunk, Pool
from mvpnet.dataplane.counters import Counters
from mvpnet.dataplane.doorbell import Doorbell
from mvpnet.dataplane.fabric import Fabric
from mvpnet.dataplane.fastpath import FastPath
from mvpnet.dataplane.frame import LENGTH_BYTES, TOO_LONG, TOO_SHORT, Run, Splitter
from mvpnet.dataplane.link import DgramLink, Link, LinkLostError, StreamLink
from mvpnet.dataplane.tuning import FRAME_COSTS_BYTES
from mvpnet.dataplane.worker_loop import TURN, WorkerLoop
from mvpnet.spec.schema import Net, NetKind

_QUICK_NAP_S: Final = 1e-3  # while messages are in flight whose arrival is not announced
_LONG_NAP_S: Final = 1.0  # where every possible event wakes the loop
_UNCONNECTED_NAP_S: Final = 0.02
_FINISH_NAP_MAX_S: Final = 10e-3

_REASONS: Final = {
    TOO_SHORT: "too_short",
    TOO_LONG: "too_long",
    routes.SOURCE_NOT_OWN: "source_not_own",
    routes.NO_SUCH_RANK: "no_such_rank",
    routes.TO_ITSELF: "to_itself",
    routes.UNKNOWN_DESTINATION: "unknown_destination",
}


def loop_for(net: Net) -> WorkerLoop:
    """Return the loop to run a switch in, with the spinning and sleeping that `net` configures."""
    return WorkerLoop(spin_s=net.busy_poll_us / 1e6, max_spin_s=net.max_spin_us / 1e6, gather_s=net.coalesce_us / 1e6)


def open_link(rank: int, world_size: int, net: Net, *, path: Path | None = None, qemu_path: Path | None = None) -> Link:
    """Open the link of a rank, of kind `net.kind`: by descriptor, or by unix socket where paths are given.

    Args:
        rank: Rank of the guest.
        world_size: Number of ranks.
        net: The `net` section of the configuration.
        path: Socket of the rank, which the link creates and unlinks.
        qemu_path: Socket that qemu creates (dgram only).

    Raises:
        OSError: A path is too long or cannot be created.
    """
    resolve = routes.outbound(rank, world_size, net.mtu)
    pool = Pool(net.chunk_bytes)
    if net.kind is NetKind.stream:
        return StreamLink(resolve, pool, net.guest_queue_bytes, path)
    return DgramLink(resolve, pool, net.guest_queue_bytes, path, qemu_path)


class Switch:
    """Switch of one rank, for one job. All ranks of `comm` create theirs, with or without a link, and all `finish`.

    `comm` and `doorbell` may serve one job after another, but nothing else.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        doorbell: Doorbell,
        link: Link | None,
        net: Net,
        *,
        on_control: Callable[[int, bytes], object] = lambda source, payload: None,
        on_shutdown_request: Callable[[], object] | None = None,
        on_link_lost: Callable[[str], object] = lambda reason: None,
    ) -> None:
        """Create the switch.

        Args:
            comm: Communicator for the data path.
            doorbell: Wakes sleeping ranks.
            link: Link to the guest; None for a rank without one.
            net: The `net` section of the configuration.
            on_control: Called with source rank and payload of each control message.
            on_shutdown_request: Called when the guest asks for the shutdown address or sends the shutdown frame. None
                ignores both.
            on_link_lost: Called once with the reason, after the link has been closed.
        """
        self._counters = Counters()
        self.link = link
        self._on_control = on_control
        self._on_shutdown_request = on_shutdown_request
        self._on_link_lost = on_link_lost
        self._on_done: Callable[[], object] | None = None
        self._patience_s = net.drop_timeout_ms / 1e3
        self._nap_s = net.max_sleep_ms / 1e3
        self._doorbell = doorbell
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        self._unicast = Splitter(routes.inbound_unicast(self._rank))
        self._broadcast = Splitter(routes.inbound_broadcast(self._size))
        self._answers = Pool(LENGTH_BYTES + arp.FRAME_BYTES).get()
        self._finish_nap_s = _QUICK_NAP_S
        self._moved_bytes = 0  # in this turn
        self._rung = False
        self._comm = comm
        self._net = net
        self._awake_s = net.busy_poll_us / 2e6  # half the spin time: peers may fall silent before we hear of it
        self._fastpath: FastPath | None = None
        self._compile = net.compiled and fastpath.available()
        self._fabric = Fabric(
            comm,
            doorbell,
            Pool(net.chunk_bytes),
            self._counters,
            self,
            credits=net.credits,
            peer_queue_bytes=net.peer_queue_bytes,
            queue_bytes=net.queue_bytes,
            patience_s=2 * self._patience_s,  # the peer may wait for its own guest in the meantime
            awake_s=self._awake_s,
            compiled=self._compile,
        )

    @property
    def counters(self) -> Counters:
        """Return the counters, up to date."""
        if self._fastpath is not None:
            self._fastpath.count_into(self._counters)
        return self._counters

    @property
    def link_ready(self) -> bool:
        """Return whether qemu is connected."""
        return self.link is not None and self.link.connected

    def close_link(self) -> None:
        """Stop using the link of a guest that is gone. Messages are still received, and broadcasts still forwarded."""
        link, self.link = self.link, None
        if link is not None:
            self._drop("guest_gone", link.queued_frames)
            link.close()
            self._fabric.take_arrived()  # the next guest must not get the rest of a frame that this one took in part

    def send_control(self, to: int, payload: bytes) -> bool:
        """Send a small message to a rank, possibly to this one; False once this rank has ended its part in the job."""
        return self._fabric.send_control(to, payload)

    def finish(self, on_done: Callable[[], object]) -> None:
        """End the job together with all other ranks.

        Close the link, send what is queued, and go on receiving messages. Call `on_done` when no message of this job is
        left on any rank.
        """
        self.close_link()
        self._on_done = on_done

    @property
    def compiled(self) -> bool:
        """Return whether the compiled part is at work."""
        return self._fastpath is not None

    @property
    def compiles(self) -> bool:
        """Return whether the compiled part is used, possibly only once all ranks can ring each other."""
        return self._compile

    # -- the compiled part ---------------------------------------------------------------------------------------------

    def spin(self, until_s: float, busy_at_s: float, window_s: float) -> tuple[int, float]:
        compiled = self._fastpath or self._engage()
        if compiled is None or self._fabric.ended:
            return TURN, busy_at_s
        outcome = compiled.run(until_s, busy_at_s, window_s, self._flags(compiled))
        return outcome, compiled.shared.busy_at_s

    def doze(self, fds: dict[int, int], timeout_s: float, long_s: float) -> float | None:
        compiled = self._fastpath
        if compiled is None or self._fabric.ended:
            return None
        flags = self._flags(compiled)
        if flags & fastpath.TURN_FOLLOWS:
            return None
        slept_s = compiled.doze(fds, timeout_s, long_s, flags | fastpath.SPARSE)
        self._doorbell.proven |= bool(compiled.shared.proven)
        return slept_s

    def _flags(self, compiled: FastPath) -> int:
        """Return the flags of what the compiled part may do now."""
        mpi, link = self._fabric, self.link
        flags = fastpath.SPARSE if mpi.sparse else 0
        if mpi.has_work or self._on_done is not None:
            flags |= fastpath.TURN_FOLLOWS
        if link is None:
            flags |= fastpath.TAKE
        else:
            if link.connected and not link.compiled:
                link.engage(compiled)
            flags |= fastpath.TURN_FOLLOWS if not link.connected or link.behind else fastpath.MAY_DELIVER
            if link.connected and not mpi.congested:
                flags |= fastpath.MAY_SEND
        return flags

    def _engage(self) -> FastPath | None:
        """Start to use the compiled part, as soon as all ranks can ring each other."""
        if not self._compile or self._on_done is not None or not self._fabric.may_engage:
            return None
        net = self._net
        self._fastpath = FastPath(
            self._comm,
            self._doorbell,
            posts=self._fabric.one_host,
            credits=net.credits,
            chunk_bytes=net.chunk_bytes,
            longest_frame_bytes=routes.longest_frame_bytes(net.mtu),
            awake_s=self._awake_s,
            gather_s=net.coalesce_us / 1e6,
        )
        self._fabric.engage(self._fastpath)
        return self._fastpath

    def _disengage(self) -> None:
        if self._fastpath is not None:
            self._fastpath.count_into(self._counters)
            self._fastpath.close()
            self._fastpath = None

    # -- Worker --------------------------------------------------------------------------------------------------------

    def turn(self, now_s: float) -> int:
        mpi = self._fabric
        mpi.now_s = now_s
        self._moved_bytes = 0
        moved = mpi.take_arrived()
        link = self.link
        if link is not None:
            try:
                events = link.ready()
                if events:
                    moved = self._serve(link, events) or moved
            except LinkLostError as lost:
                self._lost(lost)
        if mpi.waiting:
            moved = mpi.retire() or moved
        moved = mpi.receive(self._wants_more) or moved
        if self._on_done is not None and mpi.finished():
            done, self._on_done = self._on_done, None
            self._disengage()
            done()
            return True
        return self._moved_bytes or moved

    def _serve(self, link: Link, events: int) -> bool:
        moved = False
        if events & select.POLLOUT:
            moved = link.flush()
        if events & ~select.POLLOUT and link.to_receive and not self._fabric.congested:
            self._from_guest(*link.receive())
            return True
        return moved

    def before_sleep(self) -> float:
        mpi, bell = self._fabric, self._doorbell
        if self._rung:  # not urgent before a sleep; one more round, for earlier messages
            self._rung = False
            bell.silence()
            return 0.0
        self._counters.sleeps += 1
        if self._on_done is not None:
            self._finish_nap_s = min(1.5 * self._finish_nap_s, _FINISH_NAP_MAX_S)
            return self._finish_nap_s
        if not bell.settled():
            return _QUICK_NAP_S
        if mpi.waiting:
            mpi.ring_all()
            return _QUICK_NAP_S
        if self.link is not None and not (self.link.connected and not self.link.full):
            return _UNCONNECTED_NAP_S
        return _LONG_NAP_S if bell.same_host or bell.proven else self._nap_s

    def interests(self) -> list[tuple[int, int]]:
        wanted = [(fd, select.POLLIN) for fd in self._doorbell.filenos()]
        if self.link is not None:
            events = self.link.interest
            wanted.append((self.link.fileno(), events & select.POLLOUT if self._fabric.congested else events))
        return wanted

    def after_sleep(self, now_s: float, ready: list[tuple[int, int]], spins: bool) -> None:
        mpi, link = self._fabric, self.link
        mpi.now_s = now_s
        mpi.sparse = not spins
        for fd, events in ready:
            if link is None or fd != link.fileno():
                self._rung = True
            elif link.connected and (events & select.POLLOUT or not link.compiled):  # otherwise it comes next anyway
                try:
                    self._serve(link, events)
                except LinkLostError as lost:
                    self._lost(lost)

    # -- from the guest ------------------------------------------------------------------------------------------------

    def _from_guest(self, chunk: Chunk, runs: list[Run]) -> None:
        counters = self._counters
        for run in runs:
            to, start, end, frames = run
            size = end - start - frames * LENGTH_BYTES
            self._moved_bytes += size + frames * FRAME_COSTS_BYTES
            counters.frames_from_guest += frames
            counters.bytes_from_guest += size
            if to >= 0:
                if to >= routes.ABOVE_MTU:
                    to -= routes.ABOVE_MTU
                    counters.frames_above_mtu += frames
                counters.bytes_by_destination[to] += size
                self._fabric.send(to, fabric.UNICAST, chunk.view[start:end], frames, chunk)
            elif to == routes.BROADCAST:
                self._broadcast_out(chunk.view[start:end], frames, chunk)
            elif to == routes.ARP:
                for at, after in _frames(chunk, run):
                    self._arp(chunk, at, after)
            elif to == routes.SHUTDOWN:
                for at, after in _frames(chunk, run):
                    self._perhaps_shutdown(chunk.view[at + LENGTH_BYTES : after])
            else:
                self._drop(_REASONS[to], frames)

    def _broadcast_out(self, view: memoryview, frames: int, chunk: Chunk) -> None:
        self._counters.broadcast_frames += frames
        for child in broadcast_tree.children(self._rank, self._rank, self._size):
            self._fabric.send(child, fabric.BROADCAST, view, frames, chunk)

    def _arp(self, chunk: Chunk, at: int, after: int) -> None:
        frame = bytes(chunk.view[at + LENGTH_BYTES : after])
        verdict, reply = arp.judge(frame, self._rank, self._size)
        if verdict is arp.ArpAction.reply:
            self._counters.arp_replies += 1
            self._answer(reply)
        elif verdict is arp.ArpAction.travel:
            self._arp_travels(frame, chunk, at, after)
        elif verdict is arp.ArpAction.shutdown:
            self._shutdown_requested()
        else:
            self._drop(verdict.value, 1)

    def _arp_travels(self, frame: bytes, chunk: Chunk, at: int, after: int) -> None:
        to = address.rank_of_mac(frame[:6])
        if frame[0] & 1:
            self._broadcast_out(chunk.view[at:after], 1, chunk)
        elif to is None or to >= self._size or to == self._rank:
            self._drop("unknown_destination", 1)
        else:
            self._fabric.send(to, fabric.UNICAST, chunk.view[at:after], 1, chunk)

    def _answer(self, frame: bytes) -> None:
        if self.link is not None:
            size = LENGTH_BYTES + len(frame)
            self._answers.buffer[:size] = len(frame).to_bytes(LENGTH_BYTES, "big") + frame
            self._to_guest(self._answers.view[:size], 1, self._answers)

    def _perhaps_shutdown(self, frame: memoryview) -> None:
        if frame == address.SHUTDOWN_FRAME:
            self._shutdown_requested()
        else:
            self._drop("source_not_own" if self._rank else "unknown_destination", 1)

    def _shutdown_requested(self) -> None:
        if self._on_shutdown_request is None:
            self._drop("shutdown_ignored", 1)
        else:
            self._on_shutdown_request()

    # -- from the other ranks (fabric.Receiver) ------------------------------------------------------------------------

    def on_unicast(self, source: int, chunk: Chunk, size_bytes: int, sent_bytes: int = 0) -> None:
        runs, stop = self._unicast.split(chunk.buffer, size_bytes)
        for claimed, start, end, frames in runs:
            if claimed == source:
                self._to_guest(chunk.view[start:end], frames, chunk, sent_bytes)
            else:
                self._drop("forged", frames)
        self._drop("malformed_bytes", size_bytes - stop)

    def on_broadcast(self, source: int, chunk: Chunk, size_bytes: int) -> None:
        runs, stop = self._broadcast.split(chunk.buffer, size_bytes)
        for root, start, end, frames in runs:
            if root < 0 or broadcast_tree.parent(self._rank, root, self._size) != source:
                self._drop("forged", frames)
                continue
            view = chunk.view[start:end]
            for child in broadcast_tree.children(self._rank, root, self._size):
                self._fabric.send(child, fabric.BROADCAST, view, frames, chunk, patiently=False)
            self._to_guest(view, frames, chunk)
        self._drop("malformed_bytes", size_bytes - stop)

    def on_control(self, source: int, payload: bytes) -> None:
        self._on_control(source, payload)

    # -- to the guest --------------------------------------------------------------------------------------------------

    def _to_guest(self, view: memoryview, frames: int, chunk: Chunk, sent_bytes: int = 0) -> None:
        if self.link is None:
            self._drop("guest_gone", frames)
            return
        try:
            taken = self.link.transmit(view, frames, chunk, sent_bytes)
        except LinkLostError as lost:
            self._drop("guest_gone", frames)
            self._lost(lost)
            return
        if taken:
            size = len(view) - frames * LENGTH_BYTES
            self._moved_bytes += size + frames * FRAME_COSTS_BYTES
            self._counters.frames_to_guest += frames
            self._counters.bytes_to_guest += size
        else:
            self._drop("guest_full", frames)

    def _wants_more(self) -> bool:
        """Return whether to receive unicasts: not while the guest is behind, unless it has been for too long."""
        link = self.link
        return link is None or not link.full or time.monotonic() - link.moved_at_s > self._patience_s

    def _lost(self, lost: LinkLostError) -> None:
        self.close_link()
        self._on_link_lost(str(lost))

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._counters.drops[reason] += count


def _frames(chunk: Chunk, run: Run) -> list[tuple[int, int]]:
    """Return start (of its length) and end of each frame of a run."""
    _, at, end, _ = run
    found = []
    while at < end:
        after = at + LENGTH_BYTES + int.from_bytes(chunk.buffer[at : at + LENGTH_BYTES], "big")
        found.append((at, after))
        at = after
    return found
