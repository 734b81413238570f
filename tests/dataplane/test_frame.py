import pytest
from frames import frame, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from mvpnet.dataplane import address, routes
from mvpnet.dataplane.frame import BROKEN, MAX_FRAME_BYTES, TOO_SHORT, Run, Splitter

WORLD = 300
RESOLVE = routes.outbound(1, WORLD, 1500)

FRAMES = st.builds(
    frame,
    st.sampled_from([1, 1, 1, 2]),
    st.one_of(st.integers(0, 3), st.sampled_from([299, 300, address.BROADCAST_MAC, address.user_mac(2)])),
    st.sampled_from([14, 17, 18, 60, 60, 60, 1514, 9014]),
)


def split(data: bytes) -> tuple[list[Run], int]:
    return Splitter(RESOLVE).split(bytearray(data), len(data))


def one_by_one(frames: list[bytes]) -> list[Run]:
    """What `split` is to find, worked out the slow way."""
    runs: list[Run] = []
    at = 0
    for f in frames:
        head = packed([f])
        to = RESOLVE(head[:18]) if len(f) >= 14 else TOO_SHORT
        if runs and runs[-1][0] == to:
            runs[-1] = (to, runs[-1][1], at + len(head), runs[-1][3] + 1)
        else:
            runs.append((to, at, at + len(head), 1))
        at += len(head)
    return runs


@given(st.lists(st.tuples(FRAMES, st.integers(1, 80)), max_size=8))
def test_runs_are_those_found_one_by_one(kinds: list[tuple[bytes, int]]) -> None:
    frames = [f for f, times in kinds for _ in range(times)]
    data = packed(frames)
    assert split(data) == (one_by_one(frames), len(data))


def test_every_byte_boundary() -> None:
    frames = [
        frame(1, 0),
        frame(1, 2),
        frame(1, 2, 14),
        b"short",
        b"",
        frame(1, address.BROADCAST_MAC, 99),
        frame(1, 3),
    ]
    data = packed(frames)
    ends = [len(packed(frames[:n])) for n in range(len(frames) + 1)]
    for cut in range(len(data) + 1):
        runs, stop = split(data[:cut])
        whole = max(end for end in ends if end <= cut)
        assert stop == whole
        assert sum(run[3] for run in runs) == ends.index(whole)
        rest, _ = split(data[stop:])
        assert sum(run[3] for run in rest) == len(frames) - ends.index(whole)


@pytest.mark.parametrize("position", [1, 2, 7, 8, 9, 31, 32, 33, 60, 99])
@pytest.mark.parametrize("byte", range(18))
def test_a_header_that_differs_in_one_byte_ends_the_run(position: int, byte: int) -> None:
    frames = [frame(1, 2, 1024, fill=0) for _ in range(100)]
    data = bytearray(packed(frames))
    changed = position * 1028 + byte
    if byte < 4:  # a length: still whole frames, but fewer of them
        data[changed] = 0xFF if byte < 2 else data[changed] ^ 1
    else:
        data[changed] ^= 1
    runs, _ = Splitter(RESOLVE).split(data, len(data))
    if byte < 2:
        assert runs == [(2, 0, position * 1028, position), (BROKEN, position * 1028, position * 1028, 0)]
    elif byte in (16, 17):  # another type of packet for the same rank is no matter of ours, ARP is
        assert runs[0][0] == 2
    else:
        assert runs[0] == (2, 0, position * 1028 + (0 if byte >= 4 else runs[0][2] - position * 1028), runs[0][3])
        assert runs[0][3] >= position


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_a_broken_length_is_seen_as_soon_as_it_is_there(length: int) -> None:
    good = packed([frame(1, 2)])
    assert split(good + length.to_bytes(4, "big")) == ([(2, 0, 64, 1), (BROKEN, 64, 64, 0)], 64)
    assert split(length.to_bytes(4, "big") + good) == ([(BROKEN, 0, 0, 0)], 0)


def test_the_longest_frame_is_fine() -> None:
    data = packed([frame(1, 2, MAX_FRAME_BYTES)])
    assert split(data) == ([(2 + routes.ABOVE_MTU, 0, len(data), 1)], len(data))


@given(st.binary(max_size=400))
def test_any_bytes_are_covered_without_gap_or_overlap(data: bytes) -> None:
    runs, stop = split(data)
    at = 0
    for run in runs:
        assert run[1] == at
        at = run[2]
    assert at == stop <= len(data)


@settings(max_examples=20)
@given(st.integers(8190, 8200))
def test_more_headers_than_are_remembered(count: int) -> None:
    frames = [frame(1, 0, 14, ethertype=n.to_bytes(2, "big")) for n in range(0x1000, 0x1000 + count)]
    data = packed(frames)
    assert split(data) == ([(0, 0, len(data), count)], len(data))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(1, 2), 2),
        (frame(1, 2, 1518), 2),
        (frame(1, 2, 1519), 2 + routes.ABOVE_MTU),
        (frame(1, 299), 299),
        (frame(1, 300), routes.NO_SUCH_RANK),
        (frame(1, 2**32 - 1), routes.NO_SUCH_RANK),
        (frame(1, 1), routes.TO_ITSELF),
        (frame(0, 2), routes.SOURCE_NOT_OWN),
        (frame(b"\x52\x54\x00\x12\x34\x56", 2), routes.SOURCE_NOT_OWN),
        (frame(1, address.user_mac(2)), routes.UNKNOWN_DESTINATION),
        (frame(1, address.BROADCAST_MAC), routes.BROADCAST),
        (frame(1, b"\x33\x33\x00\x00\x00\x01"), routes.BROADCAST),
        (frame(1, address.BROADCAST_MAC, ethertype=b"\x08\x06"), routes.ARP),
        (frame(1, 2, ethertype=b"\x08\x06"), routes.ARP),
        (address.SHUTDOWN_FRAME, routes.SHUTDOWN),
    ],
)
def test_outbound_routes(sent: bytes, expected: int) -> None:
    assert RESOLVE(packed([sent])[:18]) == expected


def test_inbound_routes() -> None:
    unicast = routes.inbound_unicast(1)
    assert unicast(packed([frame(7, 1)])[:18]) == 7
    assert unicast(packed([frame(7, 2)])[:18]) == routes.FORGED
    assert unicast(packed([frame(address.user_mac(7), 1)])[:18]) == routes.FORGED
    broadcast = routes.inbound_broadcast(8)
    assert broadcast(packed([frame(7, address.BROADCAST_MAC)])[:18]) == 7
    assert broadcast(packed([frame(8, address.BROADCAST_MAC)])[:18]) == routes.FORGED
    assert broadcast(packed([frame(7, 1)])[:18]) == routes.FORGED
