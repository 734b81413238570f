"""Addresses derived from a rank: MAC and IPv4 address, host name, and the reserved MACs. They never change.

A guest prepared for one release, or for the C program mvpnet, must run under any other. These values are therefore part
of the public contract.
"""

from __future__ import annotations

from typing import Final

MAC_PREFIX: Final = b"\x52\x55"  # locally administered, unicast (IEEE 802: bit 1 of the first byte set, bit 0 not)
USER_MAC_PREFIX: Final = b"\x52\x56"  # of the NIC on qemu's user network
BROADCAST_MAC: Final = b"\xff" * 6
NETWORK: Final = "10.0.0.0/8"
BROADCAST_ADDRESS: Final = "10.255.255.255"

SHUTDOWN_IPV4: Final = bytes([10, 255, 255, 254])
SHUTDOWN_ADDRESS: Final = "10.255.255.254"
SHUTDOWN_TYPE: Final = b"\x08\x88"
SHUTDOWN_FRAME: Final = (BROADCAST_MAC + MAC_PREFIX + bytes(4) + SHUTDOWN_TYPE + b"mvpnet").ljust(68, b"\0")


def mac(rank: int) -> bytes:
    """Return the six bytes of the MAC address of a rank's guest."""
    return MAC_PREFIX + rank.to_bytes(4, "big")


def user_mac(world_size: int) -> bytes:
    """Return the MAC of every guest's NIC on the user network, which tells the guest the world size."""
    return USER_MAC_PREFIX + world_size.to_bytes(4, "big")


def mac_text(mac_bytes: bytes) -> str:
    return mac_bytes.hex(":")


def rank_of_mac(mac_bytes: bytes) -> int | None:
    """Return the rank whose guest has this MAC, even beyond the world size; None for any other MAC."""
    return int.from_bytes(mac_bytes[2:6], "big") if mac_bytes[:2] == MAC_PREFIX else None


def ipv4(rank: int) -> bytes:
    """Return the four bytes of a guest's IPv4 address.

    The host part is rank + 1, as some old kernels take 10.0.0.0 for a broadcast address.
    """
    return b"\x0a" + (rank + 1).to_bytes(3, "big")


def ipv4_text(rank: int) -> str:
    return ".".join(map(str, ipv4(rank)))


def rank_of_ipv4(address: bytes) -> int | None:
    """Return the rank with this address, even beyond the world size; None outside 10/8 and for 10.0.0.0."""
    number = int.from_bytes(address[1:4], "big")
    return number - 1 if address[0] == 10 and number else None


def host_name(rank: int) -> str:
    return f"n{rank:04d}"
