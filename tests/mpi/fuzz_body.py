"""What every rank runs under mpiexec for test_fuzz.py: `fuzz_body.py KIND:CASE:compiled|python …`, two ranks or more.

peers    any bytes, as if a peer had sent them, into a rank's switch
guest    rank 0's guest sends any frames, through its own rank to the others
messages any bytes as messages, from all to all
"""

from __future__ import annotations

import random
from collections import Counter

import dataplane_body as body  # first: it starts MPI
from dataplane_body import MPI, RANK, SIZE, Job
from frames import arp, frame, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from mvpnet.dataplane import address, broadcast_tree, fabric
from mvpnet.dataplane.buffers import Pool
from mvpnet.dataplane.frame import MAX_FRAME_BYTES

ATTEMPTS = 1500  # of a world: in `peers` its ranks share them, each with numbers of its own
SEED = 3

MACS = st.one_of(
    st.integers(0, SIZE).map(address.mac),
    st.sampled_from([address.BROADCAST_MAC, b"\x33\x33\0\0\0\1", address.user_mac(2)]),
    st.binary(min_size=6, max_size=6),
)
FRAMES = st.one_of(
    st.builds(
        frame, MACS, MACS, st.sampled_from([14, 60, 60, 1514, 9014]), st.sampled_from([b"\x08\x00", b"\x08\x06"])
    ),
    st.just(address.SHUTDOWN_FRAME),
    st.binary(max_size=40),
)
MESSAGES = st.lists(
    st.one_of(
        st.lists(FRAMES, max_size=5).map(packed),
        st.tuples(FRAMES, st.integers(1, 40)).map(lambda many: packed([many[0]] * many[1])),
        st.binary(max_size=40),
        st.sampled_from([MAX_FRAME_BYTES + 1, 2**32 - 1]).map(lambda n: n.to_bytes(4, "big")),
    ),
    max_size=4,
).map(b"".join)


def whole_frames(data: bytes) -> list[bytes]:
    frames, at = [], 0
    while len(data) - at >= 4:
        length = int.from_bytes(data[at : at + 4], "big")
        if length > MAX_FRAME_BYTES or len(data) - at - 4 < length:
            break
        frames.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return frames


def may_pass(sent: bytes, source: int, broadcast: bool) -> bool:
    """Whether a rank may hand its guest this frame, from that peer."""
    if len(sent) < 14:
        return False
    claimed = address.rank_of_mac(sent[6:12])
    if not broadcast:
        return claimed == source and sent[:6] == address.mac(RANK)
    if claimed is None or claimed >= SIZE or not sent[0] & 1:
        return False
    return broadcast_tree.parent(RANK, claimed, SIZE) == source


