"""What every rank runs under mpiexec for test_dataplane.py: `dataplane_body.py KIND:CASE:compiled|python …`.

For any number of ranks, each case with the compiled part of the data path or without, in a communicator of its own.

Each rank plays its own guest on the other end of its link, from the callbacks of the loop that runs its switch.
"""

from __future__ import annotations

import random
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import mpi4py

mpi4py.rc.thread_level = "single"
from mpi4py import MPI  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "dataplane"))
from frames import arp, frame, packed, unpacked  # noqa: E402

from mvpnet.dataplane import address, broadcast_tree, fabric  # noqa: E402
from mvpnet.dataplane.doorbell import Doorbell  # noqa: E402
from mvpnet.dataplane.switch import Switch, loop_for, open_link  # noqa: E402
from mvpnet.dataplane.worker_loop import WorkerLoop  # noqa: E402
from mvpnet.runtime.loop import Loop  # noqa: E402
from mvpnet.spec.schema import Net, NetKind  # noqa: E402

DEADLINE_S = 20.0
RANK, SIZE = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
# Of the case that runs: see run_cases.
COMPILED = False
COMM = MPI.COMM_SELF
DOORBELL: Doorbell
CLEANUP: ExitStack


class Guest:
    """The other end of a link. It reads whenever something is there, unless told not to."""

    def __init__(self, loop: Loop, end: socket.socket, kind: str) -> None:
        self.got: list[bytes] = []
        self._loop, self._end, self._kind, self._left = loop, end, kind, b""
        self._out: list[bytes] = []
        end.setblocking(False)
        self.read()

    def read(self) -> None:
        self._loop.watch(self._end.fileno(), self._receive)

    def ignore(self) -> None:
        self._loop.unwatch(self._end.fileno())

    def send(self, *frames: bytes) -> None:
        self._out += [packed([f]) if self._kind == "stream" else f for f in frames]
        self._flush()

    @property
    def sent(self) -> bool:
        return not self._out

    def send_raw(self, data: bytes) -> None:
        self._end.send(data)

    def leave(self) -> None:
        self.ignore()
        self._end.close()

    def _flush(self) -> None:
        try:
            while self._out:
                n = self._end.send(self._out[0])
                self._out[0] = self._out[0][n:]
                if not self._out[0]:
                    self._out.pop(0)
        except BlockingIOError:
            self._loop.call_later(0.001, self._flush)

    def _receive(self) -> None:
        data = self._end.recv(1 << 20)
        if self._kind == "dgram":
            self.got.append(data)
            return
        if not data:
            self.ignore()
            return
        self._left += data
        while len(self._left) >= 4 and len(self._left) >= (after := 4 + int.from_bytes(self._left[:4], "big")):
            self.got += unpacked(self._left[:after])
            self._left = self._left[after:]


