"""Route frames by length and Ethernet header alone: the resolvers for `frame.Splitter`.

A route is a rank, or one of the negative numbers below. Outbound, from the guest, it is the destination rank; inbound,
from a peer, it is the source rank. The result for a header is cached. So a resolver may be slow, and must depend on
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mvpnet.dataplane import address, arp

# Outbound. Frames above the MTU have their own routes, so that they are counted without looking at each.
ABOVE_MTU: Final = 1 << 32  # added to a rank
BROADCAST: Final = -10  # broadcast or multicast
ARP: Final = -11
SHUTDOWN: Final = -12  # possibly: the frame has to be inspected
SOURCE_NOT_OWN: Final = -13
NO_SUCH_RANK: Final = -14
TO_ITSELF: Final = -15
UNKNOWN_DESTINATION: Final = -16
# Inbound.
FORGED: Final = -20

_SHUTDOWN_HEAD: Final = len(address.SHUTDOWN_FRAME).to_bytes(4, "big") + address.SHUTDOWN_FRAME[:14]
_VLAN_TAG_BYTES: Final = 4  # not counted by an MTU (IEEE 802.1Q)


def longest_frame_bytes(mtu_bytes: int) -> int:
    """Return the length of the longest frame that an MTU allows, with Ethernet header and VLAN tag."""
    return mtu_bytes + 14 + _VLAN_TAG_BYTES


def outbound(rank: int, world_size: int, mtu_bytes: int) -> Callable[[bytes], int]:
    """Return the resolver for frames that the guest of `rank` sent."""
    own = address.mac(rank)
    longest = longest_frame_bytes(mtu_bytes)

    def resolve(head: bytes) -> int:
        to, source, ethertype = head[4:10], head[10:16], head[16:18]
        if head == _SHUTDOWN_HEAD:  # its source claims to be rank 0, whichever guest sends it
            return SHUTDOWN
        if source != own:
            return SOURCE_NOT_OWN
        if ethertype == arp.ETHERTYPE:
            return ARP
        if to[0] & 1:
            return BROADCAST
        peer = address.rank_of_mac(to)
        if peer is None:
            return UNKNOWN_DESTINATION
        if peer == rank:
            return TO_ITSELF
        if peer >= world_size:
            return NO_SUCH_RANK
        return peer + ABOVE_MTU if int.from_bytes(head[:4], "big") > longest else peer

    return resolve


def inbound_unicast(rank: int) -> Callable[[bytes], int]:
    """Return the resolver for unicasts to `rank`: the rank whose guest is the source, or FORGED."""
    own = address.mac(rank)

    def resolve(head: bytes) -> int:
        source = address.rank_of_mac(head[10:16])
        return FORGED if source is None or head[4:10] != own else source

    return resolve


def inbound_broadcast(world_size: int) -> Callable[[bytes], int]:
    """Return the resolver for broadcasts from the tree: the root, or FORGED."""

    def resolve(head: bytes) -> int:
        root = address.rank_of_mac(head[10:16])
        return FORGED if root is None or root >= world_size or not head[4] & 1 else root

    return resolve