def peers(kind: str) -> None:
    """Exactly the frames that may pass reach the guest, the rest is counted, and the switch works on as before."""
    job = Job(kind, drop_timeout_ms=20_000)  # ranks that are busy here take nothing meanwhile: no reason to drop
    job.meet()
    pool = Pool(job.net.chunk_bytes)
    end = job.guest._end
    job.guest.ignore()

    @settings(deadline=None, max_examples=ATTEMPTS // SIZE, database=None)
    @given(data=MESSAGES, source=st.integers(0, SIZE - 1), broadcast=st.booleans())
    def any_bytes(data: bytes, source: int, broadcast: bool) -> None:
        data = data[: pool.chunk_bytes]  # the fabric hands on none that is longer
        chunk = pool.get()
        chunk.view[: len(data)] = data
        frames = whole_frames(data)
        before = job.switch.counters.drops.total(), job.switch.counters.drops["malformed_bytes"]
        (job.switch.on_broadcast if broadcast else job.switch.on_unicast)(source, chunk, len(data))
        chunk.release()
        expected = [f for f in frames if may_pass(f, source, broadcast)]
        got = b"" if kind == "stream" else []
        while True:
            job.link.flush()
            try:
                came = end.recv(1 << 20)
            except BlockingIOError:
                break
            got += came if kind == "stream" else [came]  # type: ignore[operator]
        assert got == (packed(expected) if kind == "stream" else expected)
        drops = job.switch.counters.drops
        malformed = drops["malformed_bytes"] - before[1]
        assert malformed == len(data) - sum(len(f) + 4 for f in frames)
        sent_on = drops["peer_full"]  # broadcasts that the other ranks, who are doing the same, do not take yet
        assert drops.total() - malformed - before[0] >= len(frames) - len(expected), sent_on

    any_bytes()
    assert job.switch.counters.frames_to_guest, "nothing was ever let through"
    job.guest.read()
    job.meet()
    for rank in range(SIZE):
        if rank != RANK:
            job.guest.send(frame(RANK, rank, 71))
    others = {frame(rank, RANK, 71) for rank in range(SIZE) if rank != RANK}
    job.until(lambda: others <= set(job.guest.got), "frames as before")
    job.meet()
    for f in job.guest.got:  # beside those, broadcasts that other ranks took for honest and passed on
        assert f in others or f[0] & 1, f
    drops = job.finish()
    assert set(drops) <= {"forged", "malformed_bytes", "peer_full", "guest_full"}, drops
    assert drops["forged"] and drops["malformed_bytes"]


def any_frame(rng: random.Random) -> bytes:
    """What a guest of rank 0 may send, most of it not what it should."""
    macs = [*map(address.mac, range(SIZE + 1)), address.BROADCAST_MAC, b"\x33\x33\0\0\0\1", rng.randbytes(6)]
    source = rng.choice([address.mac(0)] * 3 + macs)
    size = rng.choice([14, 15, 42, 60, 60, 60, 1514, 9014])
    made = frame(source, rng.choice(macs), size, rng.choice([b"\x08\x00", b"\x08\x06", b"\x08\x88", b"\x81\x00"]))
    if rng.random() < 0.1:
        made = arp(0, address.ipv4(rng.randrange(SIZE + 2)), operation=rng.choice([1, 2, 3]), to=rng.choice(macs))
    if rng.random() < 0.3:  # a bit of it is wrong
        at = rng.randrange(len(made))
        made = made[:at] + bytes([made[at] ^ 1 << rng.randrange(8)]) + made[at + 1 :]
    return made if rng.random() < 0.95 else made[: rng.randrange(20)]


def honest(f: bytes) -> bool:
    """No ARP, which has rules of its own, and from rank 0's own guest."""
    return len(f) >= 14 and f[6:12] == address.mac(0) and f[12:14] != b"\x08\x06"


def guest(kind: str) -> None:
    """From rank 0's guest come its own frames, to those that they were for, and nothing else."""
    job = Job(kind, drop_timeout_ms=20_000)  # a busy machine is no reason to drop anything
    job.meet()
    rng = random.Random(SEED)
    sent = [any_frame(rng) for _ in range(2 * ATTEMPTS)]
    last = frame(0, address.BROADCAST_MAC, 99, fill=0xE0)
    lasts = [frame(0, rank, 98, fill=0xE0) for rank in range(1, SIZE)]
    if RANK == 0:
        for at in range(0, len(sent), 50):
            job.guest.send(*sent[at : at + 50])
        job.guest.send(last, *lasts)
        job.until(lambda: job.guest.sent, "all to be sent")
    else:
        job.until(lambda: {last, lasts[RANK - 1]} <= set(job.guest.got), "the last frames")
    job.meet()
    job.meet()
    if RANK == 0:
        for answer in job.guest.got:  # ARP is answered, for ranks that are
            assert answer[:6] == address.mac(0) and answer[12:14] == b"\x08\x06"
            assert answer[22:28] in map(address.mac, range(1, SIZE))
    else:
        mine = [f for f in sent if honest(f) and (f[:6] == address.mac(RANK) or f[0] & 1)]
        got = [f for f in job.guest.got if f[12:14] != b"\x08\x06"]
        assert Counter(got) == Counter([*mine, last, lasts[RANK - 1]])
        for f in job.guest.got:
            assert f[6:12] == address.mac(0) and (f[:6] == address.mac(RANK) or f[0] & 1), f
            assert f in sent or f in (last, *lasts)
    job.finish()


def any_message(rng: random.Random, source: int, to: int) -> bytes:
    """What a rank may send as a unicast to another's guest, half of it not what it should."""
    macs = [address.mac(rng.randrange(SIZE + 1)), address.BROADCAST_MAC, rng.randbytes(6)]
    frames = []
    for _ in range(rng.randrange(1, 6)):
        lies = rng.random() < 0.2
        sender = rng.choice(macs) if lies else address.mac(source)
        size = rng.choice([14, 15, 42, 60, 1514, 9014])
        frames.append(frame(sender, rng.choice(macs) if lies else address.mac(to), size, fill=rng.randrange(256)))
    data = bytearray(packed(frames))
    if rng.random() < 0.2:  # a bit of a length, a header or anything else is wrong
        data[rng.choice([rng.randrange(18), rng.randrange(len(data))])] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def messages(kind: str) -> None:
    """Exactly the frames that may pass reach the guests, each sender's in its order, and the rest is counted."""
    job = Job(kind, drop_timeout_ms=20_000)
    job.meet()
    others = [rank for rank in range(SIZE) if rank != RANK]
    sent = {
        (source, to): [any_message(rng, source, to) for rng in [random.Random(100 * source + to)] for _ in range(300)]
        for source in range(SIZE)
        for to in range(SIZE)
    }
    for each in range(300):
        requests = [body.COMM.Issend([sent[RANK, to][each], MPI.BYTE], to, fabric.UNICAST) for to in others]
        job.until(lambda requests=requests: MPI.Request.Testall(requests), "the messages to be taken")
    job.meet()
    malformed = forged = 0
    for source in others:
        frames = [f for data in sent[source, RANK] for f in whole_frames(data)]
        malformed += sum(map(len, sent[source, RANK])) - sum(len(f) + 4 for f in frames)
        expected = [f for f in frames if may_pass(f, source, False)]
        forged += len(frames) - len(expected)
        job.until(lambda s=source, e=expected: [f for f in job.guest.got if of(f, s)] == e, "its good frames, in order")
    assert all(any(of(f, source) for source in others) for f in job.guest.got)
    drops = job.finish()
    assert drops.pop("malformed_bytes") == malformed
    assert sum(drops.values()) == forged and set(drops) <= {"forged", "too_short"}, drops


def of(f: bytes, source: int) -> bool:
    return f[6:12] == address.mac(source)


if __name__ == "__main__":
    body.run_cases(globals())
