"""Answer a guest's ARP requests locally (RFC 826): every guest's address follows from its rank.

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


class ArpAction(Enum):
    """Action to take on a guest's ARP frame."""

    reply = "reply"  # answer it locally
    shutdown = "shutdown"  # a request for the shutdown address
    travel = "travel"  # for another network: forward it like any other frame
    gratuitous = "arp_gratuitous"  # announces or probes the sender's own address: known to all ranks already
    unknown = "arp_unknown_address"  # asks for an address that no rank of this world has
    forged = "arp_forged"  # claims to be from another machine
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
    if sender_mac != address.mac(rank) or (sender[0] == 10 and sender != own):
        return ArpAction.forged, b""
    if sender == target or target == own:
        # The second case is a probe for a duplicate of the guest's own address (RFC 5227): a reply would report one.
        return ArpAction.gratuitous, b""
    if operation != _REQUEST or target[0] != 10:
        return ArpAction.travel, b""
    if target == address.SHUTDOWN_IPV4:
        return ArpAction.shutdown, b""
    asked = address.rank_of_ipv4(target)
    if asked is None or asked >= world_size:
        return ArpAction.unknown, b""
    return ArpAction.reply, _reply(address.mac(asked), target, sender_mac, sender)


def _reply(mac: bytes, ipv4: bytes, to_mac: bytes, to_ipv4: bytes) -> bytes:
    return b"".join((to_mac, mac, ETHERTYPE, _ETHERNET_IPV4, _REPLY, mac, ipv4, to_mac, to_ipv4))