class Job:
    """A loop, a switch, a link and a guest, from start to finish."""

    def __init__(self, kind: str, *, ignore_shutdown: bool = False, **tuning: int) -> None:
        self.net = net = Net(kind=NetKind[kind], compiled=COMPILED, **tuning)
        self.loop = loop_for(net)
        link = open_link(RANK, SIZE, net)
        assert link.qemu_fd is not None
        self.guest = Guest(self.loop, socket.socket(fileno=socket.dup(link.qemu_fd)), kind)
        link.detach_qemu_end()
        self.lost: list[str] = []
        self.shutdowns = 0
        self.control: list[tuple[int, bytes]] = []
        self._steps: Counter[int] = Counter()
        self._step = 0
        self.switch = Switch(
            COMM,
            DOORBELL,
            link,
            net,
            on_control=self._on_control,
            on_shutdown_request=None if ignore_shutdown else self._on_shutdown,
            on_link_lost=self.lost.append,
        )
        self.loop.worker = self.switch
        self.link = link
        CLEANUP.callback(self.close)

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.call_later(0.001, look)

        def fail() -> None:
            raise AssertionError(f"rank {RANK} waited in vain for {what}: {self.switch.counters.as_dict()}")

        deadline = self.loop.call_later(DEADLINE_S, fail)
        look()
        self.loop.run()
        deadline.cancel()

    def meet(self) -> None:
        """Wait until all ranks are at this point; what they sent before has been taken by then, if it was unicast."""
        self._step += 1
        for rank in range(SIZE):
            assert self.switch.send_control(rank, b"meet %d" % self._step)
        self.until(lambda: self._steps[self._step] == SIZE, f"all ranks at step {self._step}")
        self.until(lambda: self.switch.compiled == COMPILED, "the compiled part to begin")

    def finish(self) -> dict[str, int]:
        done: list[bool] = []
        self.switch.finish(lambda: done.append(True))
        self.until(lambda: done, "the end of the job")
        assert not self.switch.send_control(0, b"too late")
        return dict(self.switch.counters.drops)

    def close(self) -> None:
        self.guest.leave()
        for link in {self.link, self.switch.link} - {None}:
            link.close()

    def _on_control(self, source: int, payload: bytes) -> None:
        if payload.startswith(b"meet "):
            self._steps[int(payload[5:])] += 1
        else:
            self.control.append((source, payload))

    def _on_shutdown(self) -> None:
        self.shutdowns += 1


OTHERS = [rank for rank in range(SIZE) if rank != RANK]


def all_to_all(kind: str) -> None:
    """Unicast, broadcast, ARP and control between all ranks; and twice, on the same communicator."""
    for fill in (1, 2):
        all_to_all_once(kind, fill)


def all_to_all_once(kind: str, fill: int) -> None:
    job = Job(kind)
    job.meet()
    for rank in OTHERS:
        job.guest.send(*[frame(RANK, rank, size, fill=fill) for size in (60, 1514, 1514, 9014)])
    job.guest.send(frame(RANK, address.BROADCAST_MAC, 77, fill=fill))
    job.guest.send(frame(RANK, b"\x33\x33\0\0\0\1", 78, fill=fill))
    job.guest.send(arp(RANK, address.ipv4((RANK + 1) % SIZE)), arp(RANK, bytes([10, 255, 255, 255])))
    for rank in range(SIZE):
        assert job.switch.send_control(rank, bytes([fill]))
    expected = Counter(
        f
        for rank in OTHERS
        for f in [
            *[frame(rank, RANK, size, fill=fill) for size in (60, 1514, 1514, 9014)],
            frame(rank, address.BROADCAST_MAC, 77, fill=fill),
            frame(rank, b"\x33\x33\0\0\0\1", 78, fill=fill),
        ]
    )
    replies = 0 if SIZE == 1 else 1
    job.until(lambda: len(job.guest.got) >= expected.total() + replies, "all frames")
    job.until(lambda: len(job.control) >= SIZE, "all control messages")
    job.meet()
    got = Counter(job.guest.got)
    answered = [f for f in got if f[12:14] == b"\x08\x06"]
    assert len(answered) == replies
    for f in answered:
        assert f[22:32] == address.mac((RANK + 1) % SIZE) + address.ipv4((RANK + 1) % SIZE)
        del got[f]
    assert got == expected, (len(got), len(expected))
    assert Counter(job.control) == Counter((rank, bytes([fill])) for rank in range(SIZE))
    drops = job.finish()
    assert drops == {"arp_unknown_address": 1} | ({"arp_gratuitous": 1} if SIZE == 1 else {}), drops
    c = job.switch.counters.as_dict()
    assert c["bytes_by_destination"] == {str(rank): 60 + 2 * 1514 + 9014 for rank in OTHERS}
    assert c["frames_to_guest"] == expected.total() + replies
    assert c["frames_above_mtu"] == len(OTHERS)


