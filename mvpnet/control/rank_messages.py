"""What rank 0's control server asks of a rank, and what a rank replies.

A request has a number, by which its replies are told apart. An answer that is too long for one control message comes
in parts. `job.messages` encodes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvpnet.control.protocol import Message


@dataclass(frozen=True)
class StatusRequest:
    """How is the guest?"""


@dataclass(frozen=True)
class QmpRequest:
    """Execute a QMP command."""

    command: Mapping[str, Any]  # {"execute": NAME, "arguments": {…}}


@dataclass(frozen=True)
class AttachRequest:
    """Let a client take part in the guest's console."""


@dataclass(frozen=True)
class TypeRequest:
    """Type into the console."""

    data: str  # as protocol.data_text writes bytes


@dataclass(frozen=True)
class TakenRequest:
    """The client has taken so much of the console's output."""

    size_bytes: int


@dataclass(frozen=True)
class LeaveRequest:
    """The client leaves the console."""


@dataclass(frozen=True)
class SaveRequest:
    """One step of a save; see `snapshot.agent`."""

    step: str
    id: str
    part: str  # the folder while the save is made
    folder: str  # what it will be


RankRequest = StatusRequest | QmpRequest | AttachRequest | TypeRequest | TakenRequest | LeaveRequest | SaveRequest


@dataclass(frozen=True)
class Answer:
    """The whole answer: {"ok": …} or {"error": {"message": …}}."""

    content: Message


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer's JSON text."""

    text: str


@dataclass(frozen=True)
class AnswerEnd:
    """The parts that were sent make the answer."""


@dataclass(frozen=True)
class ConsoleOutput:
    """What happens at the console that a client is attached to: {"data" | "typed" | "lost" | "end": …}."""

    content: Message


RankReply = Answer | AnswerPart | AnswerEnd | ConsoleOutput


@dataclass(frozen=True)
class ControlRequest:
    """A request of rank 0's, by its number."""

    number: int
    what: RankRequest


@dataclass(frozen=True)
class ControlReply:
    """What a rank replies to the request of that number."""

    number: int
    what: RankReply


TYPES: tuple[type, ...] = (
    StatusRequest,
    QmpRequest,
    AttachRequest,
    TypeRequest,
    TakenRequest,
    LeaveRequest,
    SaveRequest,
    Answer,
    AnswerPart,
    AnswerEnd,
    ConsoleOutput,
    ControlRequest,
    ControlReply,
)
