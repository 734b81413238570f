"""Answer a guest's ARP requests for other guests locally (RFC 826): their addresses follow from their ranks.

Packets about any other address travel as on any Ethernet: other networks, and what of 10/8 belongs to no rank.

An ARP packet for Ethernet and IPv4, behind the 14 bytes of Ethernet header:

    hardware type 1, protocol 0x0800, lengths 6 and 4, operation   8 bytes
    sender MAC 6, sender IPv4 4, target MAC 6, target IPv4 4
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from mvpnet.dataplane import address

ETHERTYPE: Final = b"\x08\x06"
FRAME_BYTES: Final = 42
_ETHERNET_IPV4: Final = b"\x00\x01\x08\x00\x06\x04"
_REQUEST: Final = b"\x00\x01"
_REPLY: Final = b"\x00\x02"
_LAST_IPV4: Final = bytes(map(int, address.BROADCAST_ADDRESS.split(".")))


class ArpAction(Enum):
    """Action to take on a guest's ARP frame."""

    reply = "reply"  # answer it locally
    shutdown = "shutdown"  # a request for the shutdown address
    travel = "travel"  # about an address that follows from no rank: forward it like any other frame
    gratuitous = "arp_gratuitous"  # announces or probes the address of the sender's rank: known to all ranks already
    unknown = "arp_unknown_address"  # asks for 10.0.0.0 or 10.255.255.255, which no machine can have
    forged = "arp_forged"  # claims the MAC or the address of another machine, or an address that none can have
    malformed = "arp_malformed"


def judge(frame: bytes, rank: int, world_size: int) -> tuple[ArpAction, bytes]:
    """Classify an ARP frame from the guest of `rank`.

    Args:
        frame: Frame from its Ethernet header on. It may be padded, as Ethernet pads to 60 bytes.
        rank: Rank whose guest sent the frame.
        world_size: Number of ranks.

    Returns:
        The action, and the reply frame for `ArpAction.reply` (empty for any other action).
    """
    if len(frame) < FRAME_BYTES or frame[14:20] != _ETHERNET_IPV4:
        return ArpAction.malformed, b""
    operation, sender_mac, sender, target = frame[20:22], frame[22:28], frame[28:32], frame[38:42]
    own = address.ipv4(rank)
    if sender_mac != address.mac(rank) or (sender != own and _is_taken(sender, world_size)):
        return ArpAction.forged, b""
    if target == own:
        # An announcement, or a probe for a duplicate of the guest's own address (RFC 5227): a reply would report one.
        return ArpAction.gratuitous, b""
    if operation != _REQUEST or not _is_taken(target, world_size):
        return ArpAction.travel, b""
    if target == address.SHUTDOWN_IPV4:
        return ArpAction.shutdown, b""
    asked = address.rank_of_ipv4(target)
    if asked is None or target == _LAST_IPV4:
        return ArpAction.unknown, b""
    return ArpAction.reply, _reply(address.mac(asked), target, sender_mac, sender)


def _is_taken(ipv4: bytes, world_size: int) -> bool:
    """Return whether no guest may give itself this address: a rank has it, or it is one of 10/8's reserved ones."""
    if ipv4[0] != address.ipv4(0)[0]:
        return False
    rank = address.rank_of_ipv4(ipv4)
    return rank is None or rank < world_size or ipv4 in (address.SHUTDOWN_IPV4, _LAST_IPV4)


def _reply(mac: bytes, ipv4: bytes, to_mac: bytes, to_ipv4: bytes) -> bytes:
    return b"".join((to_mac, mac, ETHERTYPE, _ETHERNET_IPV4, _REPLY, mac, ipv4, to_mac, to_ipv4))