def bad_frames(kind: str) -> None:
    """What a guest must not send is dropped where it is sent, by reason, and what follows still arrives."""
    job = Job(kind)
    job.meet()
    to = (RANK + 1) % SIZE
    job.guest.send(
        frame(RANK + 1, to),
        frame(RANK, SIZE),
        frame(RANK, RANK),
        frame(RANK, b"\x02\0\0\0\0\1"),
        b"short",
        arp(RANK, address.ipv4(0), sender_mac=address.mac(RANK + 1)),
        arp(RANK, bytes([10, 255, 255, 254]), sender=bytes([10, 255, 255, 254])),
        arp(RANK, address.ipv4(RANK), operation=2),
        frame(RANK, to, 99),
    )
    job.until(lambda: job.switch.counters.frames_from_guest == 9, "all frames to be read")
    if SIZE > 1:
        job.until(lambda: job.guest.got, "the good frame")
    job.meet()
    assert job.guest.got == ([frame((RANK - 1) % SIZE, RANK, 99)] if SIZE > 1 else [])
    names = ["source_not_own", "no_such_rank", "to_itself", "unknown_destination", "too_short"]
    expected = dict.fromkeys([*names, "arp_gratuitous"], 1) | {"arp_forged": 2}
    if SIZE == 1:
        expected["to_itself"] = 2
    drops = job.finish()
    assert drops == expected, drops


def virtual_address(kind: str) -> None:
    """An address that follows from no rank is found by ARP, moves to another guest, and moves back."""
    job = Job(kind)
    job.meet()
    for virtual in (bytes([192, 0, 2, 7]), bytes([10, 200, 0, 7])):
        for holder in (0, SIZE - 1, 0):
            _hold(job, holder, virtual)
    drops = job.finish()
    assert not drops, drops


def _hold(job: Job, holder: int, virtual: bytes) -> None:
    """Have `holder` probe and announce the address, as keepalived and arping do, and all others ask for it."""
    probe = arp(holder, virtual, sender=bytes(4))
    announced = [arp(holder, virtual, sender=virtual, operation=operation) for operation in (1, 2)]
    advertised = frame(holder, b"\x33\x33\0\0\0\1", 86, ethertype=b"\x86\xdd")  # IPv6's neighbour advertisement
    job.guest.got.clear()
    job.meet()
    if holder == RANK:
        job.guest.send(probe, *announced, advertised)
        asked = [arp(rank, virtual) for rank in OTHERS]
        job.until(lambda: all(request in job.guest.got for request in asked), "all requests")
        for rank in OTHERS:
            job.guest.send(arp(RANK, address.ipv4(rank), sender=virtual, operation=2, to=rank))
    else:
        job.until(lambda: advertised in job.guest.got, "the announcements")
        assert [f for f in job.guest.got if f[6:12] == address.mac(holder)] == [probe, *announced, advertised]
        job.guest.send(arp(RANK, virtual))
        reply = arp(holder, address.ipv4(RANK), sender=virtual, operation=2, to=RANK)
        job.until(lambda: reply in job.guest.got, "the reply")
    job.meet()


