"""Frames for tests, and the format that they have on a stream link and between ranks."""

from __future__ import annotations

from collections.abc import Iterable

from mvpnet.dataplane import address

IPV4 = b"\x08\x00"


def frame(
    source: int | bytes, to: int | bytes, size_bytes: int = 60, ethertype: bytes = IPV4, fill: int = 0x5A
) -> bytes:
    """An Ethernet frame between two ranks, or MACs."""
    head = _mac(to) + _mac(source) + ethertype
    return head + bytes([fill]) * (size_bytes - len(head))


def arp(
    rank: int,
    target: bytes,
    *,
    operation: int = 1,
    sender_mac: bytes | None = None,
    sender: bytes | None = None,
    to: int | bytes = address.BROADCAST_MAC,
) -> bytes:
    """An ARP frame of a guest, a plain request unless told otherwise, padded to Ethernet's 60 bytes."""
    body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
    body += (sender_mac or address.mac(rank)) + (sender or address.ipv4(rank)) + bytes(6) + target
    return (_mac(to) + address.mac(rank) + b"\x08\x06" + body).ljust(60, b"\0")


def packed(frames: Iterable[bytes]) -> bytes:
    return b"".join(len(f).to_bytes(4, "big") + f for f in frames)


def unpacked(data: bytes) -> list[bytes]:
    """The frames in `data`, which must end with a whole one."""
    frames, at = [], 0
    while at < len(data):
        after = at + 4 + int.from_bytes(data[at : at + 4], "big")
        assert after <= len(data), "a frame is cut off"
        frames.append(data[at + 4 : after])
        at = after
    return frames


def _mac(who: int | bytes) -> bytes:
    return address.mac(who) if isinstance(who, int) else who
