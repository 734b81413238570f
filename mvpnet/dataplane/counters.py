"""Count a rank's traffic in plain integers, for stats.json and for diagnosis of lost frames."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Counters:
    """Frames, bytes of Ethernet frame (without the 4-byte length before each), and drops by reason.

    The reasons of `drops`, which count frames unless stated otherwise:

    from the own guest   too_short, too_long, source_not_own, no_such_rank, to_itself, unknown_destination,
                         shutdown_ignored, and those of `arp.ArpAction`
    to a peer            peer_full: the peer did not take messages for net.drop_timeout_ms; job_ended: this rank has
                         ended its part in the job
    from a peer          forged: not from that peer's guest, not for this rank, or down the wrong branch of the tree;
                         malformed_bytes: bytes that cannot be cut into frames; unknown_message: an undefined tag;
                         too_long_message: longer than net.chunk_bytes (both count messages)
    to the own guest     guest_full: the guest did not read for net.drop_timeout_ms; guest_gone: there is no guest
    """

    __slots__ = (
        "arp_replies",
        "broadcast_frames",
        "bytes_by_destination",
        "bytes_from_guest",
        "bytes_to_guest",
        "doorbells_rung",
        "drops",
        "frames_above_mtu",
        "frames_from_guest",
        "frames_to_guest",
        "messages_received",
        "messages_sent",
        "sleeps",
    )

    def __init__(self) -> None:
        self.frames_from_guest = 0  # read from the link, including dropped ones
        self.bytes_from_guest = 0
        self.frames_to_guest = 0  # written to the link
        self.bytes_to_guest = 0
        self.frames_above_mtu = 0  # from the guest, longer than net.mtu allows; they are forwarded all the same
        self.broadcast_frames = 0  # broadcast and multicast from the own guest that was sent down the tree
        self.arp_replies = 0  # replies to requests of the own guest
        self.messages_sent = 0
        self.messages_received = 0
        self.doorbells_rung = 0
        self.sleeps = 0  # number of times the loop went to sleep
        self.drops: Counter[str] = Counter()
        self.bytes_by_destination: Counter[int] = Counter()  # unicast from the own guest, by rank

    def as_dict(self) -> dict[str, Any]:
        """Return a copy, ready for JSON. The keys of `bytes_by_destination` are ranks as text."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        plain["drops"] = dict(self.drops)
        plain["bytes_by_destination"] = {str(rank): n for rank, n in self.bytes_by_destination.items()}
        return plain