def forged_messages(kind: str) -> None:
    """A rank that lies is not believed: no frame reaches a guest that it was not for, or from another than it says."""
    job = Job(kind)
    job.meet()
    victim, liar = 0, SIZE - 1
    requests = []
    if liar == RANK and SIZE > 1:
        good = [frame(liar, victim, 61), frame(liar, victim, 62)]
        lies = [
            (fabric.UNICAST, packed([good[0], frame(liar, liar), frame(victim, victim), good[1]])),
            (fabric.UNICAST, packed([frame(SIZE + 5, victim), frame(liar, address.BROADCAST_MAC)])),
            (fabric.UNICAST, packed([frame(liar, victim, 63)]) + b"\xff\xff\xff\xff and more"),
            (fabric.UNICAST, packed([frame(liar, victim, 64)])[:-1]),
            (fabric.UNICAST, b""),
            (fabric.BROADCAST, packed([frame(victim, address.BROADCAST_MAC), frame(liar, victim)])),
            (fabric.BROADCAST, packed([frame(SIZE, address.BROADCAST_MAC), b"short"])),
            (fabric.BROADCAST, packed([frame(liar, address.BROADCAST_MAC, 65)])),
            (99, packed([frame(liar, victim)])),
            (fabric.UNICAST, packed([frame(liar, victim, 66)] * 20_000)),  # longer than a chunk
        ]
        requests = [COMM.Issend([data, MPI.BYTE], victim, tag) for tag, data in lies]
        job.until(lambda: MPI.Request.Testall(requests), "the lies to be taken")
    # The frame of 65 bytes is an honest broadcast, and went down the tree to the ranks below `victim` as well.
    if victim == RANK and SIZE > 1:
        job.until(lambda: len(job.guest.got) >= 4, "what was true")
        assert [len(f) for f in job.guest.got[:3]] == [61, 62, 63]
        assert [len(f) for f in job.guest.got[3:]] == [65]
    job.meet()
    drops = job.finish()
    if victim == RANK and SIZE > 1:
        assert drops.pop("malformed_bytes") == 4 + len(" and more") + 67
        assert drops.pop("unknown_message") == 1
        assert drops.pop("too_long_message") == 1
        assert drops.pop("forged") == 8
    assert not drops, drops


def any_messages(kind: str) -> None:
    """Any bytes as messages: nobody falls, and no guest gets a frame from its own rank or for another."""
    job = Job(kind)
    job.meet()
    noise = random.Random(RANK)
    for _ in range(100):
        to, tag = noise.choice([*OTHERS, RANK]), noise.choice([fabric.UNICAST, fabric.BROADCAST])
        if to == RANK:
            continue
        data = bytearray(
            packed([frame(noise.randrange(SIZE + 1), noise.randrange(SIZE + 1), noise.randrange(14, 80))] * 40)
        )
        for _ in range(noise.choice([0, 1, 100])):
            data[noise.randrange(len(data))] = noise.randrange(256)
        request = COMM.Issend([data, MPI.BYTE], to, tag)
        job.until(request.Test, "a message to be taken")
    job.meet()
    for f in job.guest.got:
        assert f[0] & 1 or f[:6] == address.mac(RANK)
        assert f[6:12] != address.mac(RANK)
        assert address.rank_of_mac(f[6:12]) in OTHERS
    job.finish()


def flood(kind: str) -> None:
    """Every rank floods the next, whose guest reads as fast as it can: nothing is lost, and nothing is out of order."""
    job = Job(kind, peer_queue_bytes=100_000, guest_queue_bytes=100_000, drop_timeout_ms=20_000)
    job.meet()
    if SIZE > 1:
        to, count = (RANK + 1) % SIZE, 3000
        sent = [frame(RANK, to, 1000, fill=n % 256) for n in range(count)]
        for at in range(0, count, 100):
            job.guest.send(*sent[at : at + 100])
        job.until(lambda: job.guest.sent and len(job.guest.got) >= count, "the flood")
        came_from = (RANK - 1) % SIZE
        assert job.guest.got == [frame(came_from, RANK, 1000, fill=n % 256) for n in range(count)]
    job.meet()
    drops = job.finish()
    assert not drops, drops


