import pytest
from frames import arp as arp_frame
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.dataplane import address
from mvpnet.dataplane.arp import ArpAction, judge


@pytest.mark.parametrize("size", range(1, 101))
def test_every_other_rank_of_the_world_is_answered_for(size: int) -> None:
    rank = size // 2
    for asked in range(size):
        verdict, reply = judge(arp_frame(rank, address.ipv4(asked)), rank, size)
        if asked == rank:
            assert verdict is ArpAction.gratuitous
            continue
        assert verdict is ArpAction.reply
        assert reply[:12] == address.mac(rank) + address.mac(asked)
        assert reply[12:22].hex() == "0806" + "0001" + "0800" + "0604" + "0002"
        assert reply[22:32] == address.mac(asked) + address.ipv4(asked)
        assert reply[32:] == address.mac(rank) + address.ipv4(rank)
    assert judge(arp_frame(rank, address.ipv4(size)), rank, size) == (ArpAction.travel, b"")


@pytest.mark.parametrize(
    ("frame", "verdict"),
    [
        (arp_frame(1, address.SHUTDOWN_IPV4), ArpAction.shutdown),
        (arp_frame(1, address.SHUTDOWN_IPV4, operation=2), ArpAction.travel),
        (arp_frame(1, address.ipv4(1)), ArpAction.gratuitous),
        (arp_frame(1, address.ipv4(1), operation=2), ArpAction.gratuitous),
        (arp_frame(1, address.ipv4(1), sender=bytes(4)), ArpAction.gratuitous),  # a probe for duplicates
        (arp_frame(1, bytes([192, 168, 1, 2])), ArpAction.travel),
        (arp_frame(1, address.ipv4(2), sender=address.SHUTDOWN_IPV4), ArpAction.forged),
        (arp_frame(1, address.ipv4(2), sender=bytes([10, 255, 255, 255])), ArpAction.forged),
        (arp_frame(1, address.ipv4(2), sender=bytes([10, 0, 0, 0])), ArpAction.forged),
        (arp_frame(1, bytes([10, 0, 0, 0])), ArpAction.unknown),
        (arp_frame(1, bytes([10, 255, 255, 255])), ArpAction.unknown),
        (arp_frame(1, address.ipv4(2), sender=address.ipv4(3)), ArpAction.forged),
        (arp_frame(1, address.ipv4(2), sender_mac=address.mac(3)), ArpAction.forged),
        (arp_frame(1, address.ipv4(2))[:41], ArpAction.malformed),
        (arp_frame(1, address.ipv4(2)).replace(b"\x08\x00\x06\x04", b"\x86\xdd\x06\x10"), ArpAction.malformed),
    ],
)
def test_what_is_not_answered(frame: bytes, verdict: ArpAction) -> None:
    assert judge(frame, 1, 4) == (verdict, b"")


@pytest.mark.parametrize("virtual", [bytes([192, 0, 2, 7]), bytes([10, 0, 0, 5]), bytes([10, 200, 0, 7])])
@pytest.mark.parametrize(
    ("sender", "target", "operation"),
    [
        ("virtual", "virtual", 1),  # an announcement
        ("virtual", "virtual", 2),  # the same as a reply, as of arping -A
        ("none", "virtual", 1),  # a probe for a duplicate
        ("own", "virtual", 1),
        ("virtual", "other virtual", 1),
        ("virtual", "other rank", 2),
        ("own", "other rank", 2),
    ],
)
def test_an_address_that_follows_from_no_rank_is_left_to_the_guests(
    virtual: bytes, sender: str, target: str, operation: int
) -> None:
    named = {
        "virtual": virtual,
        "other virtual": virtual[:3] + b"\x09",
        "none": bytes(4),
        "own": address.ipv4(1),
        "other rank": address.ipv4(2),
    }
    frame = arp_frame(1, named[target], sender=named[sender], operation=operation)
    assert judge(frame, 1, 4) == (ArpAction.travel, b"")


def test_a_virtual_address_may_ask_for_a_rank() -> None:
    verdict, reply = judge(arp_frame(1, address.ipv4(2), sender=bytes([192, 0, 2, 7])), 1, 4)
    assert verdict is ArpAction.reply
    assert reply[28:32] == address.ipv4(2)
    assert reply[32:] == address.mac(1) + bytes([192, 0, 2, 7])


@given(st.binary(min_size=28, max_size=60))
def test_any_bytes_are_judged_and_only_the_own_guest_is_answered(body: bytes) -> None:
    verdict, reply = judge(address.BROADCAST_MAC + address.mac(1) + b"\x08\x06" + body, 1, 4)
    assert (verdict is ArpAction.reply) == bool(reply)
    assert not reply or reply[:6] == address.mac(1)
