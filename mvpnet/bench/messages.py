"""Orders of a bench's rank 0 for the guests, and their answers: between ranks, and between rank and guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mvpnet.util.tagged_json import TaggedJson


@dataclass(frozen=True)
class Reset:
    """Count from here on."""


@dataclass(frozen=True)
class ReportCounts:
    """Report the counts."""


@dataclass(frozen=True)
class Flood:
    """Send as many frames as possible, to each rank in turn."""

    to: Sequence[int] | None  # None: broadcast
    frame_bytes: int
    seconds: float  # 0: one round


@dataclass(frozen=True)
class Ping:
    """Send a frame to another guest and back, repeatedly."""

    to: int
    frame_bytes: int
    seconds: float
    gap_s: float


Order = Reset | ReportCounts | Flood | Ping


@dataclass(frozen=True)
class Counted:
    """Counts of received frames. `seconds` lie between the first and the last of its `timed_frames`."""

    frames: int = 0
    sources: int = 0
    timed_frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Flooded:
    """Counts of sent frames."""

    sent: int
    seconds: float


@dataclass(frozen=True)
class Pinged:
    """Round trips: their number, with the lost ones, and their times; None where there were too few."""

    pings: int
    lost: int
    p50_us: float | None
    p99_us: float | None
    max_us: float | None


@dataclass(frozen=True)
class Failed:
    """The reason why a guest cannot answer."""

    reason: str


Outcome = Counted | Flooded | Pinged | Failed


@dataclass(frozen=True)
class Answer:
    """A guest's answer, with its rank's resource usage so far."""

    outcome: Outcome
    cpu_s: float = 0.0
    rss_mb: float = 0.0
    dropped: int = 0  # frames


@dataclass(frozen=True)
class GoHome:
    """The bench is over."""


Message = Order | Outcome | Answer | GoHome

_JSON = TaggedJson(
    (Reset, ReportCounts, Flood, Ping, Counted, Flooded, Pinged, Failed, Answer, GoHome), nested=["outcome"]
)


def encode(message: Message) -> bytes:
    """Write a message as JSON text."""
    return _JSON.encode(message)


def decode(text: bytes) -> Message:
    """Read what `encode` wrote."""
    return cast(Message, _JSON.decode(text))