def guest_that_does_not_read(kind: str) -> None:
    """Rank 0's guest sleeps while all flood it: others go on, memory is bounded, and later it gets frames again."""
    job = Job(kind, guest_queue_bytes=100_000, drop_timeout_ms=20)
    if RANK == 0:
        job.guest.ignore()
    job.meet()
    if RANK:
        for _ in range(30):
            job.guest.send(*[frame(RANK, 0, 1400)] * 100)
        job.until(lambda: job.guest.sent, "the flood to be taken")
        job.until(lambda: job.switch._fabric.idle, "the flood to be sent")
    if RANK == 0 and SIZE > 1:
        job.until(lambda: job.switch.counters.drops["guest_full"], "frames to be dropped")
    job.meet()
    assert job.link.backlog_bytes <= 2 * 100_000 + 256 * 1024
    if SIZE > 2 and RANK in (1, SIZE - 1):  # these have an open road all the while
        other = SIZE - 1 if RANK == 1 else 1
        job.guest.send(frame(RANK, other, 70))
        job.until(lambda: frame(other, RANK, 70) in job.guest.got, "a frame past the sleeper")
    job.meet()
    if RANK == 0:
        job.guest.read()
        job.until(lambda: job.link.backlog_bytes == 0, "the guest to catch up")
    job.meet()
    for rank in OTHERS:
        job.guest.send(frame(RANK, rank, 71))
    job.until(lambda: all(frame(rank, RANK, 71) in job.guest.got for rank in OTHERS), "frames as before")
    job.meet()
    drops = job.finish()
    assert set(drops) <= {"guest_full", "peer_full"}, drops


def guest_that_is_gone(kind: str) -> None:
    """The guest that relays a broadcast in the tree has left: its rank still passes it on, and takes what is for it."""
    job = Job(kind)
    job.meet()
    if RANK == 1 % SIZE:
        job.switch.close_link()
        job.guest.leave()
        assert not job.switch.link_ready
    job.meet()
    if RANK == 0 and SIZE > 1:
        job.guest.send(frame(0, address.BROADCAST_MAC, 80), frame(0, 1))
    if RANK > 1:
        job.until(lambda: frame(0, address.BROADCAST_MAC, 80) in job.guest.got, "the broadcast")
        assert SIZE < 4 or broadcast_tree.parent(3, 0, SIZE) == 1
    if RANK == 1:
        job.until(lambda: job.switch.counters.drops["guest_gone"] >= 2, "frames for the guest that is gone")
    job.meet()
    job.finish()
    assert not job.lost


def link_that_breaks(kind: str) -> None:
    """Rank 0's guest breaks its link: it is told why, once, and the others do not mind."""
    job = Job(kind)
    job.meet()
    if RANK == 0:
        if kind == "stream":
            job.guest.send_raw(b"\xff" * 100)
            job.until(lambda: job.lost, "the link to be lost")
            assert "broken framing" in job.lost[0]
        else:
            job.guest.leave()
    job.meet()
    for sent in (1, 2, 3):
        if RANK == SIZE - 1 and SIZE > 1:
            job.guest.send(frame(RANK, 0))
        if RANK == 0 and SIZE > 1:
            job.until(lambda n=sent: job.switch.counters.drops["guest_gone"] == n, "a frame for the guest that is gone")
            assert len(job.lost) == 1
            assert not job.switch.link_ready
        job.meet()
    job.finish()


def another_guest(kind: str) -> None:
    """Rank 0's guest leaves in the middle of a frame, and another comes in its place, as with vm.restart."""
    job = Job(kind)
    job.meet()
    if RANK == 0:
        if kind == "stream":
            job.guest.send_raw(packed([frame(0, SIZE)]) + packed([frame(0, 1)])[:40])
        else:
            job.guest.send_raw(frame(0, SIZE))
        job.until(lambda: job.switch.counters.drops["no_such_rank"], "its last whole frame")
        job.switch.close_link()
        job.guest.leave()
        job.switch.link = link = open_link(RANK, SIZE, job.net)
        assert link.qemu_fd is not None
        job.guest = Guest(job.loop, socket.socket(fileno=socket.dup(link.qemu_fd)), kind)
        link.detach_qemu_end()
    job.meet()
    job.guest.send(*[frame(RANK, rank, 81) for rank in OTHERS], frame(RANK, address.BROADCAST_MAC, 82))
    expected = [f for rank in OTHERS for f in (frame(rank, RANK, 81), frame(rank, address.BROADCAST_MAC, 82))]
    job.until(lambda: len(job.guest.got) >= len(expected), "frames between all")
    job.meet()
    assert sorted(job.guest.got) == sorted(expected)
    drops = job.finish()
    assert drops == ({"no_such_rank": 1} if RANK == 0 else {}), drops
    assert not job.lost


def shutdown(kind: str) -> None:
    """The shutdown frame and the shutdown address, obeyed or ignored; what only looks like them is neither."""
    ask, order = arp(RANK, address.SHUTDOWN_IPV4), address.SHUTDOWN_FRAME
    job = Job(kind)
    job.meet()
    job.guest.send(ask, order)
    job.until(lambda: job.shutdowns == 2, "two requests")
    job.guest.send(order[:-1] + b"x")
    job.until(lambda: job.switch.counters.frames_from_guest == 3, "three frames")
    job.meet()
    assert job.shutdowns == 2
    assert not job.guest.got
    assert sum(job.finish().values()) == 1
    job = Job(kind, ignore_shutdown=True)
    job.meet()
    job.guest.send(ask, order)
    job.until(lambda: job.switch.counters.drops["shutdown_ignored"] == 2, "both to be counted")
    job.meet()
    assert not job.guest.got
    job.finish()


def no_link(kind: str) -> None:
    """A rank whose guest never came to be takes part all the same."""
    net = Net(kind=NetKind[kind], compiled=COMPILED)
    loop = WorkerLoop()
    switch = Switch(COMM, DOORBELL, None, net)
    loop.worker = switch
    assert not switch.link_ready
    switch.finish(loop.stop)
    deadline = loop.call_later(DEADLINE_S, sys.exit)
    loop.run()
    deadline.cancel()


def too_large_control(kind: str) -> None:
    job = Job(kind)
    job.meet()
    try:
        job.switch.send_control(0, bytes(fabric.MAX_CONTROL_BYTES + 1))
    except ValueError as error:
        assert "65537 bytes" in str(error)
    else:
        raise AssertionError("it was sent")
    assert job.switch.send_control(0, bytes(fabric.MAX_CONTROL_BYTES))
    if RANK == 0:
        job.until(lambda: len(job.control) == SIZE, "the largest control messages")
    job.meet()
    job.finish()


def doorbell(kind: str) -> None:
    """Ranks that sleep at once when they have nothing to do wake each other."""
    job = Job(kind, busy_poll_us=0, max_spin_us=0)
    job.meet()
    for n in range(1, 21 if SIZE > 1 else 0):
        if RANK == 0:
            job.guest.send(frame(0, 1))
        if RANK < 2:
            job.until(lambda n=n: len(job.guest.got) == n, "a question or its answer")  # type: ignore[misc]
        if RANK == 1:
            job.guest.send(frame(1, 0))
    job.meet()
    if RANK < 2:  # whether the others rang depends on who was asleep when they met
        assert bool(job.switch.counters.doorbells_rung) == (SIZE > 1)
    job.finish()


def run_cases(cases: dict[str, Callable[[str], None]]) -> None:
    """Run the cases that the command line names, each when all ranks are through with the one before."""
    global CLEANUP, COMM, COMPILED, DOORBELL
    for argument in sys.argv[1:]:
        kind, name, how = argument.split(":")
        COMM, COMPILED = MPI.COMM_WORLD.Dup(), how == "compiled"
        DOORBELL = Doorbell(COMM)
        with ExitStack() as CLEANUP:
            CLEANUP.callback(DOORBELL.close)
            cases[name](kind)
            assert not COMM.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG), "a message was left over"
        sys.stdout.write(f"rank {RANK} of {SIZE} is through {argument}\n")  # one write, unlike print()
        sys.stdout.flush()
        MPI.COMM_WORLD.Barrier()
        COMM.Free()


if __name__ == "__main__":
    run_cases(globals())
